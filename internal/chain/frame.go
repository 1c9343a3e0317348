package chain

import (
	"iter"
	"math/bits"

	"github.com/cilium/ebpf/asm"
)

// slots is a set of the 8-byte slots of a frame: bit i is the bytes from
// r10-8(i+1) up to r10-8i.
type slots uint64

// slotsOf is the slots of the bytes from one offset from the frame pointer up
// to another, as far as they lie in the frame.
func slotsOf(from, to int) slots {
	from, to = max(from, -maxFrame), min(to, 0)
	if from >= to {
		return 0
	}
	first, last := (-from-1)/8, -to/8
	return ^slots(0) >> (63 - first) &^ (1<<last - 1)
}

// offsets lists where the slots begin.
func (s slots) offsets() iter.Seq[int16] {
	return func(yield func(int16) bool) {
		for s := uint64(s); s != 0; s &= s - 1 {
			if !yield(int16(-8 * (bits.TrailingZeros64(s) + 1))) {
				return
			}
		}
	}
}

// frameUse is how a function uses its frame, as the verifier sees it.
type frameUse struct {
	// exposed slots may be read before the function has written all 8 bytes of
	// them. To the verifier what they held before matters then: it would follow
	// the function once more for every different thing that may be left there,
	// and every program of a chain would multiply the work for the next.
	exposed slots
	// touched slots may be written.
	touched slots
}

// mapSize gives the sizes of a map's keys and values.
func (p *part) mapSize(ref string) (key, value int) {
	for _, m := range p.maps {
		if m.Ref == ref {
			return int(m.Spec.KeySize), int(m.Spec.ValueSize)
		}
	}
	return maxFrame, maxFrame
}

// frameUseOf tells it as far as pointers into the frame can be followed. What
// it misses or takes too wide costs time, never the chain's meaning. size
// gives the sizes of a map's keys and values.
func frameUseOf(f function, size func(ref string) (key, value int)) frameUse {
	t := tracker{f: f, size: size}
	before := t.pointers()
	if t.escaped < 0 {
		before = t.pointers()
	}
	var u frameUse
	acts := make([]access, len(f.ins))
	for i, p := range before {
		if p != nil {
			acts[i] = t.access(f.ins[i], p)
			u.touched |= acts[i].writes
		}
	}
	for i, to := range f.jumps {
		// The verifier compares states at the head of a loop before it knows
		// what of the loop's slots is dead there.
		for j := max(to, 0); to >= 0 && j <= i; j++ {
			acts[to].reads |= acts[j].reads | acts[j].writes
		}
	}
	live := make([]slots, len(f.ins)+1) // before each instruction
	for changed := true; changed; {
		changed = false
		for i := len(f.ins) - 1; i >= 0; i-- {
			var after slots
			if f.falls(i) {
				after = live[i+1]
			}
			if to := f.jumps[i]; to >= 0 {
				after |= live[to]
			}
			if now := acts[i].reads | after&^acts[i].fills; now != live[i] {
				live[i], changed = now, true
			}
		}
	}
	u.exposed = live[0]
	return u
}

// access is what one instruction does to the frame.
type access struct {
	reads  slots
	writes slots
	fills  slots // written in full
}

// content is what a register is known to hold.
type content struct {
	kind     contentKind
	low, top int    // inFrame: between these offsets from the frame pointer
	ref      string // aMap
}

type contentKind uint8

const (
	other contentKind = iota
	inFrame
	aMap
)

// within is a pointer into the frame between two offsets.
func within(low, top int) content {
	return content{kind: inFrame, low: max(low, -maxFrame), top: min(top, 0)}
}

func (c content) meet(o content) content {
	switch {
	case c == o:
		return c
	case c.kind == inFrame && o.kind == inFrame:
		return within(min(c.low, o.low), max(c.top, o.top))
	case c.kind == inFrame:
		return c
	case o.kind == inFrame:
		return o
	}
	return content{}
}

type registers [11]content

// tracker follows pointers into the frame through the registers.
type tracker struct {
	f    function
	size func(ref string) (key, value int)
	// escaped is how low a pointer leads that was stored in memory: what is
	// loaded may be it.
	escaped int
}

