package kernel

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// upgraded is a new version of the gate program: change makes it one.
func upgraded(t *testing.T, change func(*ebpf.CollectionSpec)) *chain.Chain {
	t.Helper()
	spec := object(t)
	if err := spec.Variables["verdict"].Set(int32(xdpPass)); err != nil {
		t.Fatal(err)
	}
	change(spec)
	c, err := chain.Compose(l3af.XDP, []chain.Member{{Name: "g0", Spec: spec, Entry: "gate"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// renameVariable makes a section one with another variable in the same place.
func renameVariable(t *testing.T, spec *ebpf.CollectionSpec, section string) {
	t.Helper()
	ds, ok := spec.Maps[section].Value.(*btf.Datasec)
	if !ok || len(ds.Vars) == 0 {
		t.Fatalf("section %s has no types", section)
	}
	other := *ds
	other.Vars = slices.Clone(ds.Vars)
	v := *other.Vars[0].Type.(*btf.Var)
	v.Name = "renamed"
	other.Vars[0].Type = &v
	spec.Maps[section].Value = &other
}

func mapOf(t *testing.T, path string) (id ebpf.MapID) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ = info.ID()
	return id
}

// What an upgrade in place does to each map: kept while its shape is the same,
// else refused with the difference, or made anew where that is wanted.
func TestUpgradeMaps(t *testing.T) {
	word := &btf.Int{Name: "unsigned int", Size: 4}
	pair := &btf.Struct{Name: "pair", Size: 4, Members: []btf.Member{
		{Name: "a", Type: &btf.Int{Name: "short", Size: 2}}, {Name: "b", Type: &btf.Int{Name: "short", Size: 2}, Offset: 16}}}
	all := []string{".bss", ".data", "deny"}
	for _, r := range []struct {
		name    string
		change  func(*ebpf.CollectionSpec)
		changed string // the map
		want    string // the difference
	}{
		{"other constants", func(s *ebpf.CollectionSpec) { s.Variables["verdict"].Set(int32(xdpDrop)) }, "", ""},
		{"another function", func(s *ebpf.CollectionSpec) {
			ins := s.Programs["gate"].Instructions
			s.Programs["gate"].Instructions = append(ins[:0:0], ins...)
			s.Programs["gate"].License = "GPL"
		}, "", ""},
		{"renamed type", func(s *ebpf.CollectionSpec) { s.Maps["deny"].Value = &btf.Typedef{Name: "hits_t", Type: word} }, "", ""},
		{"no types", func(s *ebpf.CollectionSpec) { s.Maps["deny"].Key, s.Maps["deny"].Value = nil, nil }, "", ""},
		{"first values", func(s *ebpf.CollectionSpec) { s.Variables["knob"].Set(uint32(8)) }, "", ""},
		{"value of the same size", func(s *ebpf.CollectionSpec) { s.Maps["deny"].Value = pair }, "deny", "value: was unsigned int, is a struct"},
		{"more entries", func(s *ebpf.CollectionSpec) { s.Maps["deny"].MaxEntries = 17 }, "deny", "MaxEntries: 16 changed to 17"},
		{"other variables", func(s *ebpf.CollectionSpec) { renameVariable(t, s, ".data") }, ".data", "is no more"},
	} {
		t.Run(r.name, func(t *testing.T) {
			testenv.Clean(t)
			k := open(t)
			target := hook(l3af.XDP, "", "lo")
			old := upgraded(t, func(*ebpf.CollectionSpec) {})
			attach(t, k, host.Load{Target: target, Chain: old, Contents: []host.Contents{
				deny("g0", 9), {Member: "g0", Map: ".data", Patches: []host.Patch{{Offset: 0, Data: u32(77)}}}}})
			ids := map[string]ebpf.MapID{}
			for _, name := range all {
				ids[name] = mapOf(t, k.mapPath(target, "", &chain.Map{Member: "g0", Name: name}))
			}
			before, pins := attached(t, k, target), tree(t, k.root)
			next := upgraded(t, r.change)
			if next.ID == old.ID {
				t.Fatal("the new version is the old one")
			}
			load := host.Load{Target: target, Chain: next}
			if r.want != "" {
				_, err := k.Attach(t.Context(), load)
				if !errors.Is(err, ebpf.ErrMapIncompatible) || !strings.Contains(err.Error(), "map g0/"+r.changed+": the pinned map has another shape: ") ||
					!strings.Contains(err.Error(), r.want) || !strings.Contains(err.Error(), "onMapChange: reset") {
					t.Fatalf("refused: %v", err)
				}
				if now := attached(t, k, target); now != before || !slices.Equal(tree(t, k.root), pins) {
					t.Fatalf("refused, but: %+v, %v", now, tree(t, k.root))
				}
				load.Reset = []string{"other"}
				if _, err := k.Attach(t.Context(), load); err == nil {
					t.Fatal("reset of another member's maps lets it through")
				}
			}
			load.Reset = []string{"other", "g0"}
			if err := k.TestLoad(load); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(tree(t, k.root), pins) {
				t.Errorf("a try leaves %v", tree(t, k.root))
			}
			attach(t, k, load)
			if now := attached(t, k, target); now.ID != next.ID || now.LinkID != before.LinkID {
				t.Errorf("runs %+v, before %+v", now, before)
			}
			for _, name := range all {
				kept := mapOf(t, k.mapPath(target, "", &chain.Map{Member: "g0", Name: name})) == ids[name]
				if kept != (name != r.changed) {
					t.Errorf("map %s kept: %t", name, kept)
				}
			}
			if _, err := os.Lstat(k.asideDir(target)); !os.IsNotExist(err) {
				t.Errorf("left aside: %v", tree(t, k.root))
			}
			// The program uses the map that is pinned.
			sendOne(t, "", "127.0.0.1", 9)
			if seen(t, k, target, "g0") == 0 {
				t.Error("the program counts nowhere")
			}
		})
	}
}

// A crash around the switch leaves the old chain with the old map or the new
// one with the new.
func TestResetCrash(t *testing.T) {
	for name, r := range map[string]struct{ switched, moved bool }{
		"before the switch": {false, false},
		"after the switch":  {true, false},
		"after the rename":  {true, true},
	} {
		for _, start := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				testenv.Clean(t)
				k := open(t)
				target := hook(l3af.XDP, "", "lo")
				place := k.mapPath(target, "", &chain.Map{Member: "g0", Name: "deny"})
				old := upgraded(t, func(*ebpf.CollectionSpec) {})
				next := upgraded(t, func(s *ebpf.CollectionSpec) { s.Maps["deny"].MaxEntries = 17 })
				load := host.Load{Target: target, Chain: next, Reset: []string{"g0"}}
				attach(t, k, host.Load{Target: target, Chain: old})
				was, err := ebpf.LoadPinnedMap(place, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer was.Close()
				oldID := mapOf(t, place)
				aside := k.asidePath(target, next.ID, place)
				if r.switched {
					attach(t, k, load)
				}
				newID := mapOf(t, place)
				mkdir := func() {
					if err := os.MkdirAll(filepath.Dir(aside), 0o700); err != nil {
						t.Fatal(err)
					}
				}
				switch {
				case !r.switched:
					mkdir()
					m, err := ebpf.NewMap(next.Maps[slices.IndexFunc(next.Maps, func(m chain.Map) bool { return m.Name == "deny" })].Spec)
					if err != nil {
						t.Fatal(err)
					}
					defer m.Close()
					if err := m.Pin(aside); err != nil {
						t.Fatal(err)
					}
				case !r.moved:
					mkdir()
					if err := os.Rename(place, aside); err != nil {
						t.Fatal(err)
					}
					if err := was.Pin(place); err != nil {
						t.Fatal(err)
					}
				default:
					mkdir() // only directories are left
				}
				if start {
					k = restart(t, k)
				} else if _, err := k.Write(target, map[bool]*chain.Chain{true: next, false: old}[r.switched], []host.Contents{deny("g0", 5)}); err != nil {
					t.Fatal(err)
				}
				want := map[bool]ebpf.MapID{true: newID, false: oldID}[r.switched]
				if got := mapOf(t, place); got != want {
					t.Errorf("map %d is in place, want %d (old %d)", got, want, oldID)
				}
				if _, err := os.Lstat(k.asideDir(target)); !os.IsNotExist(err) {
					t.Errorf("left aside: %v", tree(t, k.root))
				}
				attach(t, k, load)
				if a := attached(t, k, target); a.ID != next.ID {
					t.Errorf("runs %+v", a)
				}
			})
		}
	}
}

// The globals that the document sets are in place before anything runs.
func TestFirstPatches(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	maps, err := k.openMaps(host.Load{Target: target, Chain: gate(t, l3af.XDP, xdpPass), Contents: []host.Contents{
		{Member: "g0", Map: ".data", Patches: []host.Patch{{Offset: 4, Data: u32(77)}}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	for _, o := range maps.list {
		if o.Name != ".data" {
			continue
		}
		v, err := o.m.LookupBytes(uint32(0))
		if err != nil {
			t.Fatal(err)
		}
		// Beside the patch it is as the object says.
		if want := append(u32(7), u32(77)...); !bytes.Equal(v, want) {
			t.Errorf(".data is %x, want %x", v, want)
		}
		return
	}
	t.Error("no .data")
}
