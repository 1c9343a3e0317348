// Package btftext writes what BTF describes as text: values as bpftool's JSON,
// types as bpftool's listing and as C.
package btftext

import (
	"errors"
	"fmt"

	"l3af/internal/rawbtf"
)

// op is how a part of a value is written.
type op uint8

const (
	opUint op = iota
	opInt     // signed
	opBits    // bitfields, and integers of sizes that C does not have: in hex
	opChar    // BTF_INT_CHAR
	opBool
	opEnum
	opPtr
	opFloat
	opStruct
	opArray
	opChars   // an array of char: text when it is some
	opSection // DATASEC
)

// node is a type made ready for writing its values.
type node struct {
	op      op
	size    uint64            // bytes
	work    uint64            // parts that are written for one value
	signed  bool              // opBits
	shift   uint16            // opBits: where they begin in the bytes, at most 127
	bits    uint16            // opBits: how many, at most 128
	names   map[uint64]string // opEnum: JSON texts by the value's low bytes
	name    string            // opSection, a JSON text
	members []member          // opStruct, opSection
	elem    *node             // opArray, opChars
	len     uint64            // opArray, opChars
	numbers bool              // there are numbers in it that can be added
}

type member struct {
	name   string // a JSON text
	plain  string
	offset uint64 // bytes
	*node
}

// Formatter writes the values of one type.
type Formatter struct{ root *node }

// Size is that of a value in bytes.
func (f *Formatter) Size() int { return int(f.root.size) }

const (
	maxDepth = 64      // of types in one another
	maxSize  = 1 << 31 // bytes of a value
)

// Compile makes a formatter of a type. The type must be of this machine's byte
// order. Refused are types that have no values, that contain themselves, whose
// members lie outside of them, or that say much more than their bytes can.
func Compile(s *rawbtf.Spec, id rawbtf.ID) (*Formatter, error) {
	if !s.Native() {
		return nil, errors.New("the types are of the other byte order")
	}
	c := compiler{s, map[rawbtf.ID]*node{}}
	n, err := c.node(id, 0)
	if err != nil {
		return nil, err
	}
	// Zero-sized types and unions in one another multiply.
	if n.work > 1<<20+256*n.size {
		return nil, errors.New("damaged type: its values have too many parts")
	}
	return &Formatter{n}, nil
}

type compiler struct {
	*rawbtf.Spec
	done map[rawbtf.ID]*node // nil while it is being made
}

func (c *compiler) node(id rawbtf.ID, depth int) (*node, error) {
	id, t := c.Resolve(id)
	if t == nil {
		return nil, errors.New("void has no values")
	}
	if n, ok := c.done[id]; ok {
		if n == nil {
			return nil, fmt.Errorf("damaged type %d: it contains itself", id)
		}
		return n, nil
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("damaged type %d: more than %d types in one another", id, maxDepth)
	}
	c.done[id] = nil
	n, err := c.make(t, depth)
	if err == nil && n.size > maxSize {
		err = errors.New("too large")
	}
	if err != nil {
		return nil, fmt.Errorf("type %d (%s %s): %w", id, t.Kind, named(t.Name), err)
	}
	c.done[id] = n
	return n, nil
}

func (c *compiler) make(t *rawbtf.Type, depth int) (*node, error) {
	n := &node{size: uint64(t.Size), work: 1}
	switch t.Kind {
	case rawbtf.Int:
		i := t.Integer()
		return n, n.integer(i, uint(i.Offset))
	case rawbtf.Ptr:
		n.op, n.size = opPtr, 8
	case rawbtf.Float:
		n.op = opFloat
		switch t.Size {
		case 2, 4, 8:
			n.numbers = t.Size > 2
		default:
			return n, n.field(0, uint(8*t.Size), false)
		}
	case rawbtf.Enum, rawbtf.Enum64:
		switch t.Size {
		case 1, 2, 4, 8:
		default:
			return nil, fmt.Errorf("an enum of %d bytes", t.Size)
		}
		n.op, n.names = opEnum, map[uint64]string{}
		for _, v := range t.Values() {
			low := v.Value
			if t.Kind == rawbtf.Enum {
				low = uint64(int32(low)) // compilers before clang 15 do not say which enums are signed
			}
			low &= mask(uint(8 * t.Size))
			if _, ok := n.names[low]; !ok {
				n.names[low] = string(AppendString(nil, v.Name))
			}
		}
	case rawbtf.Array:
		return n, c.array(n, t, depth)
	case rawbtf.Struct, rawbtf.Union:
		n.op = opStruct
		for _, m := range t.Members() {
			if err := c.member(n, m, t.Kind == rawbtf.Union, depth); err != nil {
				return nil, fmt.Errorf("member %s: %w", named(m.Name), err)
			}
		}
	case rawbtf.Datasec:
		return n, c.section(n, t, depth)
	default:
		return nil, errors.New("it has no values")
	}
	return n, nil
}

