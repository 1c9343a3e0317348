package chain

import (
	"fmt"
	"math"
	"slices"

	"github.com/cilium/ebpf/asm"
)

// label names a place in a listing.
type label int

const nowhere label = -1

// listing is the code of one function under construction. Its jumps lead to
// labels, so that instructions can be added anywhere; link gives them their
// distances.
type listing struct {
	ins    []asm.Instruction
	jumps  []label // where the instruction of the same index jumps to
	places []int   // of each label: an index into ins
}

// newListing makes a listing with room for so many instructions.
func newListing(size int) *listing {
	return &listing{ins: make([]asm.Instruction, 0, size), jumps: make([]label, 0, size)}
}

func (l *listing) label() label {
	l.places = append(l.places, -1)
	return label(len(l.places) - 1)
}

// place puts a label before the instruction that is added next.
func (l *listing) place(at label) { l.places[at] = len(l.ins) }

// leads says whether a jump leads to a label. The kernel refuses code that
// nothing leads to.
func (l *listing) leads(to label) bool { return slices.Contains(l.jumps, to) }

func (l *listing) add(ins ...asm.Instruction) {
	for _, i := range ins {
		l.ins = append(l.ins, i)
		l.jumps = append(l.jumps, nowhere)
	}
}

func (l *listing) jump(ins asm.Instruction, to label) {
	l.ins = append(l.ins, ins)
	l.jumps = append(l.jumps, to)
}

// glue marks instructions of our own making: dumps and the verifier's log show
// the text before the first.
func glue(text string, ins ...asm.Instruction) []asm.Instruction {
	ins[0] = ins[0].WithSource(asm.Comment(text))
	return ins
}

// rangeError is a jump farther than an instruction can tell.
type rangeError struct {
	distance int64
	at       int // offset of the jump, in raw instructions
}

func (e *rangeError) Error() string {
	return fmt.Sprintf("has a jump over %d instructions; 16 bits reach 32767", e.distance)
}

// link writes the distance of every jump. Unconditional jumps past 16 bits
// become long ones (gotol, Linux 6.6).
func (l *listing) link() error {
	offsets := make([]int64, len(l.ins)+1)
	for i := range l.ins {
		offsets[i+1] = offsets[i] + int64(l.ins[i].Width())
	}
	for i, to := range l.jumps {
		if to == nowhere {
			continue
		}
		ins := &l.ins[i]
		distance := offsets[l.places[to]] - offsets[i] - 1
		switch kind, _ := kindOf(ins.OpCode); {
		case kind == longJump:
			ins.Constant = distance
		case distance >= math.MinInt16 && distance <= math.MaxInt16:
			ins.Offset = int16(distance)
		case kind == jump:
			ins.OpCode = asm.OpCode(asm.Jump32Class).SetJumpOp(asm.Ja)
			ins.Offset, ins.Constant = 0, distance
		default:
			return &rangeError{distance, int(offsets[i])}
		}
	}
	return nil
}
