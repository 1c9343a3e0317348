package value

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"unicode/utf8"

	"github.com/cilium/ebpf/btf"
)

// Decode gives the value of the bytes b as a t, in the form in which people
// write it: [Encode] gives the same bytes again, but for padding, the members of
// a union that its largest does not cover, and true booleans other than 1.
// Pointers become text ("0x…") that Encode refuses.
func Decode(t btf.Type, b []byte, o Options) (any, error) {
	size, err := sizeof(t)
	if err != nil {
		return nil, err
	}
	if size != len(b) {
		return nil, fmt.Errorf("%d bytes, want %d for %s", len(b), size, describe(t))
	}
	d := decoder{nodes: maxNodes}
	c := context{network: o.Network}.tagged(o.Tags)
	c.trie = o.LPM
	if o.LPM {
		if s, ok := trieText(c, t, b); ok {
			return s, nil
		}
		if !isStruct(t) {
			return DecodeBytes(b, o), nil
		}
	}
	v := d.value(c, t, b)
	return v, d.err
}

// DecodeBytes gives the value of bytes of which no type is known: an integer
// (1, 2, 4 or 8 bytes), "0x…", or a prefix for the key of an LPM trie.
func DecodeBytes(b []byte, o Options) any {
	c := context{network: o.Network}.tagged(o.Tags)
	if o.LPM {
		if s, ok := trieText(c, nil, b); ok {
			return s
		}
		o.Network = false
	}
	switch len(b) {
	case 1, 2, 4, 8:
		return json.Number(getInt(b, o.Network, false).String())
	}
	return "0x" + hex.EncodeToString(b)
}

func trieText(c context, t btf.Type, b []byte) (string, bool) {
	if len(b) <= 4 {
		return "", false
	}
	_, ok := trieData(c, t, len(b)-4)
	length := binary.NativeEndian.Uint32(b)
	if !ok || length > uint32(8*(len(b)-4)) || !bytes.Equal(masked(b[4:], int(length)), b[4:]) {
		return "", false
	}
	a, _ := netip.AddrFromSlice(b[4:])
	return network(c, t, a, int(length)), true
}

type decoder struct {
	err   error
	nodes int
}

func (d *decoder) value(c context, t btf.Type, b []byte) any {
	if d.nodes--; d.nodes < 0 || c.depth > maxDepth {
		d.err = errors.New("the type is too deep or too large")
	}
	if d.err != nil {
		return nil
	}
	named := t
	t, c = c.resolve(t)
	switch t := t.(type) {
	case *btf.Int:
		if len(b) == 4 && isBE32(named) {
			return addressText(c, b)
		}
		return scalarOf(t, getInt(b, c.network, t.Encoding == btf.Signed))
	case *btf.Enum:
		return scalarOf(t, getInt(b, c.network, t.Signed))
	case *btf.Float:
		return floatOf(getInt(b, c.network, false), len(b))
	case *btf.Array:
		return d.array(c, t, b)
	case *btf.Struct:
		if c.prefix {
			if s, ok := trieText(c, t, b); ok {
				return s
			}
		}
		if addressSize(c, t) != 0 {
			return addressText(c, b)
		}
		if isPrefix(c, t) {
			if s, ok := trieText(c, t, b); ok {
				return s
			}
			c.trie = true
		}
		m := map[string]any{}
		d.members(c, t.Members, b, m)
		return m
	case *btf.Union:
		m := map[string]any{}
		d.union(c, t.Members, b, m)
		return m
	case *btf.Pointer:
		return "0x" + getInt(b, false, false).Text(16)
	}
	d.err = fmt.Errorf("%s: %s has no value", c.path, describe(t))
	return nil
}

// isBE32 tells __be32, which holds addresses, from other integers.
func isBE32(t btf.Type) bool {
	for range maxDepth {
		switch q := t.(type) {
		case *btf.Typedef:
			if q.Name == "__be32" {
				return true
			}
			t = q.Type
		case *btf.Const:
			t = q.Type
		case *btf.Volatile:
			t = q.Type
		case *btf.Var:
			t = q.Type
		default:
			return false
		}
	}
	return false
}

