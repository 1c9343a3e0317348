package chain

import (
	"cmp"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Programs written for L3AF go on with the next program themselves, by a tail
// call of entry 0 of an array of their own that has one entry. Where there is
// no next program the call fails, and they return the verdict to pass. In a
// chain the call is taken out: the verdict behind it leads to the next body.

// takeOutNext takes the tail calls through the array p.Next out of the code,
// and remembers the verdicts behind them in p.behind.
func (p *part) takeOutNext() error {
	array := p.Spec.Maps[p.Next]
	switch {
	case array == nil:
		return refuse(p.Name, "the object has no map %q to reach the next program by", p.Next)
	case array.Type != ebpf.ProgramArray || array.MaxEntries != 1:
		return refuse(p.Name, "map %s is no array of one program: it cannot be how the next program is reached", p.Next)
	case len(array.Contents) > 0:
		return refuse(p.Name, "map %s is filled by the object: it cannot be how the next program is reached", p.Next)
	}
	for n := range p.funcs {
		f := &p.funcs[n]
		for i := 0; i < len(f.ins); i++ {
			if !tailCalls(f.ins[i]) {
				continue
			}
			setup, ok := f.arguments(i, p.Next)
			if !ok {
				continue
			}
			if n > 0 {
				return refuse(p.Name, "%s calls the next program (map %s) from a function that is not the program's entry", f.name, p.Next)
			}
			code, ok := f.returned(i + 1)
			if !ok {
				return refuse(p.Name, "%s does more behind its call of the next program (map %s) than return a constant verdict", p.Entry, p.Next)
			}
			p.behind = append(p.behind, code)
			f.drop(i)
			for _, j := range setup { // from the last to the first
				f.drop(j)
				i--
			}
			i--
		}
	}
	for _, f := range p.funcs {
		for i := range f.ins {
			if f.ins[i].IsLoadFromMap() && f.ins[i].Reference() == p.Next {
				return refuse(p.Name, "%s uses map %s for more than to call its entry 0", cmp.Or(f.name, p.Entry), p.Next)
			}
		}
	}
	return nil
}

// arguments finds the instructions that prepare the tail call i of the
// constant entry 0 of an array: those that set r2 and r3, the last first. ok is
// false when the call is of something else, or of nobody knows what.
func (f *function) arguments(i int, array string) (setup []int, ok bool) {
	r2, r3 := -1, -1
	for j := i - 1; j >= 0 && (r2 < 0 || r3 < 0); j-- {
		ins := &f.ins[j]
		// A jump that leads behind j may bring something else.
		if slices.Contains(f.jumps, j+1) || !f.falls(j) || ins.OpCode.JumpOp() == asm.Call && ins.OpCode.Class().IsJump() {
			return nil, false
		}
		switch {
		case r2 < 0 && ins.Dst == asm.R2 && writes(*ins):
			if !ins.IsLoadFromMap() || ins.Reference() != array {
				return nil, false
			}
			r2 = j
		case r3 < 0 && ins.Dst == asm.R3 && writes(*ins):
			if op := ins.OpCode; op != asm.Mov.Op(asm.ImmSource) && op != asm.Mov.Op32(asm.ImmSource) || ins.Constant != 0 {
				return nil, false
			}
			r3 = j
		case r2 < 0 && reads(*ins, asm.R2), r3 < 0 && reads(*ins, asm.R3):
			return nil, false
		}
	}
	return []int{max(r2, r3), min(r2, r3)}, r2 >= 0 && r3 >= 0
}

func writes(ins asm.Instruction) bool {
	class := ins.OpCode.Class()
	return class.IsALU() || class == asm.LdXClass || class == asm.LdClass
}

func reads(ins asm.Instruction, r asm.Register) bool {
	class := ins.OpCode.Class()
	return ins.Src == r || ins.Dst == r && !(class == asm.LdXClass || class == asm.LdClass || class.IsALU() && ins.OpCode.ALUOp() == asm.Mov)
}

// returned follows the code behind the call before instruction i to an exit and
// tells which constant is returned there, if nothing else happens on the way.
func (f *function) returned(i int) (code int32, ok bool) {
	// What the straight code before the call set may be what is returned,
	// whatever other jumps lead behind the call.
	first := i - 1
	for first > 0 && f.falls(first-1) && !slices.Contains(f.jumps, first) {
		first--
	}
	known := map[asm.Register]int32{}
	for j := first; j < i; j++ {
		step(known, f.ins[j])
	}
	for range len(f.ins) {
		ins := f.ins[i]
		switch kind, _ := kindOf(ins.OpCode); {
		case kind == exit:
			code, ok = known[asm.R0]
			return code, ok
		case kind == jump || kind == longJump:
			i = f.jumps[i]
			continue
		case kind != noJump || !ins.OpCode.Class().IsALU():
			return 0, false
		}
		step(known, ins)
		i++
	}
	return 0, false
}

// step follows the registers whose low half is known through an instruction.
func step(known map[asm.Register]int32, ins asm.Instruction) {
	class, op := ins.OpCode.Class(), ins.OpCode
	if !class.IsALU() {
		if class.IsJump() {
			for r := asm.R0; r <= asm.R5; r++ {
				delete(known, r)
			}
		} else if class == asm.LdXClass || class == asm.LdClass {
			delete(known, ins.Dst)
		} else if class == asm.StXClass && op.Mode() == asm.AtomicMode {
			delete(known, ins.Src)
			delete(known, asm.R0)
		}
		return
	}
	from, copied := known[ins.Src]
	delete(known, ins.Dst)
	switch {
	case op.ALUOp() != asm.Mov || ins.Offset != 0 || btf.CORERelocationMetadata(&ins) != nil:
	case op.Source() == asm.ImmSource:
		known[ins.Dst] = int32(ins.Constant)
	case copied:
		known[ins.Dst] = from
	}
}

// drop takes an instruction out of a function. What leads to it leads to the
// one behind it then.
func (f *function) drop(i int) {
	f.ins = slices.Delete(f.ins, i, i+1)
	f.jumps = slices.Delete(f.jumps, i, i+1)
	f.calls = slices.Delete(f.calls, i, i+1)
	for j, to := range f.jumps {
		if to > i {
			f.jumps[j]--
		}
	}
}
