package chain

import (
	"fmt"
	"math"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

const (
	// frameShift is what a chain takes from the top of the entry function's
	// frame: the saved context. Every body's frame lies below.
	frameShift = 8
	maxFrame   = 512 // MAX_BPF_STACK
)

// splice adds the entry function of a program to l: its frame lies frameShift
// lower, and where it would exit it goes where out says. If out.joined, the
// join must be placed next, else out.next. names are the symbols of the
// functions it calls.
func (l *listing) splice(program string, f function, names []string, out *exitPlan) error {
	if d := depth(f); d > maxFrame-frameShift {
		return fmt.Errorf("uses %d bytes of stack in its entry function; a chain leaves it %d", d, maxFrame-frameShift)
	}
	labels, unread, first := l.labels(f), unread(f, out), len(l.ins)
	defer func() {
		if len(l.ins) > first {
			l.ins[first] = begins(l.ins[first], program)
		}
	}()
	for i := 0; i < len(f.ins); i++ {
		ins := plain(f.ins[i])
		if at, ok := labels[i]; ok {
			l.place(at)
		}
		if unread[i] {
			continue
		}
		if f.calls[i] >= 0 {
			ins.Constant = -1
			ins = ins.WithReference(names[f.calls[i]])
		}
		if f.jumps[i] >= 0 {
			if usesFrame(ins) {
				return errCompared
			}
			to, ok := out.jumps[i]
			if !ok {
				to = labels[f.jumps[i]]
			}
			l.jump(unresolved(ins), to)
			continue
		}
		if to, ok := out.exits[i]; ok {
			behind := i == len(f.ins)-1 && to == out.behind()
			if to != nowhere && !behind {
				l.jump(unresolved(asm.Ja.Label("").WithMetadata(ins.Metadata)), to)
			}
			continue
		}
		moved, lower, err := rebase(ins)
		if err != nil {
			return err
		}
		l.add(moved)
		if !lower {
			continue
		}
		// A copy of the frame pointer mostly gets its offset at once: take
		// the shift into that.
		if next := i + 1; next < len(f.ins) && labels[next] == 0 && addsTo(f.ins[next], ins.Dst) {
			add := plain(f.ins[next])
			add.Constant -= frameShift
			l.add(add)
			i = next
			continue
		}
		l.add(asm.Add.Imm(ins.Dst, -frameShift))
	}
	return nil
}

// keep adds a function as it is, under the names of the chain.
func (l *listing) keep(f function, names []string) error {
	labels := l.labels(f)
	for i := range f.ins {
		ins := plain(f.ins[i])
		if at, ok := labels[i]; ok {
			l.place(at)
		}
		switch {
		case f.calls[i] >= 0:
			ins.Constant = -1
			l.add(ins.WithReference(names[f.calls[i]]))
		case f.jumps[i] >= 0:
			l.jump(unresolved(ins), labels[f.jumps[i]])
		default:
			l.add(ins)
		}
	}
	return l.link()
}

// labels makes a label for every instruction of f that is jumped to.
func (l *listing) labels(f function) map[int]label {
	if len(l.places) == 0 {
		l.label() // so that no label is 0, the map's zero value
	}
	labels := map[int]label{}
	for _, to := range f.jumps {
		if to >= 0 && labels[to] == 0 {
			labels[to] = l.label()
		}
	}
	return labels
}

// plain takes the names off an instruction, which are only good in its object.
func plain(ins asm.Instruction) asm.Instruction {
	if ins.Symbol() != "" {
		ins = ins.WithSymbol("")
	}
	if btf.FuncMetadata(&ins) != nil {
		ins = btf.WithFuncMetadata(ins, nil)
	}
	return ins
}

// unresolved takes the symbol off a jump: link gives it its distance.
func unresolved(ins asm.Instruction) asm.Instruction {
	if ins.Reference() != "" {
		ins = ins.WithReference("")
	}
	return ins
}

var (
	errCompared = fmt.Errorf("compares the frame pointer, which cannot be moved then")
	errWrites   = fmt.Errorf("writes the frame pointer")
)

// usesFrame says whether a jump looks at the frame pointer.
func usesFrame(ins asm.Instruction) bool {
	kind, _ := kindOf(ins.OpCode)
	return kind == branch && ins.OpCode.JumpOp() != asm.JCOND &&
		(ins.Dst == asm.R10 || ins.OpCode.Source() == asm.RegSource && ins.Src == asm.R10)
}

// memory tells which register an instruction uses as the base of an access,
// and which it reads or writes there. ok is false when it accesses no memory.
func memory(ins asm.Instruction) (base, value asm.Register, ok bool) {
	const loadAcquire asm.AtomicOp = 0x100 << 8 // BPF_LOAD_ACQ, a load in the class of the stores
	switch ins.OpCode.Class() {
	case asm.LdXClass:
		return ins.Src, ins.Dst, true
	case asm.StClass:
		return ins.Dst, asm.R0, true
	case asm.StXClass:
		if ins.OpCode.AtomicOp() == loadAcquire {
			return ins.Src, ins.Dst, true
		}
		return ins.Dst, ins.Src, true
	}
	return 0, 0, false
}

// rebase moves an instruction's use of the frame down by frameShift. With
// lower set, its destination holds a pointer that the caller must lower.
func rebase(ins asm.Instruction) (_ asm.Instruction, lower bool, err error) {
	if base, value, ok := memory(ins); ok {
		switch {
		case value == asm.R10:
			return ins, false, fmt.Errorf("stores the frame pointer in memory, so its frame cannot be moved")
		case base != asm.R10:
			return ins, false, nil
		case btf.CORERelocationMetadata(&ins) != nil:
			return ins, false, fmt.Errorf("has a CO-RE relocation of an offset in its frame")
		case ins.Offset < math.MinInt16+frameShift:
			return ins, false, fmt.Errorf("accesses its frame at %d", ins.Offset)
		}
		ins.Offset -= frameShift
		return ins, false, nil
	}
	switch class := ins.OpCode.Class(); class {
	case asm.LdClass:
		if mode := ins.OpCode.Mode(); mode == asm.AbsMode || mode == asm.IndMode {
			return ins, false, fmt.Errorf("uses BPF_LD_ABS or BPF_LD_IND, which end the program past the packet's end and with it the chain")
		}
		if ins.Dst == asm.R10 {
			return ins, false, errWrites
		}
	case asm.ALUClass, asm.ALU64Class:
		op := ins.OpCode.ALUOp()
		if ins.Dst == asm.R10 {
			return ins, false, errWrites
		}
		if ins.OpCode.Source() != asm.RegSource || ins.Src != asm.R10 {
			return ins, false, nil
		}
		if class != asm.ALU64Class || op != asm.Mov && op != asm.Add || ins.Offset != 0 {
			return ins, false, fmt.Errorf("calculates with the frame pointer (%v), so its frame cannot be moved", ins)
		}
		return ins, true, nil
	}
	return ins, false, nil
}

// addsTo says whether ins adds a constant, known now, to a register.
func addsTo(ins asm.Instruction, r asm.Register) bool {
	return ins.OpCode == asm.Add.Op(asm.ImmSource) && ins.Dst == r && ins.Offset == 0 &&
		btf.CORERelocationMetadata(&ins) == nil && ins.Constant >= math.MinInt32+frameShift
}

// depth is how far below the frame pointer a function accesses its frame, as
// far as straight-line code tells. The verifier has the last word.
func depth(f function) int {
	t := frame{known: map[asm.Register]int64{asm.R10: 0}}
	labels := map[int]bool{}
	for _, to := range f.jumps {
		if to >= 0 {
			labels[to] = true
		}
	}
	for i, ins := range f.ins {
		if labels[i] {
			t.forget()
		}
		t.step(ins)
	}
	return int(t.deepest)
}

// frame follows copies of the frame pointer.
type frame struct {
	known   map[asm.Register]int64 // register: its distance from the frame pointer
	deepest int64
}

func (t *frame) forget() { t.known = map[asm.Register]int64{asm.R10: 0} }

func (t *frame) access(r asm.Register, offset int16) {
	if at, ok := t.known[r]; ok {
		t.deepest = max(t.deepest, -(at + int64(offset)))
	}
}

func (t *frame) step(ins asm.Instruction) {
	switch kind, _ := kindOf(ins.OpCode); kind {
	case exit, jump, longJump:
		t.forget()
		return
	case branch:
		return
	}
	if base, value, ok := memory(ins); ok {
		t.access(base, ins.Offset)
		if ins.OpCode.Class() == asm.LdXClass || ins.OpCode.Mode() == asm.AtomicMode {
			t.lose(value)
			t.lose(asm.R0)
		}
		return
	}
	if ins.OpCode.JumpOp() == asm.Call {
		for r := asm.R1; r <= asm.R5; r++ {
			t.access(r, 0)
			t.lose(r)
		}
		t.lose(asm.R0)
		return
	}
	at, ok := t.known[ins.Dst]
	from, copied := t.known[ins.Src]
	switch ins.OpCode {
	case asm.Mov.Op(asm.RegSource):
		t.lose(ins.Dst)
		if copied && ins.Offset == 0 {
			t.known[ins.Dst] = from
		}
	case asm.Add.Op(asm.ImmSource):
		if ok && ins.Dst != asm.R10 {
			t.known[ins.Dst] = at + int64(int32(ins.Constant))
		}
	default:
		t.lose(ins.Dst)
	}
}

func (t *frame) lose(r asm.Register) {
	if r != asm.R10 {
		delete(t.known, r)
	}
}
