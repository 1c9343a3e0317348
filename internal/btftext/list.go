package btftext

import (
	"fmt"
	"strconv"

	"l3af/internal/rawbtf"
)

// Listing writes types one by one as bpftool lists them: as text, or as the
// elements of the array "types" of its JSON.
//
// The values of enums of which BTF says that they are unsigned are unsigned in
// JSON as well; version 7.1 of bpftool extends their sign there.
type Listing struct {
	Spec *rawbtf.Spec
	W    *Writer // JSON goes here; nil: text is wanted
}

var encodings = map[uint8]string{0: "(none)", rawbtf.Signed: "SIGNED", rawbtf.Char: "CHAR", rawbtf.Bool: "BOOL"}

var linkages = []string{"static", "global", "extern"}

func linkage(n uint32) string {
	if int(n) < len(linkages) {
		return linkages[n]
	}
	return "(unknown)"
}

func encoding(signed bool) string {
	if signed {
		return "SIGNED"
	}
	return "UNSIGNED"
}

// Type writes a type and what belongs to it; text is appended to b.
func (l *Listing) Type(b []byte, id rawbtf.ID) []byte {
	t := l.Spec.Type(id)
	if t == nil || t.Kind == rawbtf.Void {
		return b
	}
	if l.W != nil {
		l.json(id, t)
		return b
	}
	b = fmt.Appendf(b, "[%d] %s '%s'", id, t.Kind, named(t.Name))
	num := func(name string, n uint64) {
		b = append(append(append(append(b, ' '), name...), '='), strconv.FormatUint(n, 10)...)
	}
	switch t.Kind {
	case rawbtf.Int:
		i := t.Integer()
		b = fmt.Appendf(b, " size=%d bits_offset=%d nr_bits=%d encoding=%s", t.Size, i.Offset, i.Bits, encodingOf(i))
	case rawbtf.Array:
		index, n := t.Array()
		b = fmt.Appendf(b, " type_id=%d index_type_id=%d nr_elems=%d", t.Type, index, n)
	case rawbtf.Struct, rawbtf.Union:
		b = fmt.Appendf(b, " size=%d vlen=%d", t.Size, t.Len)
		for _, m := range t.Members() {
			b = fmt.Appendf(b, "\n\t'%s' type_id=%d bits_offset=%d", named(m.Name), m.Type, m.Offset)
			if m.Bits > 0 {
				num("bitfield_size", uint64(m.Bits))
			}
		}
	case rawbtf.Enum, rawbtf.Enum64:
		b = fmt.Appendf(b, " encoding=%s size=%d vlen=%d", encoding(t.Flag), t.Size, t.Len)
		for _, v := range t.Values() {
			b = append(fmt.Appendf(b, "\n\t'%s' val=", v.Name), enumValue(t, v.Value)...)
		}
	case rawbtf.Fwd:
		b = append(append(b, " fwd_kind="...), forwardOf(t)...)
	case rawbtf.Func:
		b = fmt.Appendf(b, " type_id=%d linkage=%s", t.Type, linkage(t.Linkage()))
	case rawbtf.FuncProto:
		b = fmt.Appendf(b, " ret_type_id=%d vlen=%d", t.Type, t.Len)
		for _, p := range t.Params() {
			b = fmt.Appendf(b, "\n\t'%s' type_id=%d", named(p.Name), p.Type)
		}
	case rawbtf.Var:
		b = fmt.Appendf(b, " type_id=%d, linkage=%s", t.Type, linkage(t.Linkage()))
	case rawbtf.Datasec:
		b = fmt.Appendf(b, " size=%d vlen=%d", t.Size, t.Len)
		for _, v := range t.Variables() {
			b = fmt.Appendf(b, "\n\ttype_id=%d offset=%d size=%d", v.Type, v.Offset, v.Size)
			if of := l.Spec.Type(v.Type); of.Kind == rawbtf.Var || of.Kind == rawbtf.Func {
				b = fmt.Appendf(b, " (%s '%s')", of.Kind, named(of.Name))
			}
		}
	case rawbtf.Float:
		num("size", uint64(t.Size))
	case rawbtf.DeclTag:
		b = fmt.Appendf(b, " type_id=%d component_idx=%d", t.Type, t.Component())
	default:
		num("type_id", uint64(t.Type))
	}
	return append(b, '\n')
}

