package chain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
)

// FuzzMutated: programs that were valid before some of their instructions were
// changed are composed or refused, in whatever way they are linked, without a
// panic and without being changed. What is composed jumps only to instructions
// of the same function, and every symbol it refers to is there.
func FuzzMutated(f *testing.F) {
	for seed := range uint64(24) {
		f.Add(seed, []byte{})
		r := rand.New(rand.NewPCG(seed, 1))
		edits := make([]byte, editSize*(1+r.IntN(4)))
		for i := range edits {
			edits[i] = byte(r.Uint32())
		}
		f.Add(seed, edits)
	}
	f.Fuzz(func(t *testing.T, seed uint64, edits []byte) {
		kind := l3af.HookKinds()[seed%uint64(len(l3af.HookKinds()))]
		r := rand.New(rand.NewPCG(seed, 0))
		members := randomMembers(r, kind)
		valid := len(edits) < editSize
		for len(edits) >= editSize {
			m := members[int(edits[0])%len(members)]
			p := m.Spec.Programs[m.Entry]
			p.Instructions = edit(p.Instructions, edits[1:editSize])
			edits = edits[editSize:]
		}
		before := make([]string, len(members))
		for i, m := range members {
			before[i] = fmt.Sprint(m.Spec.Programs[m.Entry].Instructions)
		}
		c, err := ComposeWith(kind, members, Options{NoCounters: r.IntN(4) == 0})
		if valid && err != nil {
			t.Fatalf("valid programs: %v", err)
		}
		for n := 0; err == nil && n < 4; n++ {
			sound(t, c)
			resolved(t, c)
			c, err = c.made.compose(randomPlan(r, c.made.plan))
		}
		if refused := (*RefusedError)(nil); err != nil && !errors.As(err, &refused) {
			t.Fatalf("not a refusal: %v", err)
		}
		for i, m := range members {
			if got := fmt.Sprint(m.Spec.Programs[m.Entry].Instructions); got != before[i] {
				t.Fatalf("%s was changed\nfrom %s\nto %s", m.Name, before[i], got)
			}
		}
	})
}

// editSize is how many bytes an edit takes, with the one that picks the member.
const editSize = 8

// edit changes one instruction of a copy of code.
func edit(code asm.Instructions, e []byte) asm.Instructions {
	if len(code) == 0 {
		return code
	}
	code = slices.Clone(code)
	at := int(binary.LittleEndian.Uint16(e[1:])) % len(code)
	v := int16(binary.LittleEndian.Uint16(e[3:]))
	ins := &code[at]
	switch e[0] % 14 {
	case 0:
		return slices.Delete(code, at, at+1)
	case 1:
		return slices.Insert(code, at, code[int(uint16(v))%len(code)])
	case 2:
		ins.Offset = v
	case 3:
		ins.Constant = int64(v)
	case 4:
		ins.Dst = asm.Register(e[5] % 16)
	case 5:
		ins.Src = asm.Register(e[5] % 16)
	case 6:
		ins.OpCode = asm.OpCode(e[5])
	case 7:
		ins.OpCode ^= 1 << (e[5] % 20)
	case 8:
		*ins = ins.WithReference("")
	case 9:
		*ins = ins.WithReference(code[int(uint16(v))%len(code)].Symbol())
	case 10:
		*ins = ins.WithSymbol("")
	case 11:
		*ins = btf.WithFuncMetadata(*ins, btf.FuncMetadata(&code[0]))
	case 12:
		return code[:at]
	case 13:
		ins.Constant = int64(int32(binary.LittleEndian.Uint32(e[3:])))
	}
	return code
}

// resolved checks that the maps and functions that a chain's code refers to
// are there, and that each function has its BTF.
func resolved(t *testing.T, c *Chain) {
	refs := map[string]bool{}
	for _, m := range c.Maps {
		if refs[m.Ref] || m.Spec == nil {
			t.Fatalf("map %s twice, or without a spec", m.Ref)
		}
		refs[m.Ref] = true
	}
	if c.Segments != nil {
		refs[SegmentsRef] = true
	}
	used := map[string]bool{}
	for _, spec := range c.Specs() {
		maps := map[string]bool{}
		for i := range spec.Instructions {
			ins := &spec.Instructions[i]
			if named := ins.Symbol() != ""; named != (btf.FuncMetadata(ins) != nil) || i == 0 && !named {
				t.Fatalf("%d: the symbol %q, and BTF %v", i, ins.Symbol(), btf.FuncMetadata(ins))
			}
			if ins.IsLoadFromMap() {
				ref := ins.Reference()
				if !refs[ref] {
					t.Fatalf("%d: the map %q is not there", i, ref)
				}
				maps[ref], used[ref] = true, true
			}
		}
		if len(maps) > maxMaps {
			t.Fatalf("%s uses %d maps", spec.Name, len(maps))
		}
		if kind := spec.Type; kind != ebpf.XDP && kind != ebpf.SchedCLS {
			t.Fatalf("%s is a %v program", spec.Name, kind)
		}
	}
	for ref := range refs {
		if !used[ref] {
			t.Fatalf("nothing uses the map %s", ref)
		}
	}
}
