package entries

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"l3af/internal/btftext"
)

// JSON writes an entry as bpftool does. Ours are "sum", of the values of all
// CPUs, for types with numbers and for values that are one number, and
// "inner_map_id", which old versions of bpftool do not have.
func (m *Map) JSON(w *btftext.Writer, e Entry) {
	w.BeginObject()
	w.Name("key")
	w.Hex(e.Key)
	if e.Err != nil {
		w.Name("value")
		w.BeginObject()
		w.Name("error")
		w.String(Text(e.Err))
		w.EndObject()
		w.EndObject()
		return
	}
	values := m.Values(e.Value)
	if m.CPUs > 0 {
		w.Name("values")
		w.BeginArray()
		for cpu, v := range values {
			w.BeginObject()
			w.Name("cpu")
			w.Uint(uint64(cpu))
			w.Name("value")
			w.Hex(v)
			w.EndObject()
		}
		w.EndArray()
	} else {
		w.Name("value")
		w.Hex(e.Value)
		if m.OfMaps() {
			w.Name("inner_map_id")
			w.Uint(uint64(binary.NativeEndian.Uint32(e.Value)))
		}
	}
	if m.value != nil {
		w.Name("formatted")
		w.BeginObject()
		m.formatted(w, e.Key, values, false)
		w.EndObject()
	}
	m.sum(w, values)
	w.EndObject()
}

// formatted writes the members of an entry by BTF.
func (m *Map) formatted(w *btftext.Writer, key []byte, values [][]byte, plain bool) {
	if m.key != nil {
		w.Name("key")
		m.key.Value(w, key, plain)
	}
	if m.CPUs == 0 {
		w.Name("value")
		m.value.Value(w, values[0], plain)
		return
	}
	w.Name("values")
	w.BeginArray()
	for cpu, v := range values {
		w.BeginObject()
		w.Name("cpu")
		w.Uint(uint64(cpu))
		w.Name("value")
		m.value.Value(w, v, plain)
		w.EndObject()
	}
	w.EndArray()
}

// sum writes the member sum of a per-CPU entry.
func (m *Map) sum(w *btftext.Writer, values [][]byte) {
	switch {
	case m.CPUs == 0:
	case m.value != nil:
		if m.value.HasNumbers() {
			w.Name("sum")
			m.value.Sum(w, values...)
		}
	case m.numeric():
		w.Name("sum")
		w.Uint(total(values))
	}
}

// numeric says whether values without types are of the size of a number.
func (m *Map) numeric() bool {
	switch m.Info.ValueSize {
	case 1, 2, 4, 8:
		return m.value == nil && !m.holdsFDs()
	}
	return false
}

func total(values [][]byte) (n uint64) {
	for _, v := range values {
		switch len(v) {
		case 1:
			n += uint64(v[0])
		case 2:
			n += uint64(binary.NativeEndian.Uint16(v))
		case 4:
			n += uint64(binary.NativeEndian.Uint32(v))
		default:
			n += binary.NativeEndian.Uint64(v)
		}
	}
	return n
}

// Typed says whether BTF tells what the values are.
func (m *Map) Typed() bool { return m.value != nil }

// TypedText writes an entry of a map with types as bpftool prints it for people.
func (m *Map) TypedText(w *btftext.Writer, e Entry) {
	w.BeginObject()
	if e.Err == nil {
		values := m.Values(e.Value)
		m.formatted(w, e.Key, values, true)
		m.sum(w, values)
	} else {
		if m.key != nil {
			w.Name("key")
			m.key.Value(w, e.Key, true)
		}
		w.Name("error")
		w.String(Text(e.Err))
	}
	w.EndObject()
}

// AppendText appends an entry in hex as bpftool prints it.
func (m *Map) AppendText(b []byte, e Entry) []byte {
	if m.CPUs > 0 && e.Err == nil {
		return m.perCPUText(b, e)
	}
	size := int(m.Info.ValueSize)
	text := ""
	switch {
	case errors.Is(e.Err, unix.ENOENT):
		text = "<no entry>"
	case e.Err != nil:
		text = Text(e.Err)
		size = len(text)
	case m.OfMaps():
		text = strconv.FormatUint(uint64(binary.NativeEndian.Uint32(e.Value)), 10)
	}
	broken := m.Info.KeySize > 16 || size > 16
	one := int(m.Info.KeySize)+size <= 24 && !broken
	after, between := byte(' '), "  "
	if broken {
		after = '\n'
	}
	if !one {
		between = "\n"
	}
	if len(e.Key) > 0 {
		b = append(append(b, "key:"...), after)
		b = append(AppendHex(b, e.Key), between...)
	}
	name := "value:"
	if m.OfMaps() && e.Err == nil {
		name = "inner_map_id:"
	}
	b = append(append(b, name...), after)
	if text != "" {
		b = append(b, text...)
	} else {
		b = AppendHex(b, e.Value)
	}
	return append(b, '\n')
}

func (m *Map) perCPUText(b []byte, e Entry) []byte {
	b = append(AppendHex(append(b, "key:\n"...), e.Key), '\n')
	after := ' '
	if m.Info.ValueSize > 16 {
		after = '\n'
	}
	values := m.Values(e.Value)
	for cpu, v := range values {
		b = append(AppendHex(fmt.Appendf(b, "value (CPU %02d):%c", cpu, after), v), '\n')
	}
	if m.numeric() {
		b = fmt.Appendf(b, "sum: %d\n", total(values))
	}
	return b
}

// AppendHex appends bytes in hex, sixteen to a line.
func AppendHex(b, data []byte) []byte {
	const digits = "0123456789abcdef"
	for i, c := range data {
		switch {
		case i == 0:
		case i%16 == 0:
			b = append(b, '\n')
		case i%8 == 0:
			b = append(b, ' ', ' ')
		default:
			b = append(b, ' ')
		}
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

// Numbers are the numbers in an entry's value, added over all CPUs.
func (m *Map) Numbers(e Entry) []btftext.Number {
	switch {
	case m.value != nil:
		return m.value.Numbers(m.Values(e.Value)...)
	case m.numeric():
		return []btftext.Number{btftext.Uint(total(m.Values(e.Value)))}
	}
	return nil
}

// HasNumbers says whether entries have numbers that can be added.
func (m *Map) HasNumbers() bool {
	if m.value != nil {
		return m.value.HasNumbers()
	}
	return m.numeric()
}
