package chain

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// What of its frame a program exposes to what was there before.
func TestFrameUse(t *testing.T) {
	at := func(offset int32) []asm.Instruction {
		return []asm.Instruction{asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, offset)}
	}
	zero := asm.Mov.Imm(asm.R1, 0)
	store := func(offset int16, size asm.Size) asm.Instruction { return asm.StoreMem(asm.R10, offset, asm.R1, size) }
	fetch := func(offset int16, size asm.Size) asm.Instruction { return asm.LoadMem(asm.R3, asm.R10, offset, size) }
	find := []asm.Instruction{asm.LoadMapPtr(asm.R1, 0).WithReference("m"), asm.FnMapLookupElem.Call()}
	for name, c := range map[string]struct {
		code    [][]asm.Instruction
		exposed []int16
		touched []int16
	}{
		"nothing":         {},
		"filled, read":    {[][]asm.Instruction{{zero, store(-8, asm.DWord), fetch(-8, asm.Word)}}, nil, []int16{-8}},
		"half, read":      {[][]asm.Instruction{{zero, store(-8, asm.Word), fetch(-8, asm.Word)}}, []int16{-8}, []int16{-8}},
		"read only":       {[][]asm.Instruction{{fetch(-24, asm.DWord)}}, []int16{-24}, nil},
		"written only":    {[][]asm.Instruction{{zero, store(-20, asm.Half)}}, nil, []int16{-24}},
		"key of 12 bytes": {[][]asm.Instruction{{zero, store(-24, asm.DWord), store(-16, asm.Word)}, at(-24), find}, []int16{-16}, []int16{-16, -24}},
		"helper writes": {[][]asm.Instruction{at(-16), {asm.Mov.Imm(asm.R3, 16), asm.FnGetCurrentComm.Call()}},
			[]int16{-8, -16}, []int16{-8, -16}},
		"filled on one way": {[][]asm.Instruction{{zero, asm.JEq.Imm(asm.R1, 3, "skip"), store(-8, asm.DWord), fetch(-8, asm.Byte).WithSymbol("skip")}},
			[]int16{-8}, []int16{-8}},
		"one of two": {[][]asm.Instruction{{zero, asm.Mov.Reg(asm.R2, asm.R10), asm.JEq.Imm(asm.R1, 3, "far"), asm.Add.Imm(asm.R2, -8), asm.Ja.Label("both"),
			asm.Add.Imm(asm.R2, -24).WithSymbol("far"), asm.LoadMem(asm.R3, asm.R2, 0, asm.DWord).WithSymbol("both")}}, []int16{-8, -16, -24}, nil},
		"pointer in memory": {[][]asm.Instruction{at(-16), {asm.StoreMem(asm.R10, -32, asm.R2, asm.DWord), asm.LoadMem(asm.R4, asm.R10, -32, asm.DWord),
			asm.LoadMem(asm.R5, asm.R4, 0, asm.Byte)}}, []int16{-8, -16}, []int16{-32}},
		"loop": {[][]asm.Instruction{{zero, asm.Mov.Imm(asm.R6, 4), store(-8, asm.DWord), store(-16, asm.DWord).WithSymbol("head"), fetch(-16, asm.DWord),
			asm.Sub.Imm(asm.R6, 1), asm.JNE.Imm(asm.R6, 0, "head")}}, []int16{-16}, []int16{-8, -16}},
		"atomic": {[][]asm.Instruction{{zero, asm.StoreXAdd(asm.R10, asm.R1, asm.DWord)}}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var ins asm.Instructions
			for _, more := range c.code {
				ins = append(ins, more...)
			}
			ins = append(ins, asm.Mov.Imm(asm.R0, 2), asm.Return())
			m := assembled(name, ebpf.XDP, ins...)
			fns, err := functions(m.Spec.Programs[m.Entry].Instructions)
			if err != nil {
				t.Fatal(err)
			}
			u := frameUseOf(fns[0], func(string) (int, int) { return 12, 8 })
			if got := slices.Collect(u.exposed.offsets()); !slices.Equal(got, c.exposed) {
				t.Errorf("exposed %v, want %v", got, c.exposed)
			}
			if got := slices.Collect(u.touched.offsets()); !slices.Equal(got, c.touched) {
				t.Errorf("touched %v, want %v", got, c.touched)
			}
		})
	}
}
