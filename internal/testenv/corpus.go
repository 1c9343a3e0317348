package testenv

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// Programs loads the programs of the objects in a folder that load by
// themselves, with the maps of their object, until the test ends. They go by
// the names of object and function, as in "tables.lookups".
func Programs(t testing.TB, folder string) map[string]*ebpf.Program {
	t.Helper()
	Root(t)
	files, err := filepath.Glob(filepath.Join(folder, "*.bpf.o"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no objects in %s: %v", folder, err)
	}
	all := map[string]*ebpf.Program{}
	for _, file := range files {
		spec, err := ebpf.LoadCollectionSpec(file)
		if err != nil {
			t.Logf("%s: %v", file, err)
			continue
		}
		for name := range spec.Programs {
			one := spec.Copy()
			// What the library maps into memory would be locks, which the kernel refuses.
			one.Variables = nil
			for other, p := range one.Programs {
				if other != name {
					delete(one.Programs, other)
				} else if p.Type == ebpf.UnspecifiedProgram && strings.HasPrefix(p.SectionName, "xdp") {
					p.Type, p.AttachType = ebpf.XDP, ebpf.AttachXDP
				} else if p.Type == ebpf.UnspecifiedProgram {
					p.Type = ebpf.SchedCLS
				}
			}
			for _, m := range one.Maps {
				m.Contents = nil // may hold other programs
			}
			coll, err := ebpf.NewCollection(one)
			if err != nil {
				t.Logf("%s: %s: %v", file, name, err)
				continue
			}
			p := coll.DetachProgram(name)
			coll.Close()
			t.Cleanup(func() { p.Close() })
			all[strings.TrimSuffix(filepath.Base(file), ".bpf.o")+"."+name] = p
		}
	}
	return all
}