func scalarOf(t btf.Type, n *big.Int) any {
	switch t := t.(type) {
	case *btf.Int:
		if t.Encoding == btf.Bool {
			return n.Sign() != 0
		}
	case *btf.Enum:
		for _, v := range t.Values {
			if t.Signed && n.IsInt64() && n.Int64() == int64(v.Value) || !t.Signed && n.IsUint64() && n.Uint64() == v.Value {
				if _, numeric := number(v.Name); v.Name != "" && !numeric {
					return v.Name
				}
			}
		}
	}
	return json.Number(n.String())
}

func floatOf(n *big.Int, size int) any {
	f := math.Float64frombits(n.Uint64())
	if size == 4 {
		f = float64(math.Float32frombits(uint32(n.Uint64())))
	}
	switch {
	case size != 4 && size != 8:
		return "0x" + n.Text(16)
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	return json.Number(strconv.FormatFloat(f, 'g', -1, 8*size))
}

func addressText(c context, b []byte) string {
	if len(b) == 6 {
		return net.HardwareAddr(b).String()
	}
	a, _ := netip.AddrFromSlice(b)
	if c.mapped {
		a = a.Unmap()
	}
	return a.String()
}

func (d *decoder) array(c context, t *btf.Array, b []byte) any {
	el, _ := c.resolve(t.Type)
	if i, ok := el.(*btf.Int); ok && i.Encoding != btf.Bool {
		switch {
		case isChar(i):
			// Text when it is text and nothing else follows.
			text := bytes.TrimRight(b, "\x00")
			if bytes.IndexByte(text, 0) < 0 && utf8.Valid(text) {
				return string(text)
			}
		case addressSize(c, t) != 0 && (i.Size == 1 || isBE32(t.Type)):
			return addressText(c, b)
		case i.Size == 1:
			return "0x" + hex.EncodeToString(b)
		}
	}
	list := []any{}
	if t.Nelems == 0 {
		return list
	}
	size := len(b) / int(t.Nelems)
	for i := range int(t.Nelems) {
		if d.err != nil {
			return nil
		}
		list = append(list, d.value(c.element(i), t.Type, b[i*size:(i+1)*size]))
	}
	return list
}

func (d *decoder) members(c context, members []btf.Member, b []byte, m map[string]any) {
	for i := range members {
		d.member(c, &members[i], b, m)
	}
}

// union decodes the largest member, the first of them, which says most.
func (d *decoder) union(c context, members []btf.Member, b []byte, m map[string]any) {
	best, most := -1, -1
	for i := range members {
		n, err := sizeof(members[i].Type)
		if members[i].BitfieldSize != 0 {
			n = int(members[i].BitfieldSize) / 8
		}
		if err == nil && n > most {
			best, most = i, n
		}
	}
	if best >= 0 {
		d.member(c, &members[best], b, m)
	}
}

func (d *decoder) member(c context, mem *btf.Member, b []byte, m map[string]any) {
	if d.nodes--; d.nodes < 0 || c.depth > maxDepth {
		d.err = errors.New("the type is too deep or too large")
	}
	if d.err != nil {
		return
	}
	c = c.member(mem)
	if mem.BitfieldSize != 0 {
		offset, size := uint64(mem.Offset), uint64(mem.BitfieldSize)
		t, _ := c.resolve(mem.Type)
		signed := false
		switch t := t.(type) {
		case *btf.Int:
			signed = t.Encoding == btf.Signed
		case *btf.Enum:
			signed = t.Signed
		}
		if size > 64 || offset+size > 8*uint64(len(b)) {
			d.err = fmt.Errorf("%s: %s", c.path, damaged)
		} else if mem.Name != "" {
			m[mem.Name] = scalarOf(t, getBits(b, uint(offset), uint(size), signed))
		}
		return
	}
	size, err := sizeof(mem.Type)
	if err != nil {
		d.err = fmt.Errorf("%s: %w", c.path, err)
		return
	}
	at := uint64(mem.Offset) / 8
	if mem.Offset%8 != 0 || at+uint64(size) > uint64(len(b)) {
		d.err = fmt.Errorf("%s: %s", c.path, damaged)
		return
	}
	b = b[at : at+uint64(size)]
	t, in := c.resolve(mem.Type)
	if s, ok := t.(*btf.Struct); ok && kernels[s.Name] {
		return // says nothing to people, and cannot be set
	}
	if mem.Name != "" {
		m[mem.Name] = d.value(c, mem.Type, b)
		return
	}
	c = in
	switch t := t.(type) {
	case *btf.Struct:
		d.members(c, t.Members, b, m)
	case *btf.Union:
		d.union(c, t.Members, b, m)
	}
}
