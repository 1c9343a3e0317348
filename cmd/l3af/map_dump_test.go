package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af/internal/bpfsys"
	"l3af/internal/testenv"
	"l3af/internal/testenv/zoo"
)

func mapID(t testing.TB, m *ebpf.Map) string {
	t.Helper()
	var info bpfsys.MapInfo
	if err := bpfsys.Info(m, &info); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(info.ID)
}

// mapExtra are keys that bpftool 7.1 does not have.
var mapExtra = []string{"sum", "inner_map_id"}

// fails runs both tools on a line that must fail, and wants one document of ours
// in JSON, or some words.
func fails(t *testing.T, args ...string) {
	t.Helper()
	if exec.Command(testenv.Tool(t, "bpftool"), args...).Run() == nil {
		t.Errorf("bpftool %s does not fail", strings.Join(args, " "))
	}
	for _, flags := range [][]string{nil, {"-j"}} {
		var out, errs bytes.Buffer
		if code := run(append(flags, args...), nil, &out, &errs); code != exitFailed {
			t.Errorf("l3af %s: exit code %d", strings.Join(args, " "), code)
		}
		if flags != nil {
			document(t, "l3af "+strings.Join(args, " "), out.Bytes())
		} else if errs.Len() == 0 && out.Len() == 0 {
			t.Errorf("l3af %s says nothing", strings.Join(args, " "))
		}
	}
}

// What bpftool 7.1 reads from every map of the zoo, we read, the same.
func TestMapsAsBpftool(t *testing.T) {
	testenv.Clean(t)
	z := zoo.Open(t)
	for name, m := range z.Maps {
		id := mapID(t, m)
		dump := []string{"map", "dump", "id", id}
		switch m.Type() {
		case ebpf.Queue, ebpf.Stack:
			fails(t, dump...)
			sameAsBpftool(t, mapExtra, "map", "peek", "id", id)
			continue
		case ebpf.RingBuf, ebpf.BloomFilter:
			fails(t, dump...)
			continue
		}
		// Floats are no JSON in bpftool's: what it has of them is not there.
		var list []map[string]any
		ours := l3afSays(t, append([]string{"-j"}, dump...)...)
		if err := json.Unmarshal(ours, &list); err != nil {
			t.Fatalf("%s: %v: %s", name, err, ours)
		}
		if theirs := bpftoolSays(t, append([]string{"-j"}, dump...)...); json.Valid(theirs) {
			sameAsBpftool(t, mapExtra, dump...)
			if !bytes.Contains(ours, []byte(`"sum"`)) && m.Type() != ebpf.ArrayOfMaps && m.Type() != ebpf.HashOfMaps {
				text := strings.NewReplacer(`"`, "", "name  ", "")
				if o, b := text.Replace(string(l3afSays(t, dump...))), text.Replace(string(bpftoolSays(t, dump...))); o != b {
					t.Errorf("%s: got\n%s\nwant\n%s", name, o, b)
				}
			}
		} else if !bytes.Contains(theirs, []byte("(unsupported-kind")) {
			t.Errorf("%s: bpftool: %s", name, theirs)
		}
		if len(list) == 0 {
			continue
		}
		var key []string
		for _, b := range list[0]["key"].([]any) {
			key = append(key, b.(string))
		}
		at := func(verb string) []string { return append([]string{"map", verb, "id", id, "key"}, key...) }
		if _, failed := list[0]["value"].(map[string]any); failed {
			fails(t, at("lookup")...)
		} else if json.Valid(bpftoolSays(t, append([]string{"-j"}, at("lookup")...)...)) {
			sameAsBpftool(t, mapExtra, at("lookup")...)
		}
		sameAsBpftool(t, nil, "map", "getnext", "id", id)
		if len(list) > 1 {
			sameAsBpftool(t, nil, at("getnext")...)
		}
	}
}

// An abbreviation means the verb that it means to bpftool.
func TestMapAbbreviations(t *testing.T) {
	verbs := mapObject().verbs
	for i, v := range verbs {
		if want := strings.Fields(mapVerbs)[i]; v.name != want || len(verbs) != len(strings.Fields(mapVerbs)) {
			t.Errorf("verb %d is %s, want %s", i, v.name, want)
		}
	}
	testenv.Clean(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "l3af_short", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Put(uint32(1), uint32(7)); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"l", "d", "lo", "g"} {
		args := []string{"map", verb, "id", mapID(t, m)}
		if verb == "lo" {
			args = append(args, "key", "1", "0", "0", "0")
		}
		sameAsBpftool(t, []string{"pids"}, args...)
	}
}

// Several maps of one name are several documents in one.
func TestMapDumpSeveral(t *testing.T) {
	testenv.Clean(t)
	const name = "l3af_twin"
	var first string
	for i := range 2 {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 4})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Put(uint32(i), uint32(7)); err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = mapID(t, m)
		}
	}
	sameAsBpftool(t, nil, "map", "dump", "name", name)
	args := []string{"map", "dump", "name", name}
	if o, b := l3afSays(t, args...), bpftoolSays(t, args...); !bytes.Equal(o, b) {
		t.Errorf("got\n%s\nwant\n%s", o, b)
	}
	var out, errs bytes.Buffer
	if code := run([]string{"map", "lookup", "name", name, "key", "0"}, nil, &out, &errs); code != exitFailed || !strings.Contains(errs.String(), "id "+first) {
		t.Errorf("lookup in two: %d, %s", code, errs.String())
	}
	// A queue of that name is no reason to say nothing of the others.
	q, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Queue, ValueSize: 4, MaxEntries: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	out.Reset()
	errs.Reset()
	code := run(append([]string{"-j"}, args...), nil, &out, &errs)
	list := document(t, "l3af", out.Bytes()).([]any)
	if code != exitFailed || len(list) != 3 || list[2].(map[string]any)["error"] == nil || !strings.Contains(errs.String(), "peek or dequeue") {
		t.Errorf("with a queue: %d, %s, %s", code, out.String(), errs.String())
	}
}
