package chain

import (
	"fmt"
	"slices"
)

// maxSegments is how many programs one packet may go through by tail calls
// (MAX_TAIL_CALL_CNT).
const maxSegments = 33

// tailCallFrame is how much stack callers may use where a tail call is made in
// a function that is called.
const tailCallFrame = 256

// plan is what is decided about a chain's programs beforehand, one entry for
// each. The rest follows from it.
type plan struct {
	why  []string // why it is called; "": it is inlined
	deep []bool   // it is called where its callers use no stack
	cut  []bool   // a segment begins with it
	// loops says whether its loops are marked (see [function.marked]).
	loops []marking
}

// marking is whether the loops of a program are marked. It is tried once with
// others, and once with the program alone in its segment: marks have a price, and
// what they do to others may be what the kernel does not take.
type marking int

const (
	unmarked marking = iota
	marked
	notTogether
	markedAlone
	notAtAll
)

func (m marking) on() bool { return m == marked || m == markedAlone }

func newPlan(all []*part) plan {
	p := plan{make([]string, len(all)), make([]bool, len(all)), make([]bool, len(all)), make([]marking, len(all))}
	for i, of := range all {
		p.why[i], p.deep[i] = of.needs.why, of.needs.deep
	}
	return p
}

func (p plan) clone() plan {
	return plan{slices.Clone(p.why), slices.Clone(p.deep), slices.Clone(p.cut), slices.Clone(p.loops)}
}

// segment is the parts [from, to) of a chain, which are one program.
type segment struct {
	from, to int
	why      []string // why a part is called
	loops    []marking
	// lean: every part is called, the context is kept in a register, and the
	// entry function uses no stack.
	lean bool
}

// arrange cuts the chain into segments, as few as it takes. Where there would
// be too many, programs are called that could be inlined.
func (c *composition) arrange(p *plan) ([]segment, error) {
	all, err := c.cut(*p)
	if err != nil || len(all) <= maxSegments {
		return all, err
	}
	called := p.clone()
	for i := range called.why {
		if called.why[i] == "" {
			called.why[i] = fmt.Sprintf("the chain would take %d segments; %d is the limit", len(all), maxSegments)
		}
	}
	if again, err := c.cut(called); err == nil && len(again) <= maxSegments {
		*p = called
		return again, nil
	}
	return nil, refuse("", "the chain takes %d segments; %d is the limit, as the kernel follows no more tail calls", len(all), maxSegments)
}

func (c *composition) cut(p plan) ([]segment, error) {
	own := 0 // maps that every segment uses
	if !c.options.NoCounters {
		own = 1
	}
	all, err := c.cutWith(p, own)
	if len(all) > 1 {
		all, err = c.cutWith(p, own+1) // the PROG_ARRAY
	}
	return all, err
}

func (c *composition) cutWith(p plan, own int) ([]segment, error) {
	var all []segment
	from, now := 0, newRoom(own)
	for i := range c.parts {
		next := now.with(c, p, i)
		if i > from && (p.cut[i] || next.full() != "") {
			all = append(all, segment{from, i, p.why[from:i], p.loops[from:i], now.lean})
			from, next = i, newRoom(own).with(c, p, i)
		}
		if why := next.full(); why != "" {
			return nil, refuse(c.parts[i].Name, "%s", why)
		}
		now = next
	}
	return append(all, segment{from, len(c.parts), p.why[from:], p.loops[from:], now.lean}), nil
}

// room is how full a segment is.
type room struct {
	own                     int
	maps                    map[string]bool
	functions, instructions int
	lean, deep              bool
	frame                   int // stack of the entry function
	below                   int // stack below it
	tailCall                int // of callers below it, where a tail call is made; -1: none
}

func newRoom(own int) room {
	return room{own: own, functions: 1, lean: true, tailCall: -1}
}

// with is the room with one more part.
func (r room) with(c *composition, p plan, i int) room {
	n, part := c.parts[i].needs, c.parts[i]
	was := r.maps
	r.maps = make(map[string]bool, len(was)+len(part.maps))
	for name := range was {
		r.maps[name] = true
	}
	for symbol := range part.direct {
		r.maps[symbol] = true
	}
	r.instructions += n.instructions
	r.functions += len(part.funcs)
	if p.why[i] == "" {
		r.functions--
		r.lean = false
		r.frame = max(r.frame, n.frame)
		r.below = max(r.below, n.below)
		r.tailCall = max(r.tailCall, n.tailCall)
		return r
	}
	r.deep = r.deep || p.deep[i]
	r.below = max(r.below, aligned(n.frame)+n.below)
	if n.tailCalls {
		r.tailCall = max(r.tailCall, n.tailCall, 0)
	}
	return r
}

// full says why the segment cannot be; "" when it can.
func (r room) full() string {
	frame, functions := 0, r.functions
	if r.lean {
		functions++ // the counting
	} else {
		frame = aligned(r.frame + frameShift)
	}
	switch {
	case len(r.maps)+r.own > maxMaps:
		return fmt.Sprintf("it needs %d maps, and the chain %d more with it; the kernel allows a program %d", len(r.maps), r.own, maxMaps)
	case functions > maxFunctions:
		return fmt.Sprintf("it has %d functions in its chain; the kernel allows a program %d", functions, maxFunctions)
	case r.instructions > maxInstructions:
		return fmt.Sprintf("it has up to %d instructions in its chain; the kernel allows a program %d", r.instructions, maxInstructions)
	case r.deep && !r.lean, // its callers use stack
		!r.lean && frame+r.below > maxFrame,
		!r.lean && r.tailCall >= 0 && frame+r.tailCall >= tailCallFrame:
		return "it does not fit on the stack with the rest of its segment"
	}
	return ""
}
