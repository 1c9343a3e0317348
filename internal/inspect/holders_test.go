package inspect

import (
	"os"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/testenv"
	"l3af/internal/testenv/zoo"
)

// The iterator and /proc tell the same of a process that holds one object of
// each kind, and nothing of this one.
func TestHolders(t *testing.T) {
	testenv.Clean(t)
	z := zoo.Open(t)
	l, err := link.AttachIter(link.IterOptions{Program: z.Programs["zoo_iter"]})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := z.Programs["zoo_tc"].Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	linkInfo, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	mapInfo, err := z.Maps["zoo_lru"].Info()
	if err != nil {
		t.Fatal(err)
	}
	btfInfo, err := b.Info()
	if err != nil {
		t.Fatal(err)
	}
	mapID, _ := mapInfo.ID()
	ids := map[bpfsys.Kind]uint32{
		bpfsys.Prog: programID(t, z.Programs["zoo_tc"]), bpfsys.Map: uint32(mapID), bpfsys.Link: uint32(linkInfo.ID), bpfsys.BTF: uint32(btfInfo.ID),
	}
	cmd := exec.Command("sleep", "60")
	for _, fd := range []int{z.Programs["zoo_tc"].FD(), z.Maps["zoo_lru"].FD(), l.FD(), b.FD()} {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(dup), "object")
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()

	iterator := new(Holders)
	if err := iterator.Read(); err != nil {
		t.Fatal(err)
	}
	if !iterator.Iterator {
		t.Errorf("no iterator: %v", iterator.Why)
	}
	proc := new(Holders)
	proc.reset()
	if err := proc.readProc(); err != nil {
		t.Fatal(err)
	}
	for kind, id := range ids {
		for name, h := range map[string]*Holders{"iterator": iterator, "proc": proc} {
			if got := h.Of(kind, id); len(got) != 1 || got[0] != (Holder{uint32(cmd.Process.Pid), "sleep"}) {
				t.Errorf("%s: %s %d is held by %v, want sleep %d", name, kind, id, got, cmd.Process.Pid)
			}
		}
	}
	list, err := Programs(Selector{By: ID, ID: ids[bpfsys.Prog]}, Options{Holders: new(Holders)})
	if err != nil || len(list) != 1 || len(list[0].Pids) != 1 {
		t.Errorf("got %+v, %v", list, err)
	}
}

// What is loaded to find out who holds what is not among what is shown, and says
// of programs the memory that /proc says.
func TestHoldersAreNotShown(t *testing.T) {
	testenv.Clean(t)
	for range 20 {
		h := new(Holders)
		progs, err := Programs(Selector{}, Options{Holders: h})
		if err != nil {
			t.Fatal(err)
		}
		plain, err := Programs(Selector{}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		memlock := map[uint32]uint64{}
		for _, p := range plain {
			memlock[p.ID] = p.BytesMemlock
		}
		for _, p := range progs {
			if want, ok := memlock[p.ID]; ok && want != p.BytesMemlock {
				t.Errorf("program %d takes %d bytes, /proc says %d", p.ID, p.BytesMemlock, want)
			}
			if h.own(bpfsys.Prog, p.ID) {
				t.Errorf("shown: %+v", p)
			}
		}
		if len(h.ours[bpfsys.Prog]) != 2 || len(h.ours[bpfsys.Map]) == 0 || len(h.ours[bpfsys.Link]) != 3 {
			t.Fatalf("loaded: %v", h.ours)
		}
	}
}
