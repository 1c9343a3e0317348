// Package rawbtf reads BTF as it is encoded: every type with its number and
// kind, nothing folded into others. It is for those who show types; who only
// wants to know them takes cilium/ebpf's btf.
//
// The format is that of Documentation/bpf/btf.rst of Linux.
package rawbtf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ID is the number of a type. 0 is void.
type ID uint32

// Kind is what a type is: BTF_KIND_* of linux/btf.h.
type Kind uint8

// The kinds.
const (
	Void Kind = iota
	Int
	Ptr
	Array
	Struct
	Union
	Enum
	Fwd
	Typedef
	Volatile
	Const
	Restrict
	Func
	FuncProto
	Var
	Datasec
	Float
	DeclTag
	TypeTag
	Enum64
	kinds
)

var kindNames = [kinds]string{
	"UNKNOWN", "INT", "PTR", "ARRAY", "STRUCT", "UNION", "ENUM", "FWD", "TYPEDEF", "VOLATILE", "CONST", "RESTRICT",
	"FUNC", "FUNC_PROTO", "VAR", "DATASEC", "FLOAT", "DECL_TAG", "TYPE_TAG", "ENUM64",
}

// String is the name of the kind as bpftool writes it.
func (k Kind) String() string {
	if k < kinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Modifier says whether types of the kind change another one and have its size.
func (k Kind) Modifier() bool {
	switch k {
	case Typedef, Volatile, Const, Restrict, TypeTag:
		return true
	}
	return false
}

// sized says whether size_or_type is a size.
func (k Kind) sized() bool {
	switch k {
	case Int, Struct, Union, Enum, Datasec, Float, Enum64:
		return true
	}
	return false
}

// Type is one type.
type Type struct {
	Name string
	Kind Kind
	Flag bool   // kind_flag
	Size uint32 // bytes, of kinds that have a size
	Type ID     // of kinds that refer to one type, the element of an array too
	Len  int    // vlen: members, values, parameters, variables

	spec  *Spec
	extra []byte // what follows struct btf_type
}

// The encodings of an INT.
const (
	Signed = 1 << iota
	Char
	Bool
)

// Integer is what an INT has besides its size.
type Integer struct {
	Encoding uint8 // Signed, Char, Bool
	Offset   uint8 // bits
	Bits     uint8
}

// Member is one of a STRUCT or UNION.
type Member struct {
	Name   string
	Type   ID
	Offset uint32 // bits
	Bits   uint32 // of a bitfield, else 0
}

// Value is one of an ENUM or ENUM64, sign-extended where the enum is signed.
type Value struct {
	Name  string
	Value uint64
}

// Param is one of a FUNC_PROTO. Without name and type it stands for "...".
type Param struct {
	Name string
	Type ID
}

// Variable is one of a DATASEC.
type Variable struct {
	Type         ID
	Offset, Size uint32 // bytes
}

// Spec is the types of one object. Those of split BTF go on where the base ends.
type Spec struct {
	base    *Spec
	first   ID // of types
	types   []Type
	strings []byte
	start   uint32 // offset of strings in those of base and these together
	order   binary.ByteOrder
}

const headerSize = 24

// ErrNoBTF is wrapped by errors about files without types.
var ErrNoBTF = errors.New("no BTF")

// Parse reads BTF as the kernel and the .BTF section have it, of either byte
// order. base is what split BTF builds on, else nil. Every reference to a type
// or name is valid afterwards; that types contain themselves is not ruled out.
func Parse(data []byte, base *Spec) (*Spec, error) {
	if len(data) < headerSize {
		return nil, fmt.Errorf("%d bytes are no BTF: the header alone has %d", len(data), headerSize)
	}
	s := &Spec{base: base, order: binary.LittleEndian}
	if data[0] == 0xeb {
		s.order = binary.BigEndian
	}
	if magic := s.order.Uint16(data); magic != 0xeb9f {
		return nil, fmt.Errorf("no BTF: it begins with %#04x", magic)
	}
	if data[2] != 1 {
		return nil, fmt.Errorf("BTF of version %d, only 1 is known", data[2])
	}
	field := func(i int) uint64 { return uint64(s.order.Uint32(data[4+4*i:])) }
	header, typeOff, typeLen, strOff, strLen := field(0), field(1), field(2), field(3), field(4)
	size := uint64(len(data))
	if header < headerSize || header+typeOff+typeLen > size || header+strOff+strLen > size {
		return nil, errors.New("damaged BTF: the header points behind the end")
	}
	s.strings = data[header+strOff:][:strLen]
	if strLen == 0 || s.strings[strLen-1] != 0 {
		return nil, errors.New("damaged BTF: names do not end")
	}
	if base == nil {
		s.types = []Type{{Kind: Void, spec: s}}
	} else {
		s.first, s.start = base.first+ID(len(base.types)), base.start+uint32(len(base.strings))
	}
	if err := s.read(data[header+typeOff:][:typeLen]); err != nil {
		return nil, fmt.Errorf("damaged BTF: %w", err)
	}
	return s, nil
}

// perItem is the size of what follows struct btf_type for each of Len, of
// kinds that have several.
var perItem = map[Kind]int{Struct: 12, Union: 12, Enum: 8, FuncProto: 8, Datasec: 12, Enum64: 12}

// once is the size of what follows for kinds that have one.
var once = map[Kind]int{Int: 4, Array: 12, Var: 4, DeclTag: 4}

func (s *Spec) read(data []byte) error {
	for len(data) > 0 {
		id := s.End()
		if len(data) < 12 {
			return fmt.Errorf("type %d: cut off", id)
		}
		info, last := s.order.Uint32(data[4:]), s.order.Uint32(data[8:])
		t := Type{Kind: Kind(info >> 24 & 0x1f), Flag: info>>31 != 0, Len: int(info & 0xffff), spec: s}
		if t.Kind == Void || t.Kind >= kinds {
			return fmt.Errorf("type %d: unknown kind %d", id, t.Kind)
		}
		var err error
		if t.Name, err = s.name(s.order.Uint32(data)); err != nil {
			return fmt.Errorf("type %d: %w", id, err)
		}
		if t.Kind.sized() {
			t.Size = last
		} else {
			t.Type = ID(last)
		}
		n := once[t.Kind] + t.Len*perItem[t.Kind]
		if len(data) < 12+n {
			return fmt.Errorf("type %d: cut off", id)
		}
		t.extra, data = data[12:12+n:12+n], data[12+n:]
		if t.Kind == Array {
			t.Type = ID(s.order.Uint32(t.extra))
		}
		s.types = append(s.types, t)
	}
	for i := range s.types {
		if err := s.check(&s.types[i]); err != nil {
			return fmt.Errorf("type %d: %w", s.first+ID(i), err)
		}
	}
	return nil
}

// check sees that what a type refers to exists.
func (s *Spec) check(t *Type) error {
	end := uint32(s.End())
	if uint32(t.Type) >= end {
		return fmt.Errorf("it refers to type %d of %d", t.Type, end)
	}
	item := perItem[t.Kind]
	named, typed := -1, -1 // where an item has its name and type
	switch t.Kind {
	case Array:
		if i := s.order.Uint32(t.extra[4:]); i >= end {
			return fmt.Errorf("its index is type %d of %d", i, end)
		}
	case Struct, Union:
		named, typed = 0, 4
	case FuncProto:
		named, typed = 0, 4
	case Enum, Enum64:
		named = 0
	case Datasec:
		typed = 0
	}
	for i := range t.Len {
		if item == 0 {
			break
		}
		if named >= 0 {
			if _, err := s.name(s.order.Uint32(t.extra[i*item+named:])); err != nil {
				return err
			}
		}
		if typed >= 0 {
			if id := s.order.Uint32(t.extra[i*item+typed:]); id >= end {
				return fmt.Errorf("it refers to type %d of %d", id, end)
			}
		}
	}
	return nil
}

func (s *Spec) name(off uint32) (string, error) {
	if off < s.start {
		return s.base.name(off)
	}
	off -= s.start
	if off >= uint32(len(s.strings)) {
		return "", fmt.Errorf("its name is at %d of %d", off, len(s.strings))
	}
	b := s.strings[off:]
	return string(b[:bytes.IndexByte(b, 0)]), nil
}

// text is name for offsets that were checked.
func (s *Spec) text(off uint32) string {
	name, _ := s.name(off)
	return name
}

// First and End bound the types of this object alone: the first is 0 (void)
// unless the BTF is split.
func (s *Spec) First() ID { return s.first }

// End is the number behind the last type.
func (s *Spec) End() ID { return s.first + ID(len(s.types)) }

// Base is what split BTF builds on, else nil.
func (s *Spec) Base() *Spec { return s.base }

// Native says whether the types are of this machine's byte order.
func (s *Spec) Native() bool {
	return s.order.Uint16([]byte{1, 0}) == binary.NativeEndian.Uint16([]byte{1, 0})
}

// Type is the type of a number, nil where there is none.
func (s *Spec) Type(id ID) *Type {
	switch {
	case id < s.first:
		return s.base.Type(id)
	case id >= s.End():
		return nil
	}
	return &s.types[id-s.first]
}

// Integer is what an INT has besides its size.
func (t *Type) Integer() Integer {
	n := t.spec.order.Uint32(t.extra)
	return Integer{Encoding: uint8(n >> 24 & 0xf), Offset: uint8(n >> 16), Bits: uint8(n)}
}

// Array is the type of an ARRAY's index, and how many elements there are.
func (t *Type) Array() (index ID, elements uint32) {
	return ID(t.spec.order.Uint32(t.extra[4:])), t.spec.order.Uint32(t.extra[8:])
}

// count is Len for types of these kinds, and 0 for others, which have no list of that.
func (t *Type) count(kinds ...Kind) int {
	if slices.Contains(kinds, t.Kind) {
		return t.Len
	}
	return 0
}

// Members are those of a STRUCT or UNION.
func (t *Type) Members() []Member {
	list, o := make([]Member, t.count(Struct, Union)), t.spec.order
	for i := range list {
		b := t.extra[12*i:]
		m := Member{Name: t.spec.text(o.Uint32(b)), Type: ID(o.Uint32(b[4:])), Offset: o.Uint32(b[8:])}
		if t.Flag {
			m.Bits, m.Offset = m.Offset>>24, m.Offset&0xffffff
		}
		list[i] = m
	}
	return list
}

// Values are those of an ENUM or ENUM64.
func (t *Type) Values() []Value {
	list, o := make([]Value, t.count(Enum, Enum64)), t.spec.order
	for i := range list {
		if t.Kind == Enum64 {
			b := t.extra[12*i:]
			list[i] = Value{t.spec.text(o.Uint32(b)), uint64(o.Uint32(b[4:])) | uint64(o.Uint32(b[8:]))<<32}
			continue
		}
		b := t.extra[8*i:]
		v := Value{t.spec.text(o.Uint32(b)), uint64(o.Uint32(b[4:]))}
		if t.Flag {
			v.Value = uint64(int32(v.Value))
		}
		list[i] = v
	}
	return list
}

// Params are those of a FUNC_PROTO.
func (t *Type) Params() []Param {
	list, o := make([]Param, t.count(FuncProto)), t.spec.order
	for i := range list {
		b := t.extra[8*i:]
		list[i] = Param{t.spec.text(o.Uint32(b)), ID(o.Uint32(b[4:]))}
	}
	return list
}

// Variables are those of a DATASEC.
func (t *Type) Variables() []Variable {
	list, o := make([]Variable, t.count(Datasec)), t.spec.order
	for i := range list {
		b := t.extra[12*i:]
		list[i] = Variable{ID(o.Uint32(b)), o.Uint32(b[4:]), o.Uint32(b[8:])}
	}
	return list
}

// Linkage is that of a VAR (0 static, 1 global, 2 extern) or FUNC (the same).
func (t *Type) Linkage() uint32 {
	if t.Kind == Func {
		return uint32(t.Len)
	}
	return t.spec.order.Uint32(t.extra)
}

// Component is which member or parameter a DECL_TAG is about, -1 for the whole.
func (t *Type) Component() int32 { return int32(t.spec.order.Uint32(t.extra)) }

// maxDepth bounds how many modifiers follow one another: damaged BTF has circles.
const maxDepth = 64

// Resolve follows modifiers and typedefs to what a type is. It is nil for void
// and for types that never end.
func (s *Spec) Resolve(id ID) (ID, *Type) {
	for range maxDepth {
		t := s.Type(id)
		if t == nil || t.Kind == Void {
			return 0, nil
		}
		if !t.Kind.Modifier() {
			return id, t
		}
		id = t.Type
	}
	return 0, nil
}

// Sizeof is the size of a value of the type in bytes; ok is false where values
// have no size.
func (s *Spec) Sizeof(id ID) (size uint64, ok bool) {
	n := uint64(1)
	for range maxDepth {
		_, t := s.Resolve(id)
		if t == nil {
			return 0, false
		}
		switch t.Kind {
		case Ptr:
			return n * 8, true
		case Array:
			_, elements := t.Array()
			if n *= uint64(elements); n > 1<<32 {
				return 0, false
			}
			id = t.Type
		case Var:
			id = t.Type
		case Func, FuncProto, Fwd, DeclTag:
			return 0, false
		default:
			return n * uint64(t.Size), true
		}
	}
	return 0, false
}

// Find is the struct, union, enum or typedef of a name; the first where there
// are several.
func (s *Spec) Find(name string) (ID, bool) {
	for id := s.first; id < s.End(); id++ {
		t := s.Type(id)
		switch t.Kind {
		case Struct, Union, Enum, Enum64, Typedef:
			if t.Name == name {
				return id, true
			}
		}
	}
	if s.base != nil {
		return s.base.Find(name)
	}
	return 0, false
}