// integer makes n write an integer that begins so many bits after its first byte.
func (n *node) integer(i rawbtf.Integer, shift uint) error {
	bits := uint(i.Bits)
	whole := shift == 0 && (bits == 8 || bits == 16 || bits == 32 || bits == 64)
	if whole && uint64(bits/8) > n.size {
		return fmt.Errorf("%d bits in %d bytes", bits, n.size)
	}
	n.signed = i.Encoding&rawbtf.Signed != 0
	switch {
	case !whole:
		return n.field(shift, bits, n.signed)
	case i.Encoding == rawbtf.Bool:
		n.op = opBool
	case i.Encoding == rawbtf.Char:
		n.op = opChar
	case n.signed:
		n.op, n.numbers = opInt, true
	default:
		n.op, n.numbers = opUint, true
	}
	n.bits = uint16(bits)
	return nil
}

// field makes n write a bitfield.
func (n *node) field(shift, bits uint, signed bool) error {
	if bits > 128 || uint64(shift+bits) > 8*n.size {
		return fmt.Errorf("%d bits at bit %d of %d bytes", bits, shift, n.size)
	}
	n.op, n.shift, n.bits, n.signed = opBits, uint16(shift), uint16(bits), signed
	n.numbers = bits > 0 && bits <= 64
	return nil
}

func (c *compiler) member(n *node, m rawbtf.Member, union bool, depth int) error {
	made := member{name: string(AppendString(nil, m.Name)), plain: m.Name, offset: uint64(m.Offset / 8)}
	of, err := c.node(m.Type, depth+1)
	if err != nil {
		return err
	}
	_, t := c.Resolve(m.Type)
	switch shift := uint(m.Offset % 8); {
	case m.Bits > 0:
		// As many bytes as the bits touch: the field may straddle its type's.
		signed := of.op == opInt || of.op == opBits && of.signed
		of = &node{size: uint64(shift+uint(m.Bits)+7) / 8, work: 1}
		if err := of.field(shift, uint(m.Bits), signed); err != nil {
			return err
		}
	case t.Kind == rawbtf.Int && shift > 0:
		i := t.Integer()
		shift += uint(i.Offset)
		of = &node{size: uint64(shift+uint(i.Bits)+7) / 8, work: 1}
		if err := of.integer(i, shift); err != nil {
			return err
		}
	case shift > 0:
		return errors.New("it does not begin at a byte")
	}
	made.node = of
	if made.offset+of.size > n.size {
		return fmt.Errorf("%d bytes at %d of %d", of.size, made.offset, n.size)
	}
	n.members = append(n.members, made)
	n.work = saturate(n.work + of.work)
	// What a union means is not known, so its members cannot be added.
	n.numbers = !union && (n.numbers || of.numbers)
	return nil
}

func (c *compiler) array(n *node, t *rawbtf.Type, depth int) error {
	elem, err := c.node(t.Type, depth+1)
	if err != nil {
		return err
	}
	_, elements := t.Array()
	n.op, n.elem, n.len = opArray, elem, uint64(elements)
	n.size, n.work, n.numbers = n.len*elem.size, saturate(1+n.len*elem.work), elem.numbers
	if n.len > maxSize || n.size > maxSize {
		return errors.New("too large")
	}
	if c.char(t.Type) {
		n.op, n.numbers = opChars, false
	}
	return nil
}

// char tells char, whose arrays may be text. Typedefs of it are none, as for bpftool.
func (c *compiler) char(id rawbtf.ID) bool {
	t := c.Type(id)
	for range maxDepth {
		if !t.Kind.Modifier() || t.Kind == rawbtf.Typedef {
			break
		}
		t = c.Type(t.Type)
	}
	return t.Kind == rawbtf.Int && t.Size == 1 && (t.Integer().Encoding == rawbtf.Char || t.Name == "char")
}

func (c *compiler) section(n *node, t *rawbtf.Type, depth int) error {
	n.op, n.name = opSection, string(AppendString(nil, t.Name))
	for _, v := range t.Variables() {
		variable := c.Type(v.Type)
		if variable.Kind != rawbtf.Var {
			continue // functions, in sections of kfuncs
		}
		of, err := c.node(variable.Type, depth+1)
		if err != nil {
			return fmt.Errorf("variable %s: %w", variable.Name, err)
		}
		if uint64(v.Offset)+of.size > n.size {
			return fmt.Errorf("variable %s: %d bytes at %d of %d", variable.Name, of.size, v.Offset, n.size)
		}
		n.members = append(n.members, member{string(AppendString(nil, variable.Name)), variable.Name, uint64(v.Offset), of})
		n.work, n.numbers = saturate(n.work+of.work), n.numbers || of.numbers
	}
	return nil
}

func saturate(work uint64) uint64 { return min(work, 1<<40) }

func mask(bits uint) uint64 {
	if bits >= 64 {
		return ^uint64(0)
	}
	return 1<<bits - 1
}

// named stands for a name in lists and errors.
func named(s string) string {
	if s == "" {
		return "(anon)"
	}
	return s
}
