package chain

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// SameShape tells how the map now differs from the map was, so that what one
// holds cannot be read as the other's; "" when it does not. Only the types
// that both say are compared.
func SameShape(was, now *ebpf.MapSpec) string {
	for _, n := range []struct {
		what string
		a, b any
	}{
		{"type", was.Type, now.Type},
		{"key size", was.KeySize, now.KeySize},
		{"value size", was.ValueSize, now.ValueSize},
		{"max_entries", was.MaxEntries, now.MaxEntries},
		{"flags", was.Flags, now.Flags},
	} {
		if n.a != n.b {
			return fmt.Sprintf("%s: was %v, is %v", n.what, n.a, n.b)
		}
	}
	if d := SameLayout(was.Key, now.Key); d != "" {
		return "key" + d
	}
	if d := SameLayout(was.Value, now.Value); d != "" {
		return "value" + d
	}
	return ""
}

// SameLayout tells how the bytes of the type now mean something else than
// those of the type was: ".rate: at byte 8, was at 0". It is "" when they do
// not, or when one of the types is nil or void, that is not known.
//
// Members are compared by name, place, type and size, variables of a data
// section the same way. Names of types do not matter, nor typedefs and
// qualifiers; of enums only the numbers of names that both have, of pointers
// only the names of what they point to.
func SameLayout(was, now btf.Type) string { return sameLayout(was, now, 0) }

func sameLayout(was, now btf.Type, depth int) string {
	was, now = bare(was), bare(now)
	// Types of objects may be anything; those of the kernel end.
	if was == nil || now == nil || depth > 32 {
		return ""
	}
	differ := func() string { return fmt.Sprintf(": was %s, is %s", wordsFor(was), wordsFor(now)) }
	switch a := was.(type) {
	case *btf.Struct:
		if b, ok := now.(*btf.Struct); ok {
			return sameMembers(a.Size, b.Size, a.Members, b.Members, depth)
		}
	case *btf.Union:
		if b, ok := now.(*btf.Union); ok {
			return sameMembers(a.Size, b.Size, a.Members, b.Members, depth)
		}
	case *btf.Array:
		b, ok := now.(*btf.Array)
		if !ok || a.Nelems != b.Nelems {
			return differ()
		}
		if d := sameLayout(a.Type, b.Type, depth+1); d != "" {
			return "[]" + d
		}
		return ""
	case *btf.Pointer:
		if b, ok := now.(*btf.Pointer); ok {
			x, y := bare(a.Target), bare(b.Target)
			if x != nil && y != nil && x.TypeName() != y.TypeName() {
				return differ()
			}
		}
	case *btf.Datasec:
		if b, ok := now.(*btf.Datasec); ok {
			return sameMembers(a.Size, b.Size, variables(a), variables(b), depth)
		}
	case *btf.Enum:
		b, ok := now.(*btf.Enum)
		if !ok {
			break // kernels without 64-bit enums have integers for them
		}
		for _, v := range a.Values {
			i := slices.IndexFunc(b.Values, func(w btf.EnumValue) bool { return w.Name == v.Name })
			if i >= 0 && b.Values[i].Value != v.Value {
				return fmt.Sprintf(": %s was %d, is %d", v.Name, int64(v.Value), int64(b.Values[i].Value))
			}
		}
	}
	a, b := number(was), number(now)
	if a != nil && b != nil && *a == *b || a == nil && b == nil && fmt.Sprintf("%T", was) == fmt.Sprintf("%T", now) {
		return ""
	}
	return differ()
}

// bare is a type without its typedefs and qualifiers; nil for none.
func bare(t btf.Type) btf.Type {
	if t == nil {
		return nil
	}
	t = btf.UnderlyingType(t)
	if _, void := t.(*btf.Void); void {
		return nil
	}
	return t
}

// number is what the bits of an integer, enum or float mean; nil for others.
func number(t btf.Type) *btf.Int {
	switch t := t.(type) {
	case *btf.Int:
		return &btf.Int{Size: t.Size, Encoding: t.Encoding}
	case *btf.Enum:
		i := &btf.Int{Size: t.Size}
		if t.Signed {
			i.Encoding = btf.Signed
		}
		return i
	case *btf.Float:
		return &btf.Int{Size: t.Size, Name: "float"}
	}
	return nil
}

func wordsFor(t btf.Type) string {
	switch t := t.(type) {
	case *btf.Struct:
		return "a struct"
	case *btf.Union:
		return "a union"
	case *btf.Array:
		if e := bare(t.Type); e != nil {
			return fmt.Sprintf("an array of %d (%s)", t.Nelems, wordsFor(e))
		}
		return fmt.Sprintf("an array of %d", t.Nelems)
	case *btf.Pointer:
		if to := bare(t.Target); to != nil && to.TypeName() != "" {
			return "a pointer to " + to.TypeName()
		}
		return "a pointer"
	case *btf.Int:
		if t.Name != "" {
			return t.Name
		}
		return fmt.Sprintf("an integer of %d bytes", t.Size)
	}
	if t.TypeName() != "" {
		return t.TypeName()
	}
	return fmt.Sprintf("a %T", t)[len("a *btf."):]
}

// variables are those of a data section, as the members of a struct.
func variables(d *btf.Datasec) []btf.Member {
	var list []btf.Member
	for _, v := range d.Vars {
		if w, ok := v.Type.(*btf.Var); ok {
			list = append(list, btf.Member{Name: w.Name, Type: w.Type, Offset: btf.Bits(v.Offset) * 8})
		}
	}
	slices.SortStableFunc(list, func(a, b btf.Member) int { return cmp.Compare(a.Offset, b.Offset) })
	return list
}

func sameMembers(was, now uint32, a, b []btf.Member, depth int) string {
	name := func(m btf.Member) string {
		if m.Name == "" {
			return ""
		}
		return "." + m.Name
	}
	for _, m := range a {
		j := slices.IndexFunc(b, func(o btf.Member) bool { return o.Name == m.Name && (m.Name != "" || o.Offset == m.Offset) })
		switch {
		case j < 0:
			return fmt.Sprintf("%s: is no more", name(m))
		case b[j].Offset != m.Offset:
			return fmt.Sprintf("%s: at %s, was at %s", name(m), place(b[j].Offset), place(m.Offset))
		case b[j].BitfieldSize != m.BitfieldSize:
			return fmt.Sprintf("%s: has %d bits, had %d", name(m), b[j].BitfieldSize, m.BitfieldSize)
		}
		if d := sameLayout(m.Type, b[j].Type, depth+1); d != "" {
			return name(m) + d
		}
	}
	for _, m := range b {
		if !slices.ContainsFunc(a, func(o btf.Member) bool { return o.Name == m.Name && (m.Name != "" || o.Offset == m.Offset) }) {
			return fmt.Sprintf("%s: is new", name(m))
		}
	}
	if was != now {
		return fmt.Sprintf(": was %d bytes, is %d", was, now)
	}
	return ""
}

func place(at btf.Bits) string {
	if at%8 != 0 {
		return fmt.Sprintf("bit %d", at)
	}
	return fmt.Sprintf("byte %d", at/8)
}
