package chain

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
)

// The same programs give the same chain, wherever they are read from; any
// change that decides what the chain does gives it another ID.
func TestID(t *testing.T) {
	spec := func() *ebpf.CollectionSpec { return object(t, "xdp") }
	two := func(a, b *ebpf.CollectionSpec) []Member {
		return []Member{
			{Name: "a", Spec: a, Entry: "core", Proceed: []l3af.Verdict{l3af.Pass, l3af.TX}},
			{Name: "b", Spec: b, Entry: "callback"},
		}
	}
	kind := l3af.XDP
	c := compose(t, kind, two(spec(), spec())...)
	if !regexp.MustCompile(`^[0-9a-f]{10}$`).MatchString(c.ID) || c.Program.Name != "l3af_"+c.ID {
		t.Fatalf("ID %q, name %q", c.ID, c.Program.Name)
	}

	// Read anew, from elsewhere.
	text, err := os.ReadFile("testdata/xdp.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy.o")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		copied, err := ebpf.LoadCollectionSpec(path)
		if err != nil {
			t.Fatal(err)
		}
		again := compose(t, kind, two(copied, spec())...)
		if again.ID != c.ID {
			t.Fatalf("the same chain has the IDs %s and %s", c.ID, again.ID)
		}
		if a, b := fmt.Sprint(again.Program.Instructions), fmt.Sprint(c.Program.Instructions); a != b {
			t.Fatalf("one ID, two programs:\n%s\n%s", a, b)
		}
	}

	seen := map[string]string{c.ID: "nothing"}
	differs := func(what string, c *Chain, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if before, ok := seen[c.ID]; ok {
			t.Errorf("changing %s changes the ID no more than %s", what, before)
		} else {
			seen[c.ID] = what
		}
	}
	members := func(what string, change func(m []Member)) {
		t.Helper()
		m := two(spec(), spec())
		change(m)
		c, err := Compose(kind, m)
		differs(what, c, err)
	}
	members("the order", func(m []Member) { m[0], m[1] = m[1], m[0] })
	members("a name", func(m []Member) { m[1].Name = "c" })
	members("an entry", func(m []Member) { m[1].Entry = "bybyte" })
	members("the order of a proceed set", func(m []Member) { m[0].Proceed = []l3af.Verdict{l3af.TX, l3af.Pass} })
	members("a proceed set", func(m []Member) { m[0].Proceed = m[0].Proceed[:1] })
	members("the last proceed set", func(m []Member) { m[1].Proceed = []l3af.Verdict{l3af.Drop} })
	members("read-only data", func(m []Member) { set(t, m[1].Spec, "byte", uint8(3)) })
	members("the other's read-only data", func(m []Member) { set(t, m[0].Spec, "byte", uint8(3)) })
	for what, change := range map[string]func(m *ebpf.MapSpec){
		"a map's type":        func(m *ebpf.MapSpec) { m.Type = ebpf.PerCPUArray },
		"a map's key size":    func(m *ebpf.MapSpec) { m.KeySize++ },
		"a map's value size":  func(m *ebpf.MapSpec) { m.ValueSize++ },
		"a map's max entries": func(m *ebpf.MapSpec) { m.MaxEntries++ },
		"a map's flags":       func(m *ebpf.MapSpec) { m.Flags |= 1 << 10 },
		"a map's extra":       func(m *ebpf.MapSpec) { m.MapExtra = 1 },
		"a map's NUMA node":   func(m *ebpf.MapSpec) { m.NumaNode = 1 },
		"a map's name":        func(m *ebpf.MapSpec) { m.Name = "other" },
		"a map's inner map":   func(m *ebpf.MapSpec) { m.InnerMap = &ebpf.MapSpec{MaxEntries: 1} },
		"a map's value type":  func(m *ebpf.MapSpec) { m.Value = &btf.Int{Name: "long", Size: 8} },
		"a map's key type":    func(m *ebpf.MapSpec) { m.Key = nil },
		"a map's contents":    func(m *ebpf.MapSpec) { m.Contents = []ebpf.MapKV{{Key: uint32(0), Value: uint64(1)}} },
		"a map's contents' 1": func(m *ebpf.MapSpec) { m.Contents = []ebpf.MapKV{{Key: uint32(0), Value: uint64(2)}} },
	} {
		members(what, func(m []Member) { change(m[0].Spec.Maps["array"]) })
	}
	instructions := func(what string, member int, match func(asm.Instruction) bool, change func(*asm.Instruction)) {
		t.Helper()
		members(what, func(m []Member) {
			code := m[member].Spec.Programs[m[member].Entry].Instructions
			for i := range code {
				if match(code[i]) {
					change(&code[i])
					return
				}
			}
			t.Errorf("no instruction to change %s", what)
		})
	}
	constant := func(ins asm.Instruction) bool { return ins.OpCode == asm.Mov.Op(asm.ImmSource) }
	relocated := func(ins asm.Instruction) bool { return btf.CORERelocationMetadata(&ins) != nil }
	instructions("a constant", 0, constant, func(i *asm.Instruction) { i.Constant++ })
	instructions("a register", 0, constant, func(i *asm.Instruction) { i.Dst = asm.R5 })
	instructions("an opcode", 0, constant, func(i *asm.Instruction) { i.OpCode = asm.Add.Op(asm.ImmSource) })
	instructions("a subprogram", 1, func(i asm.Instruction) bool { return i.OpCode == asm.Mul.Op32(asm.ImmSource) },
		func(i *asm.Instruction) { i.Constant++ })
	instructions("a relocation", 0, relocated, func(i *asm.Instruction) { *i = btf.WithCORERelocationMetadata(*i, nil) })
	var last *btf.CORERelocation
	for _, ins := range spec().Programs["core"].Instructions {
		if r := btf.CORERelocationMetadata(&ins); r != nil {
			last = r
		}
	}
	instructions("a relocation's target", 0, relocated, func(i *asm.Instruction) { *i = btf.WithCORERelocationMetadata(*i, last) })
	members("the types of relocations", func(m []Member) { m[0].Spec.Types = object(t, "tc").Types })
	members("the license", func(m []Member) {
		m[0].Spec.Programs["core"].License, m[1].Spec.Programs["callback"].License = "GPL", "GPL"
	})
	members("the flags", func(m []Member) {
		for i := range m {
			m[i].Spec.Programs[m[i].Entry].Flags = flagXDPHasFrags
		}
	})
	members("one more", func(m []Member) { m[1].Entry = "core" })
	c, err = Compose(kind, two(spec(), spec())[:1])
	differs("one less", c, err)
	c, err = ComposeWith(kind, two(spec(), spec()), Options{NoCounters: true})
	differs("the counters", c, err)
	for _, k := range []l3af.HookKind{l3af.TCIngress, l3af.TCEgress} {
		c, err := Compose(k, []Member{{Name: "a", Spec: object(t, "tc"), Entry: "bybyte"}})
		differs("the hook", c, err)
	}
	for _, attach := range []string{"raw_tracepoint/sys_enter", "raw_tracepoint/sys_exit"} {
		c, err := Single(attach, Member{Name: "a", Spec: object(t, "other"), Entry: "enter"})
		differs("the attach point", c, err)
	}
}

