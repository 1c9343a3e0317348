package value

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"

	"l3af/internal/near"
)

// number reads an integer as people write it: decimal, 0x, 0o, 0b, with a sign,
// and _ between digits. ok is false for anything else.
func number(v any) (n *big.Int, ok bool) {
	var s string
	switch v := v.(type) {
	case json.Number:
		s = v.String()
	case string:
		s = v
	default:
		return nil, false
	}
	// 39 digits make 16 bytes; 128 binary ones with separators are the longest.
	if len(s) == 0 || len(s) > 300 {
		return nil, false
	}
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 {
		return nil, false
	}
	if len(digits) > 1 && digits[0] == '0' && (digits[1] == '_' || digits[1] >= '0' && digits[1] <= '9') {
		return nil, false // octal to C, decimal to people
	}
	return new(big.Int).SetString(s, 0)
}

// limits gives the range of an integer.
func limits(bits uint, signed bool) (lo, hi *big.Int) {
	one := big.NewInt(1)
	if signed {
		hi = new(big.Int).Lsh(one, bits-1)
		lo = new(big.Int).Neg(hi)
	} else {
		hi = new(big.Int).Lsh(one, bits)
		lo = new(big.Int)
	}
	return lo, hi.Sub(hi, one)
}

// integer reads v as an integer of so many bits, two's complement.
func (e *encoder) integer(c context, v any, bits uint, signed bool, also string) (*big.Int, bool) {
	lo, hi := limits(bits, signed)
	return e.within(c, v, lo, hi, bits, also)
}

// within reads v as an integer from lo to hi, two's complement.
func (e *encoder) within(c context, v any, lo, hi *big.Int, bits uint, also string) (*big.Int, bool) {
	n, ok := number(v)
	if !ok {
		hint := ""
		if s, _ := v.(string); strings.HasPrefix(s, "0") && strings.Trim(s, "0123456789") == "" {
			if s = strings.TrimLeft(s, "0"); s != "" {
				hint = fmt.Sprintf("write 0o%s or %s", clip(s), clip(s))
			}
		}
		e.fail(c, hint, "want an integer from %s to %s%s, have %s", lo, hi, also, kind(v))
		return nil, false
	}
	if n.Cmp(lo) < 0 || n.Cmp(hi) > 0 {
		e.fail(c, "", "%s is out of range: %s to %s", kind(v), lo, hi)
		return nil, false
	}
	return complement(n, bits), true
}

func complement(n *big.Int, bits uint) *big.Int {
	if n.Sign() < 0 {
		return new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), bits))
	}
	return n
}

// putInt writes the low bytes of n, which is not negative.
func putInt(out []byte, n *big.Int, network bool) {
	n.FillBytes(out)
	if !network && !bigEndian {
		slices.Reverse(out)
	}
}

func getInt(b []byte, network, signed bool) *big.Int {
	b = slices.Clone(b)
	if !network && !bigEndian {
		slices.Reverse(b)
	}
	n := new(big.Int).SetBytes(b)
	return sign(n, uint(8*len(b)), signed)
}

func sign(n *big.Int, bits uint, signed bool) *big.Int {
	if signed && bits > 0 && n.Bit(int(bits-1)) == 1 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), bits))
	}
	return n
}

// putBits writes a bitfield. BTF counts bits from the least significant one of
// the first byte on little-endian machines, from the most significant one on
// big-endian machines.
func putBits(out []byte, n *big.Int, offset, size uint) {
	for i := range size {
		at, bit := offset+i, n.Bit(int(i))
		shift := at % 8
		if bigEndian {
			bit, shift = n.Bit(int(size-1-i)), 7-shift
		}
		out[at/8] = out[at/8]&^(1<<shift) | byte(bit)<<shift
	}
}

func getBits(b []byte, offset, size uint, signed bool) *big.Int {
	n := new(big.Int)
	for i := range size {
		at := offset + i
		if bigEndian {
			n.SetBit(n, int(size-1-i), uint(b[at/8]>>(7-at%8)&1))
		} else {
			n.SetBit(n, int(i), uint(b[at/8]>>(at%8)&1))
		}
	}
	return sign(n, size, signed)
}

