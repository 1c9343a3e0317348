package btftext

import (
	"fmt"
	"strconv"
	"strings"

	"l3af/internal/rawbtf"
)

// C is types as a C header: definitions in an order that compiles, forward
// declarations where only pointers are needed, padding and packing so that
// sizes and offsets are those of BTF. Types of one name are told apart by ___2,
// ___3 …. Types alone are in it: no functions and variables.
type C struct {
	spec *rawbtf.Spec
	out  []byte

	names  []string       // by type; "" where there is none
	tags   map[string]tag // by keyword and name in BTF: "struct foo"
	used   map[string]int // tags that are taken
	idents map[string]int // typedefs and values of enums that are taken

	declared map[string]bool       // "struct foo": it is known, forward or whole
	named    map[[2]rawbtf.ID]bool // by type, and what it is named within
	whole    []bool                // by type
	writing  map[rawbtf.ID]bool    // what is written where it is used, to see circles
	layouts  []*layout             // by type
	pads     int
	inlined  int // how often something was written where it is used
}

// tag is the name of a struct, union or enum.
type tag struct {
	name    string
	forward bool // only forward declarations have it up to now
}

// NewC makes an empty header.
func NewC(s *rawbtf.Spec) *C {
	n := s.End()
	c := &C{
		spec: s, names: make([]string, n), tags: map[string]tag{}, used: map[string]int{}, idents: map[string]int{},
		declared: map[string]bool{}, named: map[[2]rawbtf.ID]bool{}, whole: make([]bool, n), writing: map[rawbtf.ID]bool{},
		layouts: make([]*layout, n),
	}
	// Names are given in the order of types, whatever is asked for.
	for id := rawbtf.ID(1); id < n; id++ {
		if t := s.Type(id); t.Name != "" {
			c.names[id] = c.newName(t)
		}
	}
	return c
}

const (
	headBegin = `#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

`
	headEnd = `#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
`
)

// Header is everything that was added, as a header file.
func (c *C) Header() []byte { return append(append([]byte(headBegin), c.out...), headEnd...) }

// Add adds a type, and all that it needs.
func (c *C) Add(id rawbtf.ID) { c.complete(id, 0) }

// All adds all types.
func (c *C) All() {
	referenced := c.referenced()
	for id := c.spec.First(); id < c.spec.End(); id++ {
		switch t := c.spec.Type(id); t.Kind {
		case rawbtf.Enum, rawbtf.Enum64, rawbtf.Struct, rawbtf.Union:
			if t.Name != "" {
				c.complete(id, 0)
			} else if t.Kind != rawbtf.Struct && t.Kind != rawbtf.Union && !referenced[id] {
				c.enum(id, t)
			}
		case rawbtf.Typedef:
			c.complete(id, 0)
		case rawbtf.Fwd:
			c.nameable(id, 0)
		}
	}
}

// referenced are the types that others use.
func (c *C) referenced() []bool {
	is := make([]bool, c.spec.End())
	for id := rawbtf.ID(1); id < c.spec.End(); id++ {
		t := c.spec.Type(id)
		is[t.Type] = true
		switch t.Kind {
		case rawbtf.Struct, rawbtf.Union:
			for _, m := range t.Members() {
				is[m.Type] = true
			}
		case rawbtf.FuncProto:
			for _, p := range t.Params() {
				is[p.Type] = true
			}
		}
	}
	return is
}

// keyword is what stands before a tag, "" for types without tags.
func keyword(t *rawbtf.Type) string {
	switch t.Kind {
	case rawbtf.Struct:
		return "struct"
	case rawbtf.Union:
		return "union"
	case rawbtf.Enum, rawbtf.Enum64:
		return "enum"
	case rawbtf.Fwd:
		return forwardOf(t)
	}
	return ""
}

// name is the name of a type in C, "" where it has none.
func (c *C) name(id rawbtf.ID) string { return c.names[id] }

func (c *C) newName(t *rawbtf.Type) string {
	switch {
	case keyword(t) != "":
		return c.tag(t)
	case t.Kind == rawbtf.Typedef:
		return unique(c.idents, identifier(t.Name))
	case (t.Kind == rawbtf.Int || t.Kind == rawbtf.Float) && standard(t.Name):
		return t.Name
	case t.Kind == rawbtf.Int || t.Kind == rawbtf.Float:
		return unique(c.idents, identifier(t.Name))
	}
	return ""
}

// tag gives a struct, union or enum its name: one forward declaration and one
// whole type may share it.
func (c *C) tag(t *rawbtf.Type) string {
	name, forward := identifier(t.Name), t.Kind == rawbtf.Fwd
	key := keyword(t) + " " + name
	had, ok := c.tags[key]
	switch {
	case ok && forward:
		return had.name
	case ok && had.forward:
		name = had.name
	default:
		name = unique(c.used, name)
	}
	if !ok || had.forward {
		c.tags[key] = tag{name, forward}
	}
	return name
}

