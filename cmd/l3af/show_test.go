package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af/internal/testenv"
	"l3af/internal/testenv/zoo"
)

// l3afSays runs a command in this process, which must succeed.
func l3afSays(t testing.TB, args ...string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(args, strings.NewReader(""), &out, &errs); code != exitDone {
		t.Fatalf("l3af %s: exit code %d\n%s%s", strings.Join(args, " "), code, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

// bpftoolSays runs Debian's bpftool. The exit code is not looked at: link show
// fails when it has done what it should.
func bpftoolSays(t testing.TB, args ...string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(testenv.Tool(t, "bpftool"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	if out.Len() == 0 {
		t.Fatalf("bpftool %s: %s", strings.Join(args, " "), errs.Bytes())
	}
	return out.Bytes()
}

// sameAsBpftool compares the JSON and the text of a command line. JSON must
// have all that bpftool has, in its order; more keys only from extra.
func sameAsBpftool(t *testing.T, extra []string, args ...string) {
	t.Helper()
	theirs, ours := bpftoolSays(t, append([]string{"-j"}, args...)...), l3afSays(t, append([]string{"-j", "--bpftool-compat"}, args...)...)
	if d := added("", document(t, "bpftool", theirs), document(t, "l3af", ours), extra); d != "" {
		t.Errorf("l3af %s: %s\nbpftool: %s\nl3af:    %s", strings.Join(args, " "), d, theirs, ours)
	}
	order := slices.DeleteFunc(keys(t, ours), func(k string) bool { return !slices.Contains(keys(t, theirs), k) })
	if want := keys(t, theirs); !slices.Equal(order, want) {
		t.Errorf("l3af %s: the keys are in the order %q, bpftool's are %q", strings.Join(args, " "), order, want)
	}
}

// added says where ours is not theirs with keys of extra added, "" nowhere.
func added(path string, theirs, ours any, extra []string) string {
	switch t := theirs.(type) {
	case map[string]any:
		o, ok := ours.(map[string]any)
		if !ok {
			return path + ": not an object"
		}
		for k, v := range t {
			if d := added(path+"."+k, v, o[k], extra); d != "" {
				return d
			}
		}
		for k := range o {
			if _, ok := t[k]; !ok && !slices.Contains(extra, k) {
				return path + "." + k + " is not of bpftool"
			}
		}
		return ""
	case []any:
		o, ok := ours.([]any)
		if !ok || len(o) != len(t) {
			return path + ": not an array of that many"
		}
		for i := range t {
			if d := added(fmt.Sprintf("%s[%d]", path, i), t[i], o[i], extra); d != "" {
				return d
			}
		}
		return ""
	}
	if !reflect.DeepEqual(theirs, ours) {
		return fmt.Sprintf("%s: %v, bpftool has %v", path, ours, theirs)
	}
	return ""
}

// keys are those of all objects, in the order of the text.
func keys(t testing.TB, text []byte) []string {
	var list []string
	var object []bool // for each level, whether it is an object
	key := true
	d := json.NewDecoder(bytes.NewReader(text))
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case json.Delim:
			if tok == '{' || tok == '[' {
				object = append(object, tok == '{')
			} else {
				object = object[:len(object)-1]
			}
			key = true
		case string:
			if len(object) > 0 && object[len(object)-1] && key {
				list, key = append(list, tok), false
				continue
			}
			key = true
		default:
			key = true
		}
	}
}

// What bpftool 7.1 shows of everything in the zoo, we show, the same.
func TestShowIsBpftools(t *testing.T) {
	testenv.Clean(t)
	t.Setenv("TZ", "UTC")
	z := zoo.Open(t)
	z.Attach(t)
	text := func(args []string, known ...string) {
		t.Helper()
		theirs, ours := string(bpftoolSays(t, args...)), string(l3afSays(t, args...))
		for _, k := range known {
			ours = strings.ReplaceAll(ours, k, "")
		}
		if ours != theirs {
			t.Errorf("l3af %s:\n%s\nbpftool:\n%s", strings.Join(args, " "), ours, theirs)
		}
	}
	for name, p := range z.Programs {
		// The number of a type is all that 7.1 has of netfilter.
		if p.Type() == ebpf.Netfilter {
			continue
		}
		t.Run("prog/"+name, func(t *testing.T) {
			id := fmt.Sprint(programID(t, p))
			sameAsBpftool(t, []string{"orphaned", "verified_insns"}, "prog", "show", "id", id)
			text([]string{"prog", "show", "id", id})
		})
	}
	for name, m := range z.Maps {
		t.Run("map/"+name, func(t *testing.T) {
			info, err := m.Info()
			if err != nil {
				t.Fatal(err)
			}
			id, _ := info.ID()
			sameAsBpftool(t, nil, "map", "show", "id", fmt.Sprint(id))
			text([]string{"map", "show", "id", fmt.Sprint(id)})
		})
	}
	t.Run("map/empty", func(t *testing.T) { // it takes no memory
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 16, Flags: unix.BPF_F_NO_PREALLOC})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		sameAsBpftool(t, nil, "map", "show", "id", fmt.Sprint(id))
		text([]string{"map", "show", "id", fmt.Sprint(id)})
	})
	for name, l := range z.Links {
		t.Run("link/"+name, func(t *testing.T) {
			info, err := l.Info()
			if err != nil {
				t.Fatal(err)
			}
			// 7.1 has no cookies, and no more than the head of what came later.
			extra := []string{"cookie"}
			if !slices.Contains([]link.Type{link.RawTracepointType, link.TracingType, link.CgroupType, link.IterType, link.NetNsType}, info.Type) {
				return
			}
			sameAsBpftool(t, extra, "link", "show", "id", fmt.Sprint(info.ID))
			text([]string{"link", "show", "id", fmt.Sprint(info.ID)}, "cookie 5  ")
		})
	}
}

func programID(t testing.TB, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}
