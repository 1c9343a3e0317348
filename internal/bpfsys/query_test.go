package bpfsys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af/internal/testenv"
)

func program(t *testing.T, of ebpf.ProgramType, attach ebpf.AttachType) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: of, AttachType: attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func id(t *testing.T, p *ebpf.Program) uint32 {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return uint32(id)
}

// A hook tells its programs in order, with their links and flags, however many.
func TestQueryTCX(t *testing.T) {
	testenv.Clean(t)
	lo := testenv.Interface(t, "", "lo").Index
	none, err := Query(lo, uint32(ebpf.AttachTCXIngress), 0)
	if err != nil || len(none.Programs) != 0 {
		t.Fatalf("an empty hook: %+v, %v", none, err)
	}
	var want, programs []uint32
	for range 40 { // more than the first try has room for
		p := program(t, ebpf.SchedCLS, ebpf.AttachTCXIngress)
		l, err := link.AttachTCX(link.TCXOptions{Interface: lo, Program: p, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		info, err := l.Info()
		if err != nil {
			t.Fatal(err)
		}
		want, programs = append(want, uint32(info.ID)), append(programs, id(t, p))
	}
	got, err := Query(lo, uint32(ebpf.AttachTCXIngress), 0)
	if err != nil {
		t.Fatal(err)
	}
	var ids, links []uint32
	for _, a := range got.Programs {
		ids, links = append(ids, a.Program), append(links, a.Link)
	}
	if !slices.Equal(links, want) || !slices.Equal(ids, programs) || got.Revision == none.Revision {
		t.Errorf("links %v, want %v; revision %d, then %d", links, want, none.Revision, got.Revision)
	}
	if _, err := Query(lo, 9999, 0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("an attach type there is not: %v", err)
	}
}

// A cgroup tells its own programs, and on demand those of its ancestors too.
func TestQueryCgroup(t *testing.T) {
	testenv.Clean(t)
	root := testenv.Cgroup(t)
	child := filepath.Join(root, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(child)
	p := program(t, ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress)
	l, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: ebpf.AttachCGroupInetEgress, Program: p})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		dir         string
		flags       uint32
		want        int
		attachFlags uint32
	}{
		{root, 0, 1, unix.BPF_F_ALLOW_MULTI}, {root, QueryEffective, 1, 0}, {child, 0, 0, 0}, {child, QueryEffective, 1, 0},
	} {
		dir, err := os.Open(c.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		got, err := Query(int(dir.Fd()), uint32(ebpf.AttachCGroupInetEgress), c.flags)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Programs) != c.want || got.Flags != c.attachFlags || c.want == 1 && got.Programs[0].Program != id(t, p) {
			t.Errorf("%s, flags %d: %+v", c.dir, c.flags, got)
		}
	}
}

// A descriptor of a perf event tells its tracepoint.
func TestQueryFD(t *testing.T) {
	testenv.Clean(t)
	p := program(t, ebpf.RawTracepoint, 0)
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sys_enter", Program: p})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range entries {
		var fd int
		fmt.Sscan(e.Name(), &fd)
		if got, err := QueryFD(os.Getpid(), fd); err == nil {
			found++
			if got.Program != id(t, p) || got.Type != FDRawTracepoint || got.Name != "sys_enter" {
				t.Errorf("fd %d: %+v", fd, got)
			}
		}
	}
	if found != 1 {
		t.Errorf("%d descriptors, want 1", found)
	}
}