func unique(used map[string]int, name string) string {
	for {
		used[name]++
		n := used[name]
		if n == 1 {
			return name
		}
		if other := fmt.Sprintf("%s___%d", name, n); used[other] == 0 {
			used[other] = 1
			return other
		}
	}
}

// identifier is a name as C allows it: other languages and compilers have
// dots and angle brackets in theirs.
func identifier(name string) string {
	ok := func(i int, r byte) bool {
		return r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && r >= '0' && r <= '9'
	}
	b := []byte(name)
	for i := range b {
		if !ok(i, b[i]) {
			b[i] = '_'
		}
	}
	if keywords[string(b)] {
		b = append(b, '_')
	}
	return string(b)
}

var keywords = func() map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(`auto break case char const continue default do double else enum extern float for goto if inline int long
		register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while _Bool`) {
		m[w] = true
	}
	return m
}()

// standard says whether the name of a base type is one that compilers know.
func standard(name string) bool {
	for _, word := range strings.Fields(name) {
		switch word {
		case "char", "short", "int", "long", "signed", "unsigned", "_Bool", "__int128", "float", "double", "_Float16", "_Float32",
			"_Float64", "_Float128", "__float128", "_Complex", "complex":
		default:
			return false
		}
	}
	return name != ""
}

// nameable makes sure that the type can be named, as behind a pointer. within
// is the struct or union that is about to be written, whose tag is known in it.
func (c *C) nameable(id, within rawbtf.ID) {
	t := c.spec.Type(id)
	switch t.Kind {
	case rawbtf.Struct, rawbtf.Union, rawbtf.Fwd:
		if t.Name == "" {
			c.complete(id, within)
			return
		}
		tag := keyword(t) + " " + c.name(id)
		if id != within && !c.declared[tag] {
			c.declared[tag] = true
			c.out = append(append(c.out, tag...), ";\n\n"...)
		}
		return
	}
	scope := within // what is written now is for all
	switch t.Kind {
	case rawbtf.Enum, rawbtf.Enum64, rawbtf.Int, rawbtf.Float, rawbtf.Typedef:
		scope = 0
	}
	if c.named[[2]rawbtf.ID{id, scope}] {
		return
	}
	c.named[[2]rawbtf.ID{id, scope}] = true
	switch t.Kind {
	case rawbtf.Enum, rawbtf.Enum64:
		if t.Name != "" {
			c.enum(id, t)
		}
	case rawbtf.Int, rawbtf.Float:
		c.base(t, c.name(id))
	case rawbtf.Typedef:
		if t.Name == "__builtin_va_list" { // compilers have it
			return
		}
		if t.Type == 0 && t.Name == "__gnuc_va_list" { // as old compilers have it
			c.out = append(c.out, "typedef __builtin_va_list __gnuc_va_list;\n\n"...)
			return
		}
		c.nameable(t.Type, 0)
		c.out = append(append(append(c.out, "typedef "...), c.declare(t.Type, "", c.name(id), 0)...), ";\n\n"...)
	case rawbtf.Array:
		c.complete(t.Type, within)
	case rawbtf.FuncProto:
		c.nameable(t.Type, within)
		for _, p := range t.Params() {
			c.nameable(p.Type, within)
		}
	case rawbtf.Ptr, rawbtf.Const, rawbtf.Volatile, rawbtf.Restrict, rawbtf.TypeTag, rawbtf.Func:
		c.nameable(t.Type, within)
	}
}

// base defines base types of other languages.
func (c *C) base(t *rawbtf.Type, name string) {
	if standard(t.Name) || name == "" {
		return
	}
	as := map[uint32]string{1: "char", 2: "short", 4: "int", 8: "long long", 16: "__int128"}[t.Size]
	switch {
	case t.Kind == rawbtf.Float:
		as = map[uint32]string{2: "_Float16", 4: "float", 8: "double", 16: "long double"}[t.Size]
	case as != "" && t.Integer().Encoding&rawbtf.Signed == 0:
		as = "unsigned " + as
	}
	if as != "" {
		c.out = fmt.Appendf(c.out, "typedef %s %s;\n\n", as, name)
	}
}

// complete makes sure that there can be values of the type.
func (c *C) complete(id, within rawbtf.ID) {
	t := c.spec.Type(id)
	if c.whole[id] {
		return
	}
	c.whole[id] = true
	switch t.Kind {
	case rawbtf.Struct, rawbtf.Union:
		if t.Name != "" {
			within = id
		}
		for _, m := range t.Members() {
			c.complete(m.Type, within)
		}
		if t.Name != "" {
			c.declared[keyword(t)+" "+c.name(id)] = true
			c.out = append(append(c.out, c.record(id, t, c.name(id), 0)...), ";\n\n"...)
		}
	case rawbtf.Typedef:
		c.complete(t.Type, 0)
		c.nameable(id, 0)
	case rawbtf.Const, rawbtf.Volatile, rawbtf.Restrict, rawbtf.TypeTag, rawbtf.Array, rawbtf.Var:
		c.complete(t.Type, within)
	case rawbtf.Datasec:
		for _, v := range t.Variables() {
			if c.spec.Type(v.Type).Kind == rawbtf.Var {
				c.complete(v.Type, within)
			}
		}
	default:
		c.nameable(id, within)
	}
}

