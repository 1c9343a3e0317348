package chain

import (
	"reflect"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
)

// An inlined program costs what it does itself, where a register is left for
// the context and its verdicts are constants.
func TestNothingIsAddedToABody(t *testing.T) {
	hop := func(name string, r asm.Register) Member {
		return assembled(name, ebpf.XDP,
			asm.LoadMem(asm.R2, asm.R1, 4, asm.Word),
			asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
			asm.Mov.Reg(r, asm.R1),
			asm.Add.Imm(r, 14),
			asm.Mov.Imm32(asm.R0, 1),
			asm.JGT.Reg(r, asm.R2, "out"),
			asm.Mov.Imm32(asm.R0, 2),
			asm.Return().WithSymbol("out"),
		)
	}
	length := func(members ...Member) int {
		c, err := ComposeWith(l3af.XDP, members, Options{NoCounters: true})
		if err != nil {
			t.Fatal(err)
		}
		var begins, names []string
		for i := range c.Program.Instructions {
			if line := c.Program.Instructions[i].Source(); line != nil {
				if name, _, ok := (Comment{Text: line.String()}).Begins(); ok {
					begins = append(begins, name)
				}
			}
		}
		for _, m := range members {
			names = append(names, m.Name)
		}
		if !slices.Equal(begins, names) {
			t.Errorf("bodies of %v, want %v", begins, names)
		}
		return len(c.Program.Instructions)
	}
	// A program with its verdicts is 8 instructions; inlined two of them and the
	// exit are not needed, but for what ends the chain, out of the way.
	const body, end = 5, 2
	two := length(hop("a", asm.R1), hop("b", asm.R3))
	if three := length(hop("a", asm.R1), hop("b", asm.R3), hop("c", asm.R6)); three-two != body+end {
		t.Errorf("a third program adds %d instructions, want %d", three-two, body+end)
	}
	// Without a register for it each but the first loads the context.
	all := []Member{hop("a", asm.R6), hop("b", asm.R7), hop("c", asm.R8)}
	three := length(all...)
	if four := length(append(all, hop("d", asm.R9))...); four-three != body+end+3 {
		t.Errorf("without a register for the context, a program adds %d instructions", four-three)
	}
}

func TestFindsContext(t *testing.T) {
	ctx := asm.LoadMem(asm.R2, asm.R1, 4, asm.Word)
	for name, c := range map[string]struct {
		code asm.Instructions
		want bool
	}{
		"not read":        {asm.Instructions{asm.Mov.Imm(asm.R1, 3), asm.LoadMem(asm.R3, asm.R10, -8, asm.DWord)}, true},
		"read":            {asm.Instructions{ctx, ctx}, true},
		"kept":            {asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1), asm.Mov.Imm(asm.R1, 0), asm.FnGetPrandomU32.Call()}, true},
		"stored":          {asm.Instructions{asm.StoreMem(asm.R10, -8, asm.R1, asm.DWord)}, true},
		"written to":      {asm.Instructions{asm.StoreImm(asm.R1, 8, 1, asm.Word)}, true},
		"given to a call": {asm.Instructions{ctx, asm.Mov.Imm(asm.R2, 4), asm.FnXdpAdjustHead.Call()}, false},
		"added to":        {asm.Instructions{asm.Add.Imm(asm.R1, 4)}, false},
		"added":           {asm.Instructions{asm.Mov.Imm(asm.R2, 0), asm.Add.Reg(asm.R2, asm.R1)}, false},
		"compared":        {asm.Instructions{asm.JEq.Imm(asm.R1, 0, "out")}, false},
		"added in 32":     {asm.Instructions{asm.Mov.Reg32(asm.R2, asm.R1)}, false},
		"exchanged":       {asm.Instructions{asm.StoreXAdd(asm.R10, asm.R1, asm.DWord)}, false},
		"or another": {asm.Instructions{asm.Mov.Reg(asm.R3, asm.R1), asm.FnGetPrandomU32.Call().WithSymbol("x"), asm.Mov.Reg(asm.R1, asm.R3),
			asm.LoadMem(asm.R2, asm.R1, 4, asm.Word)}, false},
		"or another on one way": {asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1), asm.Mov.Imm(asm.R2, 0), asm.JEq.Imm(asm.R2, 3, "skip"), asm.Mov.Reg(asm.R1, asm.R10),
			asm.LoadMem(asm.R2, asm.R1, 4, asm.Word).WithSymbol("skip")}, false},
		"in a loop": {asm.Instructions{asm.Mov.Imm(asm.R3, 9), asm.LoadMem(asm.R2, asm.R1, 4, asm.Word).WithSymbol("head"),
			asm.Sub.Imm(asm.R3, 1), asm.JNE.Imm(asm.R3, 0, "head")}, true},
		"lost in a loop": {asm.Instructions{asm.Mov.Imm(asm.R3, 9), asm.LoadMem(asm.R1, asm.R1, 4, asm.Word).WithSymbol("head"),
			asm.Sub.Imm(asm.R3, 1), asm.JNE.Imm(asm.R3, 0, "head")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := assembled("p", ebpf.XDP, append(c.code, asm.Mov.Imm(asm.R0, 2), asm.Return().WithSymbol("out"))...)
			fns, err := functions(m.Spec.Programs[m.Entry].Instructions)
			if err != nil {
				t.Fatal(err)
			}
			g, ok := fns[0].findsContext(asm.R9)
			if ok != c.want {
				t.Fatalf("%v, want %v", ok, c.want)
			}
			if !ok {
				return
			}
			if h, ok := g.findsContext(asm.R8); !ok || !reflect.DeepEqual(h.ins, g.ins) {
				t.Errorf("it still reads the context from r1:\n%v", asm.Instructions(g.ins))
			}
		})
	}
}

