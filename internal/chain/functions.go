package chain

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// function is one function of a program, its jumps and calls resolved to the
// instructions they lead to.
type function struct {
	name string
	info *btf.Func // nil: the object has none
	ins  []asm.Instruction
	// jumps holds for each instruction the index in ins it jumps to, -1 for none.
	jumps []int
	// calls holds for each instruction the function it calls or points to, as
	// an index into the program's functions, -1 for none.
	calls []int
}

// functions cuts a program into its functions, the entry first, and leaves
// out those that the entry never reaches. Distances and symbols both are
// understood, in jumps and in calls.
func functions(ins asm.Instructions) ([]function, error) {
	if len(ins) == 0 {
		return nil, fmt.Errorf("has no instructions")
	}
	p := &stream{ins: ins, offsets: make([]int64, len(ins)), at: make(map[int64]int, len(ins))}
	if err := p.index(); err != nil {
		return nil, err
	}
	starts, err := p.starts()
	if err != nil {
		return nil, err
	}
	fns := make([]function, len(starts))
	for i, start := range starts {
		end := len(ins)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		if fns[i], err = p.function(start, end, starts); err != nil {
			return nil, err
		}
	}
	return reached(fns)
}

// stream is the instructions of a whole program.
type stream struct {
	ins     asm.Instructions
	offsets []int64       // of each instruction, in raw instructions: a 64-bit load is two
	at      map[int64]int // the instruction at an offset
	symbols map[string]int
}

func (p *stream) index() error {
	p.symbols = map[string]int{}
	offset := int64(0)
	for i := range p.ins {
		p.offsets[i], p.at[offset] = offset, i
		offset += int64(p.ins[i].Width())
		if s := p.ins[i].Symbol(); s != "" {
			if _, ok := p.symbols[s]; ok {
				return fmt.Errorf("has the symbol %s twice", s)
			}
			p.symbols[s] = i
		}
	}
	return nil
}

// starts lists where functions begin, in order.
func (p *stream) starts() ([]int, error) {
	starts := []int{0}
	for i := range p.ins {
		ins := &p.ins[i]
		if btf.FuncMetadata(ins) != nil {
			starts = append(starts, i)
		}
		if ins.IsFunctionReference() {
			to, err := p.target(i, ins.Constant, ins.Constant == -1)
			if err != nil {
				return nil, err
			}
			starts = append(starts, to)
		}
	}
	slices.Sort(starts)
	return slices.Compact(starts), nil
}

// target is the instruction that instruction i leads to: by symbol where it
// has one and symbolic is set, as the loader does it, else by distance.
func (p *stream) target(i int, distance int64, symbolic bool) (int, error) {
	if ref := p.ins[i].Reference(); symbolic && ref != "" {
		to, ok := p.symbols[ref]
		if !ok {
			return 0, fmt.Errorf("refers to %s, which the object does not define", ref)
		}
		return to, nil
	}
	to, ok := p.at[p.offsets[i]+1+distance]
	if !ok {
		return 0, fmt.Errorf("instruction %d leads to no instruction", p.offsets[i])
	}
	return to, nil
}

func (p *stream) function(start, end int, starts []int) (function, error) {
	f := function{
		name:  p.ins[start].Symbol(),
		info:  btf.FuncMetadata(&p.ins[start]),
		ins:   slices.Clone(p.ins[start:end]),
		jumps: make([]int, end-start),
		calls: make([]int, end-start),
	}
	switch {
	case f.name != "":
	case f.info != nil:
		f.name = f.info.Name
	case start > 0:
		f.name = fmt.Sprintf("func_%d", p.offsets[start])
	}
	for i := start; i < end; i++ {
		ins := &p.ins[i]
		f.jumps[i-start], f.calls[i-start] = -1, -1
		if ins.IsFunctionReference() {
			to, err := p.target(i, ins.Constant, ins.Constant == -1)
			if err != nil {
				return f, err
			}
			f.calls[i-start], _ = slices.BinarySearch(starts, to)
			continue
		}
		jump, err := kindOf(ins.OpCode)
		if err != nil {
			return f, fmt.Errorf("instruction %d: %w", p.offsets[i], err)
		}
		var to int
		switch jump {
		case noJump, exit:
			continue
		case longJump:
			to, err = p.target(i, ins.Constant, ins.Constant == -1)
		default:
			to, err = p.target(i, int64(ins.Offset), ins.Offset == -1)
		}
		if err != nil {
			return f, err
		}
		if to < start || to >= end {
			return f, fmt.Errorf("instruction %d jumps out of its function", p.offsets[i])
		}
		f.jumps[i-start] = to - start
	}
	if last, _ := kindOf(p.ins[end-1].OpCode); last != exit && last != jump && last != longJump {
		return f, fmt.Errorf("runs past its end: the last instruction is neither an exit nor a jump")
	}
	return f, nil
}

// flow is what an instruction does to the flow of control within a function.
type flow int

const (
	noJump   flow = iota
	jump          // always, by Offset
	longJump      // always, by Constant
	branch        // perhaps, by Offset
	exit
)

func kindOf(op asm.OpCode) (flow, error) {
	if !op.Class().IsJump() {
		return noJump, nil
	}
	switch op.JumpOp() {
	case asm.Call:
		return noJump, nil
	case asm.Exit:
		return exit, nil
	case asm.Ja:
		if op.Source() == asm.RegSource {
			return noJump, fmt.Errorf("jumps to an address in a register")
		}
		if op.Class() == asm.Jump32Class {
			return longJump, nil
		}
		return jump, nil
	case asm.JEq, asm.JNE, asm.JSet, asm.JGT, asm.JGE, asm.JLT, asm.JLE,
		asm.JSGT, asm.JSGE, asm.JSLT, asm.JSLE, asm.JCOND:
		return branch, nil
	}
	return noJump, fmt.Errorf("unknown jump %#x", uint32(op))
}

// reached keeps the functions that the first one reaches, in their order.
func reached(fns []function) ([]function, error) {
	keep := make([]bool, len(fns))
	keep[0] = true
	for todo := []int{0}; len(todo) > 0; {
		f := fns[todo[0]]
		todo = todo[1:]
		for _, to := range f.calls {
			if to == 0 {
				return nil, fmt.Errorf("calls itself")
			}
			if to > 0 && !keep[to] {
				keep[to] = true
				todo = append(todo, to)
			}
		}
	}
	var out []function
	now := make([]int, len(fns))
	for i, f := range fns {
		if keep[i] {
			now[i] = len(out)
			out = append(out, f)
		}
	}
	for _, f := range out {
		for i, to := range f.calls {
			if to >= 0 {
				f.calls[i] = now[to]
			}
		}
	}
	return out, nil
}