func (c *C) enum(id rawbtf.ID, t *rawbtf.Type) {
	c.out = append(append(c.out, c.enumBody(id, t, 0)...), ";\n\n"...)
}

func tabs(n int) string { return strings.Repeat("\t", n) }

// enumBody is the definition of an enum.
func (c *C) enumBody(id rawbtf.ID, t *rawbtf.Type, level int) string {
	var b strings.Builder
	b.WriteString("enum ")
	if name := c.name(id); name != "" {
		b.WriteString(name + " ")
	}
	b.WriteString("{\n")
	far := false
	for _, v := range t.Values() {
		b.WriteString(tabs(level+1) + unique(c.idents, identifier(v.Name)) + " = " + enumValue(t, v.Value) + ",\n")
		far = far || v.Value > 1<<32-1 && !(t.Flag && int64(v.Value) < 0 && int64(v.Value) >= -1<<31)
	}
	if t.Len == 0 { // C has no empty ones
		b.WriteString(tabs(level+1) + unique(c.idents, "__none") + ",\n")
	}
	b.WriteString(tabs(level) + "}")
	switch {
	case t.Size == 1:
		b.WriteString(" __attribute__((mode(byte)))")
	case t.Size == 2:
		b.WriteString(" __attribute__((mode(HI)))")
	case t.Size == 8 && !far:
		b.WriteString(" __attribute__((mode(DI)))")
	}
	return b.String()
}

// declare is the declaration of something of a type, around what stands for it.
func (c *C) declare(id rawbtf.ID, qualifiers, inner string, level int) string {
	tags := "" // clang wants them behind what they are about
	for range maxDepth {
		t := c.spec.Type(id)
		switch t.Kind {
		case rawbtf.Const:
			if !strings.Contains(qualifiers, "const ") { // of an array and of its elements
				qualifiers += "const "
			}
		case rawbtf.Volatile:
			qualifiers += "volatile "
		case rawbtf.Restrict:
			qualifiers += "restrict "
		case rawbtf.TypeTag:
			tags += "__attribute__((btf_type_tag(" + strconv.Quote(t.Name) + "))) "
		case rawbtf.Ptr:
			inner, qualifiers, tags = "*"+strings.TrimRight(tags+qualifiers+inner, " "), "", ""
			if k := c.behind(t.Type); k == rawbtf.Array || k == rawbtf.FuncProto {
				inner = "(" + inner + ")"
			}
		case rawbtf.Array:
			_, n := t.Array()
			inner += "[" + strconv.FormatUint(uint64(n), 10) + "]"
		case rawbtf.FuncProto:
			params := "void"
			c.inline(id, func() { params = c.params(t) })
			inner, qualifiers, tags = inner+"("+params+")", "", ""
		default:
			return strings.TrimRight(qualifiers+c.reference(id, t, level)+" "+tags+inner, " ")
		}
		id = t.Type
	}
	return "void *" + inner // a circle of types, which only damage makes
}

// behind is the kind of a type without its modifiers; typedefs have names.
func (c *C) behind(id rawbtf.ID) rawbtf.Kind {
	t := c.spec.Type(id)
	for range maxDepth {
		if !t.Kind.Modifier() || t.Kind == rawbtf.Typedef {
			break
		}
		t = c.spec.Type(t.Type)
	}
	return t.Kind
}

func (c *C) params(t *rawbtf.Type) string {
	list := t.Params()
	if len(list) == 0 {
		return "void"
	}
	texts := make([]string, len(list))
	for i, p := range list {
		switch {
		case p.Type == 0 && i == len(list)-1:
			texts[i] = "..."
		case p.Type == 0:
			texts[i] = "void *"
		default:
			name := p.Name
			if name != "" {
				name = identifier(name)
			}
			texts[i] = c.declare(p.Type, "", name, 0)
		}
	}
	return strings.Join(texts, ", ")
}

// reference is how a type is named, or its body where it has no name.
func (c *C) reference(id rawbtf.ID, t *rawbtf.Type, level int) string {
	name := c.name(id)
	switch {
	case name != "" && keyword(t) != "":
		return keyword(t) + " " + name
	case name != "":
		return name
	}
	switch t.Kind {
	case rawbtf.Struct, rawbtf.Union:
		body := "void *"
		c.inline(id, func() { body = c.record(id, t, "", level) })
		return body
	case rawbtf.Enum, rawbtf.Enum64:
		return c.enumBody(id, t, level)
	}
	return "void"
}

// inline writes what stands where it is used. It does not where a type contains
// itself, or where types in one another multiply: only damage makes that.
func (c *C) inline(id rawbtf.ID, write func()) {
	if c.inlined++; c.writing[id] || c.inlined > 1<<12+32*int(c.spec.End()) {
		return
	}
	c.writing[id] = true
	write()
	delete(c.writing, id)
}
