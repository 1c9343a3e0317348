package chain

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// needs is what a part takes of the program it becomes a part of, as far as
// its code tells. The verifier has the last word.
type needs struct {
	why          string // why it must be called; "": it can be inlined
	deep         bool   // called only from a segment that leaves all of the stack to it
	instructions int    // at most, in raw instructions
	frame        int    // stack of the entry function
	below        int    // stack of what the entry function calls, at the deepest
	tailCall     int    // stack in use where a function but the entry makes a tail call; -1: none does
	tailCalls    bool   // some function makes a tail call
}

// needsOf looks at a part's code.
func needsOf(p *part) (needs, error) {
	n := needs{frame: depth(p.funcs[0]), tailCall: -1}
	for _, f := range p.funcs {
		for i, ins := range f.ins {
			if ins.Dst > asm.R10 || ins.Src > asm.R10 {
				return n, refuse(p.Name, "%s uses a register that is not there", f.name)
			}
			n.instructions += int(ins.Width())
			switch mode := ins.OpCode.Mode(); {
			case tailCalls(ins):
				n.tailCalls = true
				n.why = fmt.Sprintf("%s makes a tail call, which would skip the rest of the chain", f.name)
			case ins.OpCode.Class() == asm.LdClass && (mode == asm.AbsMode || mode == asm.IndMode):
				if n.why == "" {
					n.why = fmt.Sprintf("%s uses BPF_LD_ABS or BPF_LD_IND, which return from it past the packet's end", f.name)
				}
			}
			if f.calls[i] == 0 {
				return n, refuse(p.Name, "calls itself")
			}
		}
	}
	// Inlining lengthens: a copy of the frame pointer, and each exit, at most.
	entry := p.funcs[0]
	for i, ins := range entry.ins {
		moved, _, err := rebase(ins)
		if err == nil && entry.jumps[i] >= 0 && usesFrame(moved) {
			err = errCompared
		}
		if err == errWrites {
			return n, refuse(p.Name, "%v", err)
		}
		if err != nil && n.why == "" {
			n.why = err.Error()
		}
		n.instructions++
	}
	n.instructions += 64
	w := &weights{p.funcs, map[int]int{}, map[int]int{}}
	n.below = w.of(0) - aligned(n.frame)
	n.tailCall = w.tailCall(0)
	if d := n.frame; d > maxFrame-frameShift {
		n.deep = true
		if n.why == "" {
			n.why = fmt.Sprintf("uses %d bytes of stack in its entry function; inlining leaves it %d", d, maxFrame-frameShift)
		}
	} else if total := aligned(d+frameShift) + n.below; total > maxFrame {
		n.deep = true
		if n.why == "" {
			n.why = fmt.Sprintf("uses %d bytes of stack with its functions; inlining takes %d, and %d is the limit", total-aligned(d+frameShift)+aligned(d), frameShift, maxFrame)
		}
	}
	return n, nil
}

func tailCalls(ins asm.Instruction) bool {
	return ins.IsBuiltinCall() && ins.Constant == int64(asm.FnTailCall)
}

// aligned is how much stack the kernel counts for a frame when it compiles
// (round_up_stack_depth in kernel/bpf/verifier.c).
func aligned(frame int) int { return (frame + 15) &^ 15 }

// weights adds up the frames along a program's calls. The verifier refuses
// recursion; here it only ends.
type weights struct {
	funcs    []function
	stack    map[int]int
	tailWith map[int]int
}

// of is the stack of a function with all it calls.
func (w *weights) of(f int) int {
	if n, ok := w.stack[f]; ok {
		return n
	}
	w.stack[f] = 0
	deepest := 0
	for _, to := range w.funcs[f].calls {
		if to >= 0 {
			deepest = max(deepest, w.of(to))
		}
	}
	w.stack[f] = aligned(depth(w.funcs[f])) + deepest
	return w.stack[f]
}

// tailCall is the most stack that f and what it calls have in use below f's
// callers where a function makes a tail call, without that function's own; -1
// where none does. The tail calls of the entry are not among them.
func (w *weights) tailCall(f int) int {
	if n, ok := w.tailWith[f]; ok {
		return n
	}
	w.tailWith[f] = -1
	most := -1
	for i, to := range w.funcs[f].calls {
		if f > 0 && tailCalls(w.funcs[f].ins[i]) {
			most = max(most, 0)
		}
		if to < 0 {
			continue
		}
		if n := w.tailCall(to); n >= 0 {
			most = max(most, aligned(depth(w.funcs[f]))+n)
		}
	}
	w.tailWith[f] = most
	return most
}