// scalar reads v as an integer, boolean or enum of so many bits; ok is false
// when t is none of these or v does not fit. t is resolved.
func (e *encoder) scalar(c context, t btf.Type, v any, bits uint, also string) (n *big.Int, ok bool) {
	switch t := t.(type) {
	case *btf.Int:
		if t.Encoding == btf.Bool {
			return e.boolean(c, v)
		}
		return e.integer(c, v, bits, t.Encoding == btf.Signed, also)
	case *btf.Enum:
		return e.enum(c, t, v, bits)
	}
	e.fail(c, "", "%s cannot be a bitfield: the type information is damaged", describe(t))
	return nil, false
}

func (e *encoder) boolean(c context, v any) (*big.Int, bool) {
	switch v {
	case true, "true", json.Number("1"):
		return big.NewInt(1), true
	case false, "false", json.Number("0"):
		return new(big.Int), true
	}
	e.fail(c, "", "want true or false, have %s", kind(v))
	return nil, false
}

func (e *encoder) enum(c context, t *btf.Enum, v any, bits uint) (*big.Int, bool) {
	// Compilers before clang 15 do not say whether an enum is signed.
	lo, hi := limits(bits, true)
	if !t.Signed {
		_, hi = limits(bits, false)
	}
	name, isText := v.(string)
	if _, isNumber := number(v); !isText || isNumber {
		return e.within(c, v, lo, hi, bits, " or a name of "+describe(t))
	}
	names := make([]string, len(t.Values))
	for i, val := range t.Values {
		names[i] = val.Name
	}
	i := slices.Index(names, name)
	if i < 0 {
		// The name without what all names of the enum begin with.
		skip := len(shared(names))
		matches := 0
		for j, n := range names {
			if strings.EqualFold(n, name) || strings.EqualFold(n[skip:], name) {
				i, matches = j, matches+1
			}
		}
		if matches != 1 {
			e.fail(c, enumHint(name, names, skip), "%s is not a name of %s", quote(name), describe(t))
			return nil, false
		}
	}
	n := new(big.Int).SetUint64(t.Values[i].Value)
	if t.Signed {
		n.SetInt64(int64(t.Values[i].Value))
	} else if t.Size == 4 && n.Cmp(hi) > 0 {
		n.SetInt64(int64(int32(t.Values[i].Value)))
	}
	if n.Cmp(lo) < 0 || n.Cmp(hi) > 0 {
		e.fail(c, "", "%s (%s) is out of range: %s to %s", t.Values[i].Name, n, lo, hi)
		return nil, false
	}
	return complement(n, bits), true
}

func enumHint(name string, names []string, skip int) string {
	short := make([]string, len(names))
	for i, n := range names {
		short[i] = n[skip:]
	}
	if h := near.Hint(name, short); strings.HasPrefix(h, "did you mean") {
		return h
	}
	return near.Hint(name, names)
}

// shared is what all names begin with, up to the last underscore.
func shared(names []string) string {
	if len(names) < 2 {
		return ""
	}
	p := names[0]
	for _, n := range names[1:] {
		for !strings.HasPrefix(n, p) {
			p = p[:len(p)-1]
		}
	}
	return p[:strings.LastIndexByte(p, '_')+1]
}

func (e *encoder) float(c context, t *btf.Float, v any, out []byte) {
	var s string
	switch v := v.(type) {
	case json.Number:
		s = v.String()
	case string:
		s = v
	}
	f, err := strconv.ParseFloat(s, 8*len(out))
	switch {
	case len(out) != 4 && len(out) != 8:
		e.fail(c, "", "a float of %d bytes cannot be set", len(out))
	case err != nil && math.IsInf(f, 0):
		e.fail(c, "", "%s is out of range of %s", kind(v), describe(t))
	case err != nil:
		e.fail(c, "", "want a number, have %s", kind(v))
	case len(out) == 4:
		putInt(out, new(big.Int).SetUint64(uint64(math.Float32bits(float32(f)))), c.network)
	default:
		putInt(out, new(big.Int).SetUint64(math.Float64bits(f)), c.network)
	}
}
