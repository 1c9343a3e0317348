package inspect

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l3af/internal/kallsyms"
	"l3af/internal/testenv"
	"l3af/internal/testenv/zoo"
)

// What a link says is what /proc says of its descriptor, with other names.
func TestLinksAreFdinfos(t *testing.T) {
	testenv.Clean(t)
	z := zoo.Open(t)
	z.Attach(t)
	for name, l := range z.Links {
		t.Run(name, func(t *testing.T) {
			info, err := l.Info()
			if err != nil {
				t.Fatal(err)
			}
			list, err := Links(Selector{By: ID, ID: uint32(info.ID)}, Options{})
			if err != nil || len(list) != 1 {
				t.Fatalf("%d links, %v", len(list), err)
			}
			text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", l.(interface{ FD() int }).FD()))
			if err != nil {
				t.Fatal(err)
			}
			ours := flat(t, list[0])
			checked := 0
			for key, want := range fdinfoOfLink(string(text)) {
				checked++
				if got := ours[key]; got != want {
					t.Errorf("%s: %q, /proc says %q\n%s%v", key, got, want, text, ours)
				}
			}
			if checked < 2 || ours["type"] != string(LinkType(info.Type)) {
				t.Errorf("%d fields compared of %v", checked, ours)
			}
		})
	}
}

// flat gives the members of a link as texts, those of its functions with a number.
func flat(t testing.TB, l Link) map[string]string {
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	texts := map[string]string{}
	for k, v := range m {
		texts[k] = fmt.Sprint(v)
	}
	funcs, _ := m["funcs"].([]any)
	for i, f := range funcs {
		for k, v := range f.(map[string]any) {
			texts[fmt.Sprintf("%s %d", k, i)] = fmt.Sprint(v)
		}
	}
	return texts
}

// fdinfoOfLink reads the lines that have a name of ours.
func fdinfoOfLink(text string) map[string]string {
	fields := map[string]string{}
	names := map[string]string{"link_id": "id", "hooknum": "hook", "uprobe_cnt": "func_cnt", "name": "file"}
	same := " prog_id ifindex map_id target_name cookie tp_name cgroup_id netns_ino path pid pf prio offset ref_ctr_offset "
	attachType, perf := "", strings.Contains(text, "event_type:")
	funcs := false
	n := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "cookie\t") { // the head of a table
			funcs = true
			continue
		}
		if f := strings.Fields(line); funcs && len(f) == 3 {
			for i, k := range []string{"cookie", "offset", "ref_ctr_offset"} {
				fields[fmt.Sprintf("%s %d", k, n)] = decimal(f[i])
			}
			n++
			continue
		}
		words := strings.Fields(line) // pf: 2 hooknum: 1 prio: -50
		for i := 0; i+1 < len(words); i += 2 {
			key, value := strings.TrimSuffix(words[i], ":"), words[i+1]
			switch {
			case key == "attach_type":
				attachType = value
			case key == "tp_name" && perf:
				fields["tracepoint"] = value
			case names[key] != "":
				fields[names[key]] = value
			case strings.Contains(same, " "+key+" "):
				fields[key] = decimal(value)
			}
			if i == 0 && len(words) > 2 && words[2][0] == '(' {
				break // attach_type: 46 (ingress)
			}
		}
	}
	if cookie, ok := fields["cookie"]; ok && perf {
		fields["bpf_cookie"] = cookie
	}
	if n, err := strconv.Atoi(attachType); err == nil {
		fields["attach_type"] = string(AttachType(ebpf.AttachType(n)))
	}
	return fields
}

func decimal(s string) string {
	if n, err := strconv.ParseInt(s, 0, 64); err == nil {
		return strconv.FormatInt(n, 10)
	}
	return s
}

// A link that is detached stays, and says so.
func TestDetachedLink(t *testing.T) {
	testenv.Clean(t)
	testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
	l, err := link.AttachXDP(link.XDPOptions{Program: loadXDP(t, "two", 2), Interface: testenv.Interface(t, "", "v0").Index})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"v0", "(detached)"} {
		list, err := Links(Selector{By: ID, ID: uint32(info.ID)}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if of := list[0].Of.(*InterfaceLink); of.Devname != want {
			t.Errorf("got %+v, want %s", of, want)
		}
		testenv.DeleteLink(t, "", "v0")
	}
}

// Events have the names of perf list.
func TestEventNames(t *testing.T) {
	for want, e := range map[string][2]uint64{
		"hardware cpu-cycles":          {0, 0},
		"software cgroup-switches":     {1, 11},
		"software 99":                  {1, 99},
		"tracepoint 312":               {2, 312},
		"hw-cache L1-dcache-load-refs": {3, 0},
		"hw-cache LLC-store-misses":    {3, 2 | 1<<8 | 1<<16},
		"hw-cache 77-prefetch-misses":  {3, 77 | 2<<8 | 1<<16},
		"6 18446744073709551615":       {6, 1<<64 - 1},
	} {
		kind, config := eventName(uint32(e[0]), e[1])
		if got := string(kind + " " + config); got != want {
			t.Errorf("%v: %s, want %s", e, got, want)
		}
		if b, err := json.Marshal(config); err != nil || !json.Valid(b) {
			t.Errorf("%s: %s, %v", want, b, err)
		}
	}
}

// Functions are found by their address, or the one behind endbr64.
func TestProbed(t *testing.T) {
	symbols, err := kallsyms.Parse(strings.NewReader("ffffffff81000000 T one\nffffffff81000010 t two\t[m]\nffffffff81000020 T three\n"))
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[uint64]string{0xffffffff81000000: "one", 0xffffffff81000014: "two m", 0xffffffff81000030: "", 0: ""} {
		if s := probed(symbols, address); strings.TrimSpace(s.Name+" "+s.Module) != want {
			t.Errorf("%#x: got %v, want %q", address, s, want)
		}
	}
}
