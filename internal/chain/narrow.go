package chain

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
)

// SegmentError is why the kernel does not load a segment of a chain.
type SegmentError struct {
	Segment int // from 0, which is Chain.Program
	Err     error
}

func (e *SegmentError) Error() string {
	if e.Segment == 0 {
		return e.Err.Error()
	}
	return fmt.Sprintf("segment %d: %v", e.Segment+1, e.Err)
}

func (e *SegmentError) Unwrap() error { return e.Err }

// Narrow gives the next composition to try when the kernel did not load c, of
// which err tells: the segment that exceeds a limit of the verifier is cut in
// two, or its only program is called; but first its loops are marked, where there
// are any. It is false when err is about no limit, or when there is nothing left to
// try. A [*SegmentError] in err says which segment it is; else it is the first.
//
// What is tried depends on nothing but the chain and the errors, and its ID is
// that of c.
func (c *Chain) Narrow(err error) (*Chain, bool) {
	if c.made == nil {
		return nil, false
	}
	at := 0
	if e := (*SegmentError)(nil); errors.As(err, &e) {
		at = e.Segment
	}
	if at < 0 || at >= len(c.made.segments) {
		return nil, false
	}
	s, text := c.made.segments[at], logOf(err)
	p, from, to := c.made.plan.clone(), s.from, s.to
	what, stack := exceeded(err, text)
	culprit := -1
	if what == "" {
		// A frame deeper than the code told, and moved down by us.
		if what = belowFrame(text); what != "" {
			stack = true
			if last := lastInstruction(text); last >= 0 {
				culprit = c.made.fusions[at].partAt(last)
			}
		}
	}
	alone := to-from == 1
	switch {
	case !stack && p.unmark(from, to):
		if what != "" && !alone {
			p.halve(from, to)
		}
	case what == "":
		return nil, false
	case culprit >= 0 && p.why[from+culprit] == "":
		p.why[from+culprit], p.deep[from+culprit] = what, true
	case !stack && p.mark(c.made.parts, from, to):
	case !alone:
		p.halve(from, to)
	case stack && p.why[from] == "":
		p.why[from], p.deep[from] = what, true
	default:
		return nil, false
	}
	next, err := c.made.compose(p)
	return next, err == nil
}

// halve cuts the segment [from, to) in two.
func (p plan) halve(from, to int) {
	p.cut[(from+to+1)/2] = true
	if to < len(p.cut) {
		p.cut[to] = true
	}
}

// mark marks the loops of the segment [from, to). It is false where there is none
// left to mark.
func (p plan) mark(parts []*part, from, to int) (changed bool) {
	for i := from; i < to; i++ {
		switch m := &p.loops[i]; {
		case !parts[i].loops():
		case to-from == 1 && *m < markedAlone:
			*m, changed = markedAlone, true
		case *m == unmarked:
			*m, changed = marked, true
		}
	}
	return changed
}

// unmark takes the marks off the segment [from, to), where it has any.
func (p plan) unmark(from, to int) (changed bool) {
	for i := from; i < to; i++ {
		if p.loops[i].on() {
			p.loops[i]++
			changed = true
		}
	}
	return changed
}

// Composition is how a chain was composed after the kernel's limits were met.
// It is small and may be kept.
type Composition struct{ plan plan }

// Composition tells how c was composed.
func (c *Chain) Composition() Composition {
	if c.made == nil {
		return Composition{}
	}
	return Composition{c.made.plan.clone()}
}

// As gives the chain in another composition, that of a chain with the same ID.
// It is false when that is not possible.
func (c *Chain) As(o Composition) (*Chain, bool) {
	if c.made == nil || len(o.plan.why) != len(c.made.parts) {
		return nil, false
	}
	as, err := c.made.compose(o.plan.clone())
	return as, err == nil
}

// logOf is all that the kernel said.
func logOf(err error) string {
	if e := (*ebpf.VerifierError)(nil); errors.As(err, &e) {
		return strings.Join(e.Log, "\n")
	}
	return err.Error()
}

// exceeded tells which limit of a whole program the verifier met, "" for none,
// and whether it is one of the stack (all in kernel/bpf/verifier.c).
func exceeded(err error, log string) (what string, stack bool) {
	switch {
	case strings.Contains(log, "combined stack size"), strings.Contains(log, "tail_calls are not allowed when call stack"):
		return "inlined it would take more stack than the kernel allows", true
	case strings.Contains(log, "BPF program is too large"), strings.Contains(log, "jumps is too complex"), errors.Is(err, syscall.E2BIG):
		return "inlined it would take more of the verifier than the kernel allows", false
	}
	return "", false
}

var (
	stackAccess = regexp.MustCompile(`invalid .*stack R\d+ off=-(\d+) `)
	instruction = regexp.MustCompile(`(?m)^(\d+): \(`)
)

// belowFrame tells whether the verifier refused an access that is below the
// frame only since frames are moved down in a chain.
func belowFrame(log string) string {
	m := stackAccess.FindStringSubmatch(log)
	if m == nil {
		return ""
	}
	if n, err := strconv.Atoi(m[1]); err != nil || n <= maxFrame || n > maxFrame+frameShift {
		return ""
	}
	return fmt.Sprintf("uses %d bytes of stack in its entry function; inlining leaves it %d", maxFrame, maxFrame-frameShift)
}

// lastInstruction is the offset of the last instruction in a log.
func lastInstruction(log string) int {
	all := instruction.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		return -1
	}
	n, err := strconv.Atoi(all[len(all)-1][1])
	if err != nil {
		return -1
	}
	return n
}
