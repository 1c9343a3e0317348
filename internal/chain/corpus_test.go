package chain

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
	"l3af/internal/kconfig"
	"l3af/internal/testenv"
)

// corpus lists the programs of testdata/corpus for a hook: one member each.
func corpus(t testing.TB, kind l3af.HookKind) []Member {
	t.Helper()
	files, err := filepath.Glob("testdata/corpus/*.bpf.o")
	if err != nil || len(files) < 25 {
		t.Fatalf("corpus: %d objects, %v", len(files), err)
	}
	want := ebpf.SchedCLS
	if kind == l3af.XDP {
		want = ebpf.XDP
	}
	var all []Member
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".bpf.o")
		spec := object(t, "corpus/"+name)
		for _, entry := range slices.Sorted(maps.Keys(spec.Programs)) {
			if typ, _, _ := ProgramType(spec.Programs[entry]); typ == want {
				all = append(all, Member{Name: name + "." + entry, Spec: spec, Entry: entry})
			}
		}
	}
	return all
}

// makeMaps makes the maps of a chain and gives them what they hold at first.
func makeMaps(c *Chain, made map[string]*ebpf.Map) (err error) {
	for _, last := range []bool{false, true} {
		for _, m := range c.Maps {
			if last != (len(m.Holds) > 0) {
				continue
			}
			spec := m.Spec.Copy()
			if m.Name == KconfigName {
				data, err := kconfig.Resolve(spec.Value.(*btf.Datasec))
				if err != nil {
					return err
				}
				spec.Contents = []ebpf.MapKV{{Key: uint32(0), Value: data}}
			}
			for _, h := range m.Holds {
				if h.Program == nil {
					spec.Contents = append(spec.Contents, ebpf.MapKV{Key: h.Key, Value: made[h.Ref]})
				}
			}
			if made[m.Ref], err = ebpf.NewMap(spec); err != nil {
				delete(made, m.Ref)
				return fmt.Errorf("map %s: %w", m.Ref, err)
			}
		}
	}
	for _, m := range c.Maps {
		for _, h := range m.Holds {
			if h.Program == nil {
				continue
			}
			spec := h.Program.Copy()
			spec.Type, spec.AttachType, spec.Flags = c.Program.Type, c.Program.AttachType, c.Program.Flags
			for ref, m := range made {
				_ = spec.Instructions.AssociateMap(ref, m)
			}
			p, err := ebpf.NewProgram(spec)
			if err != nil {
				return fmt.Errorf("map %s: program %v: %w", m.Ref, h.Key, err)
			}
			err = made[m.Ref].Put(h.Key, p)
			p.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// whole loads one program with all that its maps hold, by the library's own
// means.
func whole(m Member) (*loaded, error) {
	from := m.Spec.Copy()
	to := &ebpf.CollectionSpec{
		Maps: map[string]*ebpf.MapSpec{}, Programs: map[string]*ebpf.ProgramSpec{}, Variables: map[string]*ebpf.VariableSpec{},
		Types: from.Types, ByteOrder: from.ByteOrder,
	}
	var add func(name string)
	addMap := func(name string) {
		if from.Maps[name] == nil || to.Maps[name] != nil {
			return
		}
		to.Maps[name] = from.Maps[name]
		for _, kv := range from.Maps[name].Contents {
			if held, ok := kv.Value.(string); ok && from.Programs[held] != nil {
				add(held)
			} else if ok {
				to.Maps[held] = from.Maps[held]
			}
		}
	}
	add = func(name string) {
		p := from.Programs[name]
		to.Programs[name] = p
		p.Type, p.AttachType, p.Flags = ProgramType(p)
		if p.Type == ebpf.SchedCLS {
			p.AttachType = ebpf.AttachTCXIngress
		}
		for _, ins := range p.Instructions {
			if ins.IsLoadFromMap() {
				addMap(ins.Reference())
			}
		}
	}
	add(m.Entry)
	for name, v := range from.Variables {
		// The library maps variables into memory, which the kernel refuses
		// where there is a lock among them.
		if to.Maps[v.SectionName] != nil && v.SectionName != ".data.guard" {
			to.Variables[name] = v
		}
	}
	coll, err := ebpf.NewCollection(to)
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	l := &loaded{coll.DetachProgram(m.Entry), map[string]*ebpf.Map{}}
	for name := range to.Maps {
		l.maps[ref(m.Name, name)] = coll.DetachMap(name)
	}
	return l, nil
}

// readable says whether the contents of a map can be compared.
func readable(m *ebpf.Map) bool {
	return slices.Contains([]ebpf.MapType{ebpf.Array, ebpf.Hash, ebpf.LRUHash, ebpf.PerCPUArray, ebpf.LPMTrie, ebpf.RingBuf}, m.Type())
}

// agree runs packets through a chain and through its members, one by one: the
// verdicts, packets, contexts, maps and counts must be the same.
func agree(t *testing.T, r *rand.Rand, kind l3af.HookKind, members []Member, packets int) *Chain {
	t.Helper()
	c, err := Compose(kind, members)
	if err != nil {
		t.Errorf("%v: %v", describe(members), err)
		return nil
	}
	fused, err := bind(c)
	if err != nil {
		t.Errorf("%v: %+v", describe(members), err)
		return nil
	}
	defer fused.Close()
	single, model := make([]*loaded, len(members)), make([]Count, len(members))
	for i, m := range members {
		model[i] = Count{Name: m.Name, Verdicts: map[l3af.Verdict]uint64{}}
		if single[i], err = whole(m); err != nil {
			t.Errorf("%s alone: %+v", m.Entry, err)
			return nil
		}
		defer single[i].Close()
	}
	for range packets {
		in := randomPacket(r, kind)
		got, err := in.through(fused.Program, kind)
		if err != nil {
			t.Errorf("run %v: %v", describe(members), err)
			return nil
		}
		want := in
		for i, m := range members {
			if want, err = want.through(single[i].Program, kind); err != nil {
				t.Errorf("run %s alone: %v", m.Entry, err)
				return nil
			}
			v := kind.Verdict(int32(want.verdict))
			model[i].Packets++
			model[i].Verdicts[v]++
			if !slices.Contains(c.Programs[i].Proceed, v) {
				break
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v\nin   %v\ngot  %v\nwant %v", describe(members), in, got, want)
			return nil
		}
	}
	for i, m := range members {
		for name, one := range single[i].maps {
			if fused.maps[name] == nil {
				t.Errorf("%v: no map %s", describe(members), name)
			} else if readable(one) {
				if got, want := contents(t, fused.maps[name]), contents(t, one); !maps.Equal(got, want) {
					t.Errorf("%v: map %s of %s\ngot  %v\nwant %v", describe(members), name, m.Name, got, want)
				}
			}
		}
	}
	if got := counts(t, fused); !reflect.DeepEqual(got, model) {
		t.Errorf("%v: counts\ngot  %v\nwant %v", describe(members), got, model)
	}
	return c
}

// withoutLines makes an object what a compiler gives that writes no lines.
func withoutLines(spec *ebpf.CollectionSpec) *ebpf.CollectionSpec {
	spec = spec.Copy()
	for _, p := range spec.Programs {
		for i := range p.Instructions {
			if ins := &p.Instructions[i]; ins.Source() != nil {
				*ins = ins.WithSource(nil)
			}
		}
	}
	return spec
}

// Whatever C compiles to does in a chain what it does alone: alone, first,
// last, between others, twice, and all programs together.
func TestCorpus(t *testing.T) {
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			all := corpus(t, kind)
			pass := Member{Name: "before", Spec: object(t, objectOf(kind)), Entry: "counts"}
			code, _ := kind.Code(kind.DefaultProceed()[0])
			set(t, pass.Spec, "verdicts", [8]int32{code, code, code, code, code, code, code, code})
			after := pass
			after.Name, after.Entry = "after", "rewrite"
			for i, m := range all {
				t.Run(m.Name, func(t *testing.T) {
					r := rand.New(rand.NewPCG(7, uint64(i)))
					again, bare := m, m
					again.Name = "again"
					bare.Name, bare.Spec = "bare", withoutLines(m.Spec)
					for _, members := range [][]Member{{m}, {m, after}, {pass, m}, {pass, m, after}, {m, again}, {pass, bare, m, after}} {
						agree(t, r, kind, members, 40)
					}
				})
			}
			t.Run("all", func(t *testing.T) {
				r := rand.New(rand.NewPCG(8, 8))
				c := agree(t, r, kind, all, 400)
				if c == nil {
					return
				}
				for _, p := range c.Programs {
					t.Logf("%-30s segment %d %s %s", p.Name, p.Segment, p.Linkage, p.Why)
				}
			})
		})
	}
}

// Objects are read with the library's own types: where it keeps which kernel
// option an instruction reads must stay where it is.
func TestKconfigIsFound(t *testing.T) {
	spec := object(t, "corpus/kconfig")
	p, err := take(Member{Name: "k", Spec: spec, Entry: "kconfig"})
	if err != nil {
		t.Fatal(err)
	}
	offsets := map[int64]bool{}
	for _, f := range p.funcs {
		for _, ins := range f.ins {
			if ins.IsLoadFromMap() && ins.Src == asm.PseudoMapValue && ins.Reference() == "k/.kconfig" {
				offsets[ins.Constant>>32] = true
			}
		}
	}
	if len(offsets) != 5 {
		t.Errorf("variables at %v, want 5 of them", offsets)
	}
}