func encodingOf(i rawbtf.Integer) string {
	if s, ok := encodings[i.Encoding]; ok {
		return s
	}
	return "UNKN"
}

func forwardOf(t *rawbtf.Type) string {
	if t.Flag {
		return "union"
	}
	return "struct"
}

// enumValue is a value of an enum as bpftool lists it, and as C has it.
func enumValue(t *rawbtf.Type, v uint64) string {
	suffix := ""
	if t.Kind == rawbtf.Enum64 {
		suffix = "LL"
	}
	if t.Flag {
		return strconv.FormatInt(int64(v), 10) + suffix
	}
	if suffix != "" {
		suffix = "ULL"
	}
	return strconv.FormatUint(v, 10) + suffix
}

func (l *Listing) json(id rawbtf.ID, t *rawbtf.Type) {
	w := l.W
	num := func(name string, n uint64) {
		w.Name(name)
		w.Uint(n)
	}
	text := func(name, s string) {
		w.Name(name)
		w.String(s)
	}
	list := func(name string, each func()) {
		num("vlen", uint64(t.Len))
		w.Name(name)
		w.BeginArray()
		each()
		w.EndArray()
	}
	w.BeginObject()
	num("id", uint64(id))
	text("kind", t.Kind.String())
	text("name", named(t.Name))
	switch t.Kind {
	case rawbtf.Int:
		i := t.Integer()
		num("size", uint64(t.Size))
		num("bits_offset", uint64(i.Offset))
		num("nr_bits", uint64(i.Bits))
		text("encoding", encodingOf(i))
	case rawbtf.Array:
		index, n := t.Array()
		num("type_id", uint64(t.Type))
		num("index_type_id", uint64(index))
		num("nr_elems", uint64(n))
	case rawbtf.Struct, rawbtf.Union:
		num("size", uint64(t.Size))
		list("members", func() {
			for _, m := range t.Members() {
				w.BeginObject()
				text("name", named(m.Name))
				num("type_id", uint64(m.Type))
				num("bits_offset", uint64(m.Offset))
				if m.Bits > 0 {
					num("bitfield_size", uint64(m.Bits))
				}
				w.EndObject()
			}
		})
	case rawbtf.Enum, rawbtf.Enum64:
		text("encoding", encoding(t.Flag))
		num("size", uint64(t.Size))
		list("values", func() {
			for _, v := range t.Values() {
				w.BeginObject()
				text("name", v.Name)
				w.Name("val")
				if t.Flag {
					w.Int(int64(v.Value))
				} else {
					w.Uint(v.Value)
				}
				w.EndObject()
			}
		})
	case rawbtf.Fwd:
		text("fwd_kind", forwardOf(t))
	case rawbtf.Func:
		num("type_id", uint64(t.Type))
		text("linkage", linkage(t.Linkage()))
	case rawbtf.FuncProto:
		num("ret_type_id", uint64(t.Type))
		list("params", func() {
			for _, p := range t.Params() {
				w.BeginObject()
				text("name", named(p.Name))
				num("type_id", uint64(p.Type))
				w.EndObject()
			}
		})
	case rawbtf.Var:
		num("type_id", uint64(t.Type))
		text("linkage", linkage(t.Linkage()))
	case rawbtf.Datasec:
		num("size", uint64(t.Size))
		list("vars", func() {
			for _, v := range t.Variables() {
				w.BeginObject()
				num("type_id", uint64(v.Type))
				num("offset", uint64(v.Offset))
				num("size", uint64(v.Size))
				w.EndObject()
			}
		})
	case rawbtf.Float:
		num("size", uint64(t.Size))
	case rawbtf.DeclTag:
		num("type_id", uint64(t.Type))
		w.Name("component_idx")
		w.Int(int64(t.Component()))
	default:
		num("type_id", uint64(t.Type))
	}
	w.EndObject()
}