func TestUnread(t *testing.T) {
	for name, c := range map[string]struct {
		code   asm.Instructions
		unread []int
	}{
		"the verdict":    {asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, []int{0}},
		"one of two":     {asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.JEq.Imm(asm.R1, 0, "out"), asm.Mov.Imm(asm.R0, 2), asm.Return().WithSymbol("out")}, []int{0, 2}},
		"used before":    {asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Mov.Reg(asm.R3, asm.R0), asm.Return()}, nil},
		"stored":         {asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.StoreMem(asm.R10, -8, asm.R0, asm.DWord), asm.Return()}, nil},
		"added to":       {asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Mov.Imm(asm.R3, 2), asm.Add.Reg(asm.R3, asm.R0), asm.Return()}, nil},
		"overwritten":    {asm.Instructions{asm.Mov.Imm(asm.R0, 3), asm.FnGetPrandomU32.Call(), asm.Mov.Imm(asm.R0, 2), asm.Return()}, []int{0, 2}},
		"compared":       {asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.JEq.Imm(asm.R0, 2, "out"), asm.Mov.Imm(asm.R0, 2), asm.Return().WithSymbol("out")}, []int{2}},
		"known as other": {asm.Instructions{asm.Mov.Reg(asm.R0, asm.R1), asm.Return()}, nil},
		"in a loop": {asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Mov.Reg(asm.R3, asm.R0).WithSymbol("head"), asm.Mov.Imm(asm.R0, 2),
			asm.JNE.Imm(asm.R3, 0, "head"), asm.Return()}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := assembled("p", ebpf.XDP, c.code...)
			fns, err := functions(m.Spec.Programs[m.Entry].Instructions)
			if err != nil {
				t.Fatal(err)
			}
			const join, next, end = 1, 2, 3
			out := planExits(fns[0], join, next, func(code int32) (label, bool) {
				if code == 2 {
					return next, true
				}
				return end, true
			})
			got := unread(fns[0], out)
			if len(got) != len(c.unread) {
				t.Errorf("%v, want %v", got, c.unread)
			}
			for _, i := range c.unread {
				if !got[i] {
					t.Errorf("%v, want %v", got, c.unread)
				}
			}
		})
	}
}
