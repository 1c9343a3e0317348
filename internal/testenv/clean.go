package testenv

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Objects are the ids of the programs, maps and links in the kernel.
type Objects struct {
	Programs map[ebpf.ProgramID]bool
	Maps     map[ebpf.MapID]bool
	Links    map[link.ID]bool
}

// List reads the ids of every program, map and link of the machine.
func List(t testing.TB) Objects {
	t.Helper()
	o := Objects{map[ebpf.ProgramID]bool{}, map[ebpf.MapID]bool{}, map[link.ID]bool{}}
	for id, err := ebpf.ProgramGetNextID(0); ; id, err = ebpf.ProgramGetNextID(id) {
		if errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		o.Programs[id] = true
	}
	for id, err := ebpf.MapGetNextID(0); ; id, err = ebpf.MapGetNextID(id) {
		if errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		o.Maps[id] = true
	}
	err := links(o.Links)
	// EAGAIN: somebody is making a link just now.
	for tries := 0; tries < 600 && errors.Is(err, unix.EAGAIN); tries++ {
		time.Sleep(100 * time.Millisecond)
		err = links(o.Links)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func links(ids map[link.ID]bool) error {
	clear(ids)
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		ids[it.ID] = true
	}
	return it.Err()
}

// Clean checks when the test ends that no program, map, link or descriptor
// is left that was not there before. Call it first in a test, so that it runs
// after all other clean-ups.
func Clean(t testing.TB) {
	t.Helper()
	Root(t)
	before, fds, shared := List(t), descriptors(), os.Getenv(Shared) != ""
	t.Cleanup(func() {
		// The kernel frees objects after a grace period, and descriptors
		// that nobody holds are closed by the garbage collector.
		var now Objects
		for range 200 {
			runtime.GC()
			if now = List(t); (shared || now.within(before)) && descriptors() <= fds {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		if !shared {
			for _, l := range before.left(now) {
				t.Errorf("left behind: %s", l)
			}
		}
		if n := descriptors(); n > fds {
			t.Errorf("left behind: %d descriptors", n-fds)
			entries, _ := os.ReadDir("/proc/self/fd")
			for _, e := range entries {
				to, _ := os.Readlink("/proc/self/fd/" + e.Name())
				t.Logf("fd %s: %s", e.Name(), to)
			}
		}
	})
}

// within says whether all of o was there before. It only compares ids: to open
// a PROG_ARRAY that is about to go makes Linux lose count of it and keep it for
// ever (prog_array_map_clear takes a reference for work that is queued already).
func (o Objects) within(before Objects) bool {
	return subset(o.Programs, before.Programs) && subset(o.Maps, before.Maps) && subset(o.Links, before.Links)
}

func subset[K comparable](a, b map[K]bool) bool {
	for k := range a {
		if !b[k] {
			return false
		}
	}
	return true
}

// left names what is in now and was not in o.
func (o Objects) left(now Objects) []string {
	var left []string
	for id := range now.Programs {
		if !o.Programs[id] {
			name := ""
			if p, err := ebpf.NewProgramFromID(id); err == nil {
				if info, err := p.Info(); err == nil {
					name = info.Name
				}
				p.Close()
			}
			left = append(left, fmt.Sprintf("program %d %s", id, name))
		}
	}
	for id := range now.Maps {
		if !o.Maps[id] {
			name := ""
			if m, err := ebpf.NewMapFromID(id); err == nil {
				if info, err := m.Info(); err == nil {
					name = info.Name
				}
				m.Close()
			}
			left = append(left, fmt.Sprintf("map %d %s", id, name))
		}
	}
	for id := range now.Links {
		if !o.Links[id] {
			left = append(left, fmt.Sprintf("link %d", id))
		}
	}
	return left
}

func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// Collect closes a collection when the test ends and lets go of it: the memory of
// its sections, which holds their maps, goes only when nothing knows it.
func Collect(t testing.TB, c *ebpf.Collection) {
	t.Cleanup(func() {
		c.Close()
		*c = ebpf.Collection{}
	})
}
