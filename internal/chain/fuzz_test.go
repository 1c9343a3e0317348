package chain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
)

// FuzzCompose: whatever the instructions, Compose does not panic; and what it
// accepts jumps only to instructions of the same function, leaves the entry
// function at its end alone, however its programs are linked, and keeps its bodies off the saved context.
func FuzzCompose(f *testing.F) {
	for _, entry := range []string{"bybyte", "local", "callback", "deep", "loop", "counts"} {
		for _, p := range object(f, "xdp").Programs {
			if p.Name != entry {
				continue
			}
			var raw bytes.Buffer
			if err := slices.Clone(p.Instructions).Marshal(&raw, binary.LittleEndian); err == nil {
				f.Add(raw.Bytes(), uint8(2))
			}
		}
	}
	for _, ins := range []asm.Instructions{
		{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		{asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, -8), asm.Return()},
		{asm.JEq.Imm(asm.R1, 0, "out"), asm.LoadImm(asm.R0, 1, asm.DWord), asm.Return().WithSymbol("out")},
		{{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoCall, Constant: 1}, asm.Return(), asm.Mov.Imm(asm.R0, 2), asm.Return()},
		{asm.LongJump("out"), asm.Return().WithSymbol("out")},
		{asm.StoreImm(asm.R10, -512, 0, asm.Word), asm.Mov.Imm(asm.R0, 2), asm.Return()},
		{asm.LoadMapPtr(asm.R2, 0), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(), asm.Mov.Imm(asm.R0, 2), asm.Return()},
	} {
		var raw bytes.Buffer
		if err := ins.Marshal(&raw, binary.LittleEndian); err != nil {
			f.Fatal(err)
		}
		f.Add(raw.Bytes(), uint8(3))
	}
	f.Fuzz(func(t *testing.T, raw []byte, n uint8) {
		ins, err := asm.AppendInstructions(nil, bytes.NewReader(raw), binary.LittleEndian, "linux")
		if err != nil {
			return
		}
		for i := range ins {
			if ins[i].IsLoadFromMap() {
				ins[i] = ins[i].WithReference("m")
			}
		}
		var members []Member
		for i := range 1 + n%4 {
			m := assembled(string(rune('a'+i)), ebpf.XDP, ins...)
			m.Proceed = []l3af.Verdict{l3af.Pass, l3af.TX}[:1+int(n>>2)%2]
			m.Spec.Maps = map[string]*ebpf.MapSpec{"m": {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}}
			members = append(members, m)
		}
		for _, o := range []Options{{}, {NoCounters: true}} {
			c, err := ComposeWith(l3af.XDP, members, o)
			var refused *RefusedError
			if err != nil {
				if !errors.As(err, &refused) {
					t.Fatalf("not a refusal: %v", err)
				}
				continue
			}
			sound(t, c)
			// Linked in any other way it is sound as well, or refused.
			p := c.made.plan.clone()
			for i := range p.why {
				if n>>4&(1<<i) != 0 {
					p.why[i], p.deep[i] = "a test", n&1 != 0
				}
				p.cut[i] = n>>5&(1<<i) != 0
			}
			other, err := c.made.compose(p)
			if err != nil {
				if !errors.As(err, &refused) {
					t.Fatalf("not a refusal: %v", err)
				}
				continue
			}
			if other.ID != c.ID {
				t.Fatalf("linked otherwise it has the ID %s, not %s", other.ID, c.ID)
			}
			sound(t, other)
		}
	})
}

// sound checks composed programs by themselves.
func sound(t *testing.T, c *Chain) {
	for _, spec := range c.Specs() {
		soundProgram(t, spec.Instructions)
	}
}

func soundProgram(t *testing.T, code asm.Instructions) {
	// Where instructions and functions begin, in raw instructions.
	starts, symbols := map[int64]int{}, map[string]bool{}
	var offsets []int64
	var at int64
	fn := -1
	for i := range code {
		if s := code[i].Symbol(); s != "" {
			if symbols[s] {
				t.Fatalf("symbol %s twice", s)
			}
			symbols[s] = true
			fn++
		}
		starts[at] = fn
		offsets = append(offsets, at)
		at += int64(code[i].Width())
	}
	exits := 0
	for i := range code {
		ins := code[i]
		here := starts[offsets[i]]
		kind, err := kindOf(ins.OpCode)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		distance := int64(ins.Offset)
		switch kind {
		case longJump:
			distance = ins.Constant
			fallthrough
		case jump, branch:
			to, ok := starts[offsets[i]+1+distance]
			if !ok || to != here {
				t.Fatalf("%d: %v leads out of function %d\n%v", i, ins, here, code)
			}
			if ins.Reference() != "" {
				t.Fatalf("%d: a jump has the symbol %q", i, ins.Reference())
			}
		case exit:
			if here == 0 {
				exits++
			}
		}
		if ins.IsFunctionReference() && !symbols[ins.Reference()] {
			t.Fatalf("%d: calls %q, which is not there", i, ins.Reference())
		}
	}
	if exits != 1 {
		t.Fatalf("the entry function has %d exits\n%v", exits, code)
	}
}
