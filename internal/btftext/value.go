package btftext

import (
	"encoding/binary"
	"math"
	"strconv"
)

// Value writes a value as bpftool writes its "formatted" JSON: enums by name,
// bitfields and integers of 128 bits in hex, arrays of char as text when they
// are printable and end, pointers in decimal, all members of unions, members
// without a name as "". Floats are numbers. The value has at least [Formatter.Size] bytes.
//
// With plain, as bpftool writes it for people: hex without quotes, pointers in
// hex. That is not always JSON.
func (f *Formatter) Value(w *Writer, value []byte, plain bool) {
	f.root.write(w, value[:f.root.size], plain)
}

func (n *node) write(w *Writer, b []byte, plain bool) {
	switch n.op {
	case opUint:
		w.Uint(n.load(b))
	case opInt:
		w.Int(int64(n.load(b)))
	case opBits:
		w.element()
		w.Buf = n.appendHex(w.Buf, b, !plain)
	case opChar:
		writeChar(w, b[0], plain)
	case opBool:
		w.Bool(b[0] != 0)
	case opEnum:
		v := integer(b)
		if name, ok := n.names[v]; ok {
			w.raw(name)
		} else {
			w.Int(extend(v, uint(8*n.size)))
		}
	case opPtr:
		writePointer(w, binary.NativeEndian.Uint64(b), plain)
	case opFloat:
		writeFloat(w, n.float(b), int(8*n.size))
	case opStruct:
		w.BeginObject()
		for i := range n.members {
			m := &n.members[i]
			w.quotedName(m.name)
			m.write(w, b[m.offset:][:m.size], plain)
		}
		w.EndObject()
	case opChars:
		if text, ok := text(b); ok {
			w.String(text)
			return
		}
		fallthrough
	case opArray:
		w.BeginArray()
		for i := range n.len {
			n.elem.write(w, b[i*n.elem.size:][:n.elem.size], plain)
		}
		w.EndArray()
	case opSection:
		w.BeginObject()
		w.quotedName(n.name)
		w.BeginArray()
		for i := range n.members {
			m := &n.members[i]
			w.BeginObject()
			w.quotedName(m.name)
			m.write(w, b[m.offset:][:m.size], plain)
			w.EndObject()
		}
		w.EndArray()
		w.EndObject()
	}
}

// load is a whole integer, sign-extended where it is signed.
func (n *node) load(b []byte) uint64 {
	v := integer(b[:n.bits/8])
	if n.signed {
		return uint64(extend(v, uint(n.bits)))
	}
	return v
}

// integer reads 1, 2, 4 or 8 bytes in this machine's order.
func integer(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.NativeEndian.Uint16(b))
	case 4:
		return uint64(binary.NativeEndian.Uint32(b))
	}
	return binary.NativeEndian.Uint64(b)
}

// extend is the signed number in the low bits.
func extend(v uint64, bits uint) int64 { return int64(v<<(64-bits)) >> (64 - bits) }

var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// field is a bitfield of up to 128 bits.
func (n *node) field128(b []byte) (hi, lo uint64) {
	at := uint(n.shift)
	for i := uint(n.bits); i > 0; i-- {
		// From the most significant bit on.
		var bit uint64
		if bigEndian {
			k := at + uint(n.bits) - i
			bit = uint64(b[k/8]>>(7-k%8)) & 1
		} else {
			k := at + i - 1
			bit = uint64(b[k/8]>>(k%8)) & 1
		}
		hi, lo = hi<<1|lo>>63, lo<<1|bit
	}
	return hi, lo
}

func (n *node) appendHex(out, b []byte, quote bool) []byte {
	hi, lo := n.field128(b)
	if quote {
		out = append(out, '"')
	}
	out = append(out, '0', 'x')
	if hi != 0 {
		out = strconv.AppendUint(out, hi, 16)
		for i := 60; i >= 0; i -= 4 {
			out = append(out, digits[lo>>i&15])
		}
	} else {
		out = strconv.AppendUint(out, lo, 16)
	}
	if quote {
		out = append(out, '"')
	}
	return out
}

func writeChar(w *Writer, c byte, plain bool) {
	switch {
	case c >= ' ' && c < 0x7f:
		w.String(string(rune(c)))
	case plain:
		w.raw("0x" + strconv.FormatUint(uint64(c), 16))
	default:
		w.raw(`"\u00` + string([]byte{digits[c>>4], digits[c&15]}) + `"`)
	}
}

func writePointer(w *Writer, p uint64, plain bool) {
	switch {
	case !plain:
		w.Uint(p)
	case p == 0:
		w.raw(`"(nil)"`)
	default:
		w.raw(`"0x` + strconv.FormatUint(p, 16) + `"`)
	}
}

func (n *node) float(b []byte) float64 {
	switch n.size {
	case 2:
		return half(binary.NativeEndian.Uint16(b))
	case 4:
		return float64(math.Float32frombits(binary.NativeEndian.Uint32(b)))
	}
	return math.Float64frombits(binary.NativeEndian.Uint64(b))
}

// half is a number of 16 bits: 5 of exponent, 10 of fraction.
func half(h uint16) float64 {
	exp, frac := int(h>>10&31), float64(h&1023)
	v := math.Ldexp(frac, -24)
	switch {
	case exp == 31 && frac == 0:
		v = math.Inf(1)
	case exp == 31:
		return math.NaN()
	case exp > 0:
		v = math.Ldexp(1024+frac, exp-25)
	}
	if h>>15 != 0 {
		return -v
	}
	return v
}

func writeFloat(w *Writer, f float64, bits int) {
	switch {
	case math.IsNaN(f):
		w.raw(`"nan"`)
	case math.IsInf(f, 1):
		w.raw(`"inf"`)
	case math.IsInf(f, -1):
		w.raw(`"-inf"`)
	default:
		w.element()
		w.Buf = strconv.AppendFloat(w.Buf, f, 'g', -1, max(bits, 32))
	}
}

// text is what stands before the first NUL, if there is one and all is printable ASCII.
func text(b []byte) (string, bool) {
	for i, c := range b {
		switch {
		case c == 0:
			return string(b[:i]), true
		case c < ' ' || c > '~':
			return "", false
		}
	}
	return "", false
}
