package btftext

import (
	"fmt"
	"strings"

	"l3af/internal/rawbtf"
)

// layout is how a struct or union is written in C so that it is laid out as
// BTF says.
type layout struct {
	packed bool
	align  uint64 // bits
	// before is the padding before each member, and behind the last one, in bits.
	before []gap
}

// gap is bits from one place to another that no member has.
type gap struct{ from, to uint64 }

// place is what decides where C puts a member.
type place struct {
	at    uint64 // bits, where BTF has it
	bits  uint64 // that it takes
	align uint64 // bits
	field uint64 // of a bitfield, the bits of its type; else 0
}

// natural is where C puts a member that comes behind so many bits.
func (p *place) natural(cur uint64, packed bool) uint64 {
	switch {
	case p.field > 0 && packed:
		return cur
	case p.field > 0: // it does not straddle a unit of its type
		if cur%p.field+p.bits > p.field {
			return roundUp(cur, p.field)
		}
		return cur
	case packed:
		return roundUp(cur, 8)
	}
	return roundUp(cur, p.align)
}

func roundUp(n, to uint64) uint64 {
	if to == 0 {
		return n
	}
	return (n + to - 1) / to * to
}

// layout finds how to write a struct or union: as it is, else packed.
func (c *C) layout(id rawbtf.ID, t *rawbtf.Type) *layout {
	if l := c.layouts[id]; l != nil {
		return l
	}
	c.layouts[id] = &layout{align: 8} // for types that contain themselves
	members := t.Members()
	places := make([]place, len(members))
	for i, m := range members {
		places[i] = c.place(m)
	}
	l := arrange(places, uint64(t.Size)*8, t.Kind == rawbtf.Union, false)
	if l == nil {
		l = arrange(places, uint64(t.Size)*8, t.Kind == rawbtf.Union, true)
	}
	if l == nil { // members that overlap
		l = &layout{packed: true, align: 8, before: make([]gap, len(places)+1)}
	}
	c.layouts[id] = l
	return l
}

func (c *C) place(m rawbtf.Member) place {
	p := place{at: uint64(m.Offset), align: c.align(m.Type)}
	size, _ := c.spec.Sizeof(m.Type)
	p.bits = 8 * size
	bits, at := fieldOf(c.spec, m)
	if bits > 0 {
		p.at, p.bits, p.field = at, bits, 8*size
	}
	return p
}

// fieldOf is how many bits a bitfield has and where they are; 0 for other
// members. Old compilers keep that in the INT.
func fieldOf(s *rawbtf.Spec, m rawbtf.Member) (bits, at uint64) {
	if m.Bits > 0 {
		return uint64(m.Bits), uint64(m.Offset)
	}
	if _, t := s.Resolve(m.Type); t != nil && t.Kind == rawbtf.Int {
		i := t.Integer()
		if i.Offset > 0 || uint32(i.Bits) < 8*t.Size && i.Bits > 0 {
			return uint64(i.Bits), uint64(m.Offset) + uint64(i.Offset)
		}
	}
	return 0, 0
}

// arrange puts padding where C would put members elsewhere. It is nil where
// that does not help.
func arrange(places []place, size uint64, union, packed bool) *layout {
	l := &layout{packed: packed, align: 8, before: make([]gap, len(places)+1)}
	cur := uint64(0)
	for i := range places {
		p := &places[i]
		if !packed {
			l.align = max(l.align, p.align)
		}
		if union {
			if p.at != 0 {
				return nil
			}
			cur = max(cur, p.bits)
			continue
		}
		if p.natural(cur, packed) < p.at {
			l.before[i] = gap{cur, p.at}
			cur = p.at
		}
		if p.natural(cur, packed) != p.at {
			return nil
		}
		cur = p.at + p.bits
	}
	end := roundUp(cur, l.align)
	if end < size {
		l.before[len(places)] = gap{cur, size}
		end = roundUp(size, l.align)
	}
	if end != size {
		return nil
	}
	return l
}

// align is the alignment of a type in bits, as far as BTF tells it.
func (c *C) align(id rawbtf.ID) uint64 {
	for range maxDepth {
		real, t := c.spec.Resolve(id)
		if t == nil {
			return 8
		}
		switch t.Kind {
		case rawbtf.Ptr:
			return 64
		case rawbtf.Array:
			id = t.Type
		case rawbtf.Struct, rawbtf.Union:
			return c.layout(real, t).align
		case rawbtf.Int, rawbtf.Enum, rawbtf.Enum64, rawbtf.Float:
			// Types of 16 bytes have that alignment where BPF and the
			// 64-bit machines that run it are concerned.
			return 8 * uint64(min(max(t.Size, 1), 16))
		default:
			return 8
		}
	}
	return 8
}

// record is the definition of a struct or union.
func (c *C) record(id rawbtf.ID, t *rawbtf.Type, name string, level int) string {
	l := c.layout(id, t)
	var b strings.Builder
	b.WriteString(keyword(t) + " ")
	if name != "" {
		b.WriteString(name + " ")
	}
	b.WriteString("{\n")
	for i, m := range t.Members() {
		c.pad(&b, l.before[i], false, level+1)
		b.WriteString(tabs(level+1) + c.member(m, level+1) + ";\n")
	}
	c.pad(&b, l.before[t.Len], t.Kind == rawbtf.Union, level+1)
	b.WriteString(tabs(level) + "}")
	if l.packed {
		b.WriteString(" __attribute__((packed))")
	}
	return b.String()
}

func (c *C) member(m rawbtf.Member, level int) string {
	bits, _ := fieldOf(c.spec, m)
	switch id, t := c.spec.Resolve(m.Type); {
	case m.Name != "":
		s := c.declare(m.Type, "", identifier(m.Name), level)
		if bits > 0 {
			s += fmt.Sprintf(": %d", bits)
		}
		return s
	case bits > 0:
		return fmt.Sprintf("%s: %d", c.declare(m.Type, "", "", level), bits)
	case t != nil && (t.Kind == rawbtf.Struct || t.Kind == rawbtf.Union):
		// Its members are those of the outer one, even if it has a tag.
		body := ""
		c.inline(id, func() { body = c.record(id, t, "", level) })
		if body != "" {
			return body
		}
	}
	c.pads++
	return c.declare(m.Type, "", fmt.Sprintf("__unnamed%d", c.pads), level)
}

// padArray is from how many bits on padding is an array, not bitfields.
const padArray = 512

// pad writes what fills a gap: bitfields without names, which have no influence
// on the alignment. In a union nothing else than an array takes room.
func (c *C) pad(b *strings.Builder, g gap, union bool, level int) {
	if g.to <= g.from {
		return
	}
	bits := func(to uint64) {
		for g.from < to {
			n := min(to-g.from, 64-g.from%64)
			fmt.Fprintf(b, "%slong: %d;\n", tabs(level), n)
			g.from += n
		}
	}
	if union {
		g.from = 0
	}
	if union || g.to-g.from >= padArray {
		bits(roundUp(g.from, 8))
		c.pads++
		fmt.Fprintf(b, "%schar __pad%d[%d];\n", tabs(level), c.pads, (g.to-g.from)/8)
		g.from = g.to / 8 * 8
	}
	bits(g.to)
}
