package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af/internal/testenv"
)

// loadXDP loads a program that returns a constant, for the length of the test.
func loadXDP(t testing.TB, name string, verdict int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func newTestMap(t testing.TB, spec ebpf.MapSpec) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// own is a name that nobody else on the machine uses.
func own(name string) string { return fmt.Sprintf("%s%d", name, os.Getpid()) }

func programID(t testing.TB, p *ebpf.Program) uint32 {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return uint32(id)
}

// Each way to name programs finds those that are meant, and no others.
func TestSelectPrograms(t *testing.T) {
	testenv.Clean(t)
	dir := testenv.Bpffs(t)
	name := own("same")
	a, b, c := loadXDP(t, name, 1), loadXDP(t, name, 2), loadXDP(t, own("else"), 1)
	m := newTestMap(t, ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	for path, o := range map[string]interface{ Pin(string) error }{"a": a, "m": m} {
		if err := o.Pin(filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := a.Info()
	if err != nil {
		t.Fatal(err)
	}
	ids := func(ps ...*ebpf.Program) []uint32 {
		var list []uint32
		for _, p := range ps {
			list = append(list, programID(t, p))
		}
		return list
	}
	for _, c := range []struct {
		s    Selector
		want []uint32
		err  error
	}{
		{Selector{By: ID, ID: ids(b)[0]}, ids(b), nil},
		{Selector{By: ID, ID: 1<<32 - 1}, nil, fs.ErrNotExist},
		{Selector{By: Name, Text: name}, ids(a, b), nil},
		{Selector{By: Name, Text: name + "x"}, nil, nil},
		{Selector{By: Tag, Text: info.Tag}, ids(a, c), nil}, // of the same instructions
		{Selector{By: Tag, Text: "abc"}, nil, errAny},
		{Selector{By: Pin, Text: filepath.Join(dir, "a")}, ids(a), nil},
		{Selector{By: Pin, Text: filepath.Join(dir, "b")}, nil, fs.ErrNotExist},
		{Selector{By: Pin, Text: filepath.Join(dir, "m")}, nil, errAny},
		{Selector{By: Pin, Text: "a\x00b"}, nil, errAny},
	} {
		shown, err := Programs(c.s, Options{})
		check := func(err error) {
			if (err == nil) != (c.err == nil) || c.err == fs.ErrNotExist && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, want %v", c.s, err, c.err)
			}
		}
		check(err)
		var got []uint32
		for _, p := range shown {
			got = append(got, p.ID)
		}
		if c.s.By == Tag { // others may have loaded the same instructions
			got = slices.DeleteFunc(got, func(id uint32) bool { return !slices.Contains(c.want, id) })
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: shows %d, want %d", c.s, got, c.want)
		}
		opened, err := OpenPrograms(c.s)
		check(err)
		got = ids(opened...)
		for _, p := range opened {
			p.Close()
		}
		if c.s.By != Tag && !slices.Equal(got, c.want) {
			t.Errorf("%s: opens %d, want %d", c.s, got, c.want)
		}
	}
	all, err := Programs(Selector{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids(a, b, c) {
		if !slices.ContainsFunc(all, func(p Program) bool { return p.ID == id }) {
			t.Errorf("program %d is not among all", id)
		}
	}
	found, err := OpenMaps(Selector{By: Name, Text: name})
	if err != nil || len(found) != 1 {
		t.Fatalf("maps %s: %d, %v", name, len(found), err)
	}
	defer found[0].Close()
	if err := found[0].Put(uint32(0), uint32(7)); err != nil {
		t.Errorf("what was opened cannot be written: %v", err)
	}
}

// errAny stands for an error of no special kind.
var errAny = errors.New("any")

// A PROG_ARRAY that goes while others look at it goes: none stays for ever.
func TestProgArrayGoes(t *testing.T) {
	testenv.Clean(t)
	name := own("jmp")
	for range 5 {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 4})
		if err != nil {
			t.Fatal(err)
		}
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R2, m.FD()), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(), asm.Mov.Imm(asm.R0, 2), asm.Return(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		m.Close() // the program holds it; the work that empties it is queued
		for range 3 {
			list, err := Maps(Selector{By: Name, Text: name}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				t.Error("the map has gone before its program")
			}
		}
		p.Close()
	}
	gone := func() bool {
		list, err := Maps(Selector{By: Name, Text: name}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list) == 0
	}
	if !eventually(gone) {
		t.Error("a PROG_ARRAY stays in the kernel")
	}
}