// pointers gives what registers hold before each instruction that is reached.
func (t *tracker) pointers() []*registers {
	before := make([]*registers, len(t.f.ins))
	entry := registers{asm.R10: within(0, 0)}
	before[0] = &entry
	for todo := []int{0}; len(todo) > 0; {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		after := t.after(t.f.ins[i], *before[i])
		reach := func(to int) {
			if before[to] == nil {
				copied := after
				before[to] = &copied
				todo = append(todo, to)
				return
			}
			merged := *before[to]
			for r := range merged {
				merged[r] = merged[r].meet(after[r])
			}
			if merged != *before[to] {
				*before[to] = merged
				todo = append(todo, to)
			}
		}
		if t.f.jumps[i] >= 0 {
			reach(t.f.jumps[i])
		}
		if t.f.falls(i) {
			reach(i + 1)
		}
	}
	return before
}

// after is what registers hold behind an instruction.
func (t *tracker) after(ins asm.Instruction, r registers) registers {
	class := ins.OpCode.Class()
	switch {
	case class.IsALU():
		r[ins.Dst] = t.calculated(ins, r)
	case class == asm.LdClass:
		r[ins.Dst] = content{}
		if ins.IsLoadFromMap() && ins.Src == asm.PseudoMapFD {
			r[ins.Dst] = content{kind: aMap, ref: ins.Reference()}
		}
	case class == asm.LdXClass:
		r[ins.Dst] = t.loaded()
	case class == asm.StXClass:
		if _, value, _ := memory(ins); ins.OpCode.Mode() == asm.AtomicMode {
			r[value], r[asm.R0] = t.loaded(), t.loaded() // fetched; R0 by cmpxchg
		} else if r[value].kind == inFrame {
			t.escaped = min(t.escaped, r[value].low)
		}
	case ins.OpCode.JumpOp() == asm.Call:
		for reg := asm.R0; reg <= asm.R5; reg++ {
			r[reg] = content{}
		}
	}
	r[asm.R10] = within(0, 0)
	return r
}

func (t *tracker) loaded() content {
	if t.escaped < 0 {
		return within(t.escaped, 0)
	}
	return content{}
}

func (t *tracker) calculated(ins asm.Instruction, r registers) content {
	dst, op := r[ins.Dst], ins.OpCode.ALUOp()
	var src content
	if ins.OpCode.Source() == asm.RegSource {
		src = r[ins.Src]
	}
	wide := ins.OpCode.Class() == asm.ALU64Class
	switch {
	case op == asm.Mov && wide && ins.Offset == 0:
		return src
	case op == asm.Mov:
		return content{}
	case op == asm.Add && wide && dst.kind == inFrame && ins.OpCode.Source() == asm.ImmSource:
		return within(dst.low+int(int32(ins.Constant)), dst.top+int(int32(ins.Constant)))
	case dst.kind == inFrame:
		return within(dst.low, 0)
	case src.kind == inFrame:
		return within(src.low, 0)
	}
	return content{}
}

func (t *tracker) access(ins asm.Instruction, r *registers) access {
	if base, _, ok := memory(ins); ok {
		at, size := r[base], ins.OpCode.Size().Sizeof()
		if at.kind != inFrame {
			return access{}
		}
		low := at.low + int(ins.Offset)
		where := slotsOf(low, at.top+int(ins.Offset)+size)
		switch {
		case ins.OpCode.Class() == asm.LdXClass:
			return access{reads: where}
		case ins.OpCode.Mode() == asm.AtomicMode:
			return access{reads: where, writes: where}
		case at.low == at.top && size == 8 && low%8 == 0:
			return access{writes: where, fills: where}
		}
		return access{writes: where}
	}
	if !ins.OpCode.Class().IsJump() || ins.OpCode.JumpOp() != asm.Call {
		return access{}
	}
	var a access
	for reg := asm.R1; reg <= asm.R5; reg++ {
		if at := r[reg]; at.kind == inFrame {
			where := slotsOf(at.low, at.top+t.argument(ins, reg, r, -at.top))
			a.reads |= where
			a.writes |= where
		}
	}
	return a
}

// argument is how many bytes a call may access behind a pointer that it is
// given in reg: what the map says, where it is a map's key or value, else all
// up to the frame's end.
func (t *tracker) argument(ins asm.Instruction, reg asm.Register, r *registers, all int) int {
	if m := r[asm.R1]; ins.IsBuiltinCall() && m.kind == aMap {
		switch fn := asm.BuiltinFunc(ins.Constant); fn {
		case asm.FnMapLookupElem, asm.FnMapUpdateElem, asm.FnMapDeleteElem:
			key, value := t.size(m.ref)
			switch reg {
			case asm.R2:
				return min(key, all)
			case asm.R3:
				return min(value, all)
			}
		}
	}
	return all
}