// What decides nothing leaves the ID: whether the object has debug information.
func TestIDIgnoresDebugInformation(t *testing.T) {
	with := compose(t, l3af.XDP, Member{Name: "a", Spec: object(t, "xdp"), Entry: "bybyte"})
	without := compose(t, l3af.XDP, Member{Name: "a", Spec: withoutBTF(object(t, "xdp")), Entry: "bybyte"})
	if with.ID != without.ID {
		t.Errorf("IDs %s and %s", with.ID, without.ID)
	}
}

// The title names all members as long as there is room, and never more.
func TestTitle(t *testing.T) {
	long := make([]string, 30)
	for i := range long {
		long[i] = fmt.Sprint("program-", i)
	}
	for want, members := range map[string][]string{
		"l3af_0123456789__acl":        {"acl"},
		"l3af_0123456789__a__b_c__d":  {"a", "b_c", "d"},
		"l3af_0123456789__and_2_more": {strings.Repeat("x", 120), "b"},
		"l3af_0123456789__program_x2d0__program_x2d1__program_x2d2__program_x2d3__program_x2d4__program_x2d5__program_x2d6__and_23_more": long,
		"l3af_0123456789__" + strings.Repeat("y", 110): {strings.Repeat("y", 110)},
	} {
		if got := title("0123456789", members); got != want || len(got) > maxIdentifier {
			t.Errorf("got %q (%d), want %q", got, len(got), want)
		}
	}
}
