package configs

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
)

// The payload of upstream's guide is read, and so is what upstream would take.
func TestRead(t *testing.T) {
	text, err := os.ReadFile("testdata/payload.json")
	if err != nil {
		t.Fatal(err)
	}
	got, notes, err := ReadInterfaces(text)
	var want []Interface
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if err != nil || len(notes) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, notes %q, error %v\nwant %+v", got, notes, err, want)
	}
	program := func(fields string) string { return `[{"bpf_programs":{"xdp_ingress":[{` + fields + `}]}}]` }
	const at = "[0].bpf_programs.xdp_ingress[0]."
	for _, c := range []struct{ body, notes, err string }{
		{body: `[]`},
		{body: program(`"NAME":"a","Seq_Id":3`)},
		{body: program(`"start_arg":{},"x":1`), notes: at + "start_arg is ignored: there is no such field, did you mean \"start_args\"?\n" + at + "x is ignored: there is no such field"},
		{body: ``, err: "unexpected end of JSON input"},
		{body: `[`, err: "unexpected end of JSON input"},
		{body: `[{]`, err: "invalid character ']' looking for beginning of object key string"},
		{body: "- iface: eth0\n", err: "invalid character ' ' in numeric literal"},
		{body: `{}`, err: "must be a list, not an object"},
		{body: `[{"iface":"a","iface":"b"}]`, err: `"iface"`},
		{body: `[1]`, err: "[0]: must be an object, not the number 1"},
		{body: program(`"seq_id":"1","user_program_daemon":1,"memory":1.5,"cpu":1e3,"name":7`), err: at + "name: must be a string, not the number 7\n" +
			at + "seq_id: must be a whole number, not the string \"1\"\n" + at + "user_program_daemon: must be true or false, not the number 1\n" +
			at + "cpu: must be a whole number, not the number 1e3\n" + at + "memory: must be a whole number, not the number 1.5"},
		{body: program(`"start_args":{"verbose":2}`), err: at + "start_args.verbose: must be a string, not the number 2"},
		{body: program(`"map_args":{"rl_ports_map":"8080,8081"}`), err: at + "map_args: must be a list, not an object"},
		{body: program(`"name":"a","NAME":"b"`), err: at + "name: is there twice, in other letters"},
		{body: `[{"bpf_programs":{"xdp_ingress":[null]}}]`, err: "[0].bpf_programs.xdp_ingress[0]: must be a program, not null"},
	} {
		_, notes, err := ReadInterfaces([]byte(c.body))
		var e *Error
		if c.err == "" && err != nil || c.err != "" && (!errors.As(err, &e) || e.Reason != Malformed ||
			!strings.HasPrefix(err.Error(), "failed to unmarshal payload: ") || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: error\n%v\nwant\n%s", c.body, err, c.err)
		}
		if got := strings.Join(notes, "\n"); err == nil && got != c.notes {
			t.Errorf("%s: notes\n%s\nwant\n%s", c.body, got, c.notes)
		}
	}
	names, _, err := ReadNames([]byte(`[{"host_name":"h","iface":"eth0","bpf_programs":{"tc_egress":["a","b"],"probes":[]}}]`))
	if err != nil || !reflect.DeepEqual(names, []InterfaceNames{{HostName: "h", Iface: "eth0", Programs: &Names{TCEgress: []string{"a", "b"}, Probes: []string{}}}}) {
		t.Errorf("names: %+v, %v", names, err)
	}
	if r, _, err := ReadRestart([]byte(`{"hostname":"h","version":"v2.1.0"}`)); err != nil || *r != (Restart{"h", "v2.1.0"}) {
		t.Errorf("restart: %+v, %v", r, err)
	}
}

// Whatever is read is what encoding/json, which upstream reads with, makes of it.
func FuzzRead(f *testing.F) {
	text, err := os.ReadFile("testdata/payload.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`[{"Host_Name":"h","iface":"e","bpf_programs":{"probes":[{"cpu":-1,"config_args":{"a":"b"}}],"tc_egress":[],"tc_ingress":null}}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, _, err := ReadInterfaces(body)
		if err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) || e.Reason != Malformed {
				t.Errorf("error %v", err)
			}
			return
		}
		var want []Interface
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("read %+v, which encoding/json refuses: %v", got, err)
		}
		if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
