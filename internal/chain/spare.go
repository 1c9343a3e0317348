package chain

import (
	"slices"

	"github.com/cilium/ebpf/asm"
)

// What inlining spares: memory accesses for the context, where a register is
// left for it, and verdicts that nobody looks at.

// spareRegister is one that calls preserve and that no function uses; R10
// where there is none. R6 comes first: counting uses it anyway.
func spareRegister(all []function) asm.Register {
	used := [asm.R10 + 1]bool{}
	for _, f := range all {
		for _, ins := range f.ins {
			used[min(ins.Dst, asm.R10)], used[min(ins.Src, asm.R10)] = true, true
		}
	}
	for r := asm.R6; r < asm.R10; r++ {
		if !used[r] {
			return r
		}
	}
	return asm.R10
}

// findsContext is the function reading the context from r, not from R1. It is
// false where that cannot be told or done: a call gets it, or R1 may hold
// something else.
func (f function) findsContext(r asm.Register) (function, bool) {
	const (
		context = 1 << iota
		other
		either = context | other
	)
	before := make([]int, len(f.ins)+1) // what R1 holds
	before[0] = context
	for todo := []int{0}; len(todo) > 0; {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		after := before[i]
		if writesArgument(f.ins[i]) {
			after = other
		}
		reach := func(to int) {
			if was := before[to]; was|after != was {
				before[to] |= after
				todo = append(todo, to)
			}
		}
		if to := f.jumps[i]; to >= 0 {
			reach(to)
		}
		if f.falls(i) {
			reach(i + 1)
		}
	}
	g := f
	g.ins = slices.Clone(f.ins)
	for i := range g.ins {
		ins := &g.ins[i]
		src, dst, ok := readsArgument(*ins)
		if !src && !dst && ok || before[i]&context == 0 {
			continue
		}
		if !ok || before[i] == either {
			return f, false
		}
		if src {
			ins.Src = r
		}
		if dst {
			ins.Dst = r
		}
	}
	return g, true
}

// readsArgument tells whether an instruction reads R1 as its source or its
// destination, where another register would do as well; else ok is false.
func readsArgument(ins asm.Instruction) (src, dst, ok bool) {
	src, dst = ins.Src == asm.R1, ins.Dst == asm.R1
	switch class, op := ins.OpCode.Class(), ins.OpCode; {
	case op == asm.Mov.Op(asm.RegSource) && ins.Offset == 0:
		return src, false, true
	case class == asm.LdXClass:
		return src, false, true
	case class == asm.StClass:
		return false, dst, true
	case class == asm.StXClass && op.Mode() == asm.MemMode:
		return src, dst, true
	case class == asm.LdClass && op.Mode() == asm.ImmMode:
		return false, false, true
	case class.IsJump():
		kind, _ := kindOf(op)
		return false, false, kind != noJump && !src && !dst
	case class.IsALU():
		moved := op.ALUOp() == asm.Mov && op.Source() == asm.ImmSource
		return false, false, moved || !src && !dst
	}
	return false, false, !src && !dst
}

// writesArgument tells whether an instruction may give R1 another value.
func writesArgument(ins asm.Instruction) bool {
	switch class := ins.OpCode.Class(); {
	case class.IsJump():
		return ins.OpCode.JumpOp() == asm.Call
	case class == asm.StClass, class == asm.StXClass && ins.OpCode.Mode() == asm.MemMode:
		return false
	case class == asm.StXClass: // what is fetched goes to the source, or with load-acquire to the destination
		return ins.Dst == asm.R1 || ins.Src == asm.R1
	}
	return ins.Dst == asm.R1
}

// unread lists the instructions of f that do nothing but give r0 a value that
// is not read, when f leaves as out says: a verdict that is known is not.
func unread(f function, out *exitPlan) map[int]bool {
	at := func(to label) bool { return to != nowhere && to == out.join }
	before := make([]bool, len(f.ins)+1) // r0 is read from here on before it is written
	after := make([]bool, len(f.ins))
	for changed := true; changed; {
		changed = false
		for i := len(f.ins) - 1; i >= 0; i-- {
			now := false
			if to, ok := out.exits[i]; ok {
				now = at(to)
			} else {
				after[i] = f.falls(i) && before[i+1]
				if to, ok := out.jumps[i]; ok {
					after[i] = after[i] || at(to)
				} else if to := f.jumps[i]; to >= 0 {
					after[i] = after[i] || before[to]
				}
				reads, writes := usesResult(f.ins[i])
				now = reads || after[i] && !writes
			}
			if now != before[i] {
				before[i], changed = now, true
			}
		}
	}
	var unread map[int]bool
	for i, ins := range f.ins {
		if class := ins.OpCode.Class(); class.IsALU() && ins.OpCode.ALUOp() == asm.Mov && ins.Dst == asm.R0 && !after[i] {
			if unread == nil {
				unread = map[int]bool{}
			}
			unread[i] = true
		}
	}
	return unread
}

// usesResult tells whether an instruction reads r0 and whether it writes all
// of it. In doubt it reads.
func usesResult(ins asm.Instruction) (reads, writes bool) {
	op := ins.OpCode
	dst, src := ins.Dst == asm.R0, ins.Src == asm.R0
	switch class := op.Class(); {
	case class.IsALU():
		moves := op.ALUOp() == asm.Mov
		return dst && !moves || src && op.Source() == asm.RegSource, dst && moves
	case class.IsJump():
		if op.JumpOp() == asm.Call {
			return false, true
		}
		kind, _ := kindOf(op)
		return kind == branch && (dst || src && op.Source() == asm.RegSource) || kind == exit, false
	case class == asm.LdXClass:
		return src, dst
	case class == asm.StClass:
		return dst, false
	case class == asm.StXClass && op.Mode() == asm.MemMode:
		return dst || src, false
	case class == asm.LdClass && op.Mode() == asm.ImmMode:
		return false, dst
	}
	return true, false
}

// chainEnd is where the chain ends with the verdict of a part: w0, or one that
// is known and need not be in w0.
type chainEnd struct {
	at    label
	part  int
	known bool
	code  int32
}

// chainEnds are all of them.
type chainEnds struct {
	of       []label    // of each part, with the verdict w0
	constant []chainEnd // with known verdicts
}

func newChainEnds(l *listing, parts []*part) *chainEnds {
	e := &chainEnds{}
	for range parts {
		e.of = append(e.of, l.label())
	}
	return e
}

// known gives the label where the chain ends with a known verdict.
func (e *chainEnds) known(l *listing, part int, code int32) label {
	i := slices.IndexFunc(e.constant, func(f chainEnd) bool { return f.part == part && f.code == code })
	if i < 0 {
		i = len(e.constant)
		e.constant = append(e.constant, chainEnd{l.label(), part, true, code})
	}
	return e.constant[i].at
}

// inUse lists those that something leads to, the last part's first, which the
// code before falls into if falls is set. The kernel refuses others.
func (e *chainEnds) inUse(l *listing, falls bool) []chainEnd {
	var all []chainEnd
	for part, at := range slices.Backward(e.of) {
		if falls && part == len(e.of)-1 || l.leads(at) {
			all = append(all, chainEnd{at: at, part: part})
		}
	}
	for _, f := range e.constant {
		if l.leads(f.at) {
			all = append(all, f)
		}
	}
	return all
}
