package bpfsys

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"l3af/internal/testenv"
)

// Objects of each kind are found by id and by pin, and are what they are.
func TestObjects(t *testing.T) {
	testenv.Clean(t)
	dir := testenv.Bpffs(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: testenv.Interface(t, "", "v0").Index})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for kind, o := range map[Kind]interface{ Pin(string) error }{Prog: p, Map: m, Link: l} {
		path := filepath.Join(dir, kind.String())
		if err := o.Pin(path); err != nil {
			t.Fatal(err)
		}
		open, is, err := ByPath(path, 0)
		if err != nil || is != kind {
			t.Fatalf("%s: a %s, %v", kind, is, err)
		}
		id := idOf(t, kind, open)
		open.Close()
		next, ok, err := NextID(kind, id-1)
		if err != nil || !ok || next != id {
			t.Errorf("%s: after %d comes %d, %t, %v", kind, id-1, next, ok, err)
		}
		again, err := ByID(kind, id, 0)
		if err != nil || idOf(t, kind, again) != id {
			t.Errorf("%s %d: %v", kind, id, err)
		}
		again.Close()
		if again.Close() != nil {
			t.Error("closed twice")
		}
		if _, err := ByID(kind, 1<<32-1, 0); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s that is not there: %v", kind, err)
		}
		if _, ok, err := NextID(kind, 1<<31-2); ok || err != nil {
			t.Errorf("%s after the last: %t, %v", kind, ok, err)
		}
	}
	if _, _, err := ByPath(filepath.Join(dir, "none"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pin that is not there: %v", err)
	}
	if _, _, err := ByPath("/proc/self/exe", 0); err == nil || errors.Is(err, os.ErrPermission) {
		t.Errorf("a file that is no pin: %v", err)
	}
	for _, inode := range []string{"", "bpf-map", "anon_inode:[eventfd]", "socket:[1]"} {
		if k, ok := KindOf(inode); ok {
			t.Errorf("%q is a %s", inode, k)
		}
	}
}

func idOf(t *testing.T, kind Kind, h Handle) uint32 {
	t.Helper()
	var err error
	var id uint32
	switch kind {
	case Prog:
		var info ProgInfo
		err, id = Info(h, &info), info.ID
	case Map:
		var info MapInfo
		err, id = Info(h, &info), info.ID
	case Link:
		var info LinkInfo
		err, id = Info(h, &info), info.ID
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}
