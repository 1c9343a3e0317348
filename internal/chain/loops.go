package chain

import (
	"slices"

	"github.com/cilium/ebpf/asm"
)

// marked gives a function with a mark before each place that a loop goes back to.
//
// The verifier knows that it has been at a place only where it noted what it knew
// there, which in a loop it does every hundred instructions or so, counted from
// wherever it came (is_state_visited in kernel/bpf/verifier.c). Whether a note
// falls on the place where the paths of a loop meet is luck: of one that an if in it
// makes two paths each time around, it may see all 2^n, and that turns on the code
// before and behind it, which in a chain is another than alone. At a may_goto it
// always notes. One that goes nowhere does nothing; since Linux 6.14 the kernel takes
// it out again, and before 6.9 it knows none.
func (f function) marked() function {
	heads := f.loops()
	if len(heads) == 0 {
		return f
	}
	at := make([]int, len(f.ins)) // where each instruction comes to lie, behind its mark
	for i := range at {
		before, isHead := slices.BinarySearch(heads, i)
		if at[i] = i + before; isHead {
			at[i]++
		}
	}
	g := function{name: f.name, info: f.info}
	for i, ins := range f.ins {
		if _, isHead := slices.BinarySearch(heads, i); isHead {
			mark := asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.JCOND)}
			if line := ins.Source(); line != nil {
				mark = mark.WithSource(line)
			}
			g.ins, g.jumps, g.calls = append(g.ins, mark), append(g.jumps, at[i]), append(g.calls, -1)
		}
		to := f.jumps[i]
		if to >= 0 {
			_, isHead := slices.BinarySearch(heads, to)
			if to = at[to]; isHead {
				to--
			}
		}
		g.ins, g.jumps, g.calls = append(g.ins, ins), append(g.jumps, to), append(g.calls, f.calls[i])
	}
	return g
}

// loops lists the instructions that a later one goes back to, in order.
func (f function) loops() []int {
	var heads []int
	for i, to := range f.jumps {
		if to >= 0 && to <= i {
			heads = append(heads, to)
		}
	}
	slices.Sort(heads)
	return slices.Compact(heads)
}

// marked gives the part with its loops marked.
func (p *part) marked() *part {
	q := *p
	q.funcs = make([]function, len(p.funcs))
	for i, f := range p.funcs {
		q.funcs[i] = f.marked()
	}
	return &q
}

// loops says whether there is any loop in the part.
func (p *part) loops() bool {
	return slices.ContainsFunc(p.funcs, func(f function) bool { return len(f.loops()) > 0 })
}
