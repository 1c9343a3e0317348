package value

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// maker makes random types without padding, so that every bit counts.
type maker struct {
	*rand.Rand
	names int
	loose bool // the type has values of more than one form: bool 2, NaN
}

func (m *maker) name() string {
	m.names++
	return fmt.Sprintf("m%d", m.names)
}

func (m *maker) int() *btf.Int {
	sizes := []uint32{1, 1, 2, 4, 8, 16, 3}
	i := &btf.Int{Name: "int", Size: sizes[m.IntN(len(sizes))]}
	if m.IntN(2) == 0 {
		i.Encoding = btf.Signed
	}
	if i.Size == 1 && m.IntN(3) == 0 {
		i.Name = "char"
	}
	return i
}

func (m *maker) enum() *btf.Enum {
	e := &btf.Enum{Name: "e", Size: 1 << m.IntN(4), Signed: m.IntN(2) == 0}
	for range 1 + m.IntN(8) {
		v := m.Uint64() >> (64 - 8*e.Size)
		if m.IntN(2) == 0 {
			v %= 4
		}
		if e.Signed {
			v = uint64(int64(v<<(64-8*e.Size)) >> (64 - 8*e.Size))
		}
		e.Values = append(e.Values, btf.EnumValue{Name: "PRE_" + m.name(), Value: v})
	}
	return e
}

func (m *maker) of(depth int) btf.Type {
	n := 13
	if depth == 0 {
		n = 7
	}
	switch m.IntN(n) {
	case 0, 1, 2:
		return m.int()
	case 3:
		return m.enum()
	case 4:
		m.loose = true
		if m.IntN(2) == 0 {
			return &btf.Float{Name: "double", Size: 8}
		}
		return &btf.Int{Name: "_Bool", Size: 1, Encoding: btf.Bool}
	case 5:
		return &btf.Typedef{Name: "__be32", Type: &btf.Int{Name: "unsigned int", Size: 4}}
	case 6:
		return &btf.Struct{Name: "in6_addr", Size: 16, Members: []btf.Member{
			{Name: "u6_addr8", Type: &btf.Array{Type: &btf.Int{Name: "unsigned char", Size: 1}, Nelems: 16}}}}
	case 7:
		return &btf.Const{Type: &btf.Volatile{Type: m.of(depth - 1)}}
	case 8:
		return &btf.Typedef{Name: "t", Type: m.of(depth - 1), Tags: m.tags()}
	case 9:
		return &btf.Array{Type: m.of(depth - 1), Nelems: uint32(m.IntN(5))}
	case 10:
		return m.union(depth)
	default:
		return m.structure(depth)
	}
}

func (m *maker) tags() []string {
	switch m.IntN(6) {
	case 0:
		return []string{TagNetwork}
	case 1:
		return []string{TagV4Mapped}
	}
	return nil
}

func (m *maker) union(depth int) btf.Type {
	first := m.of(depth - 1)
	size, _ := btf.Sizeof(first)
	return &btf.Union{Name: "u", Size: uint32(size), Members: []btf.Member{
		{Name: m.name(), Type: first, Tags: m.tags()},
		{Name: m.name(), Type: &btf.Array{Type: &btf.Int{Name: "char", Size: 1}, Nelems: uint32(size)}},
	}}
}

func (m *maker) structure(depth int) btf.Type {
	s := &btf.Struct{Name: "s", Tags: m.tags()}
	for range m.IntN(5) {
		if m.IntN(4) == 0 {
			unit := uint32(32)
			for left := unit; left > 0; {
				bits := 1 + uint32(m.IntN(int(left)))
				var t btf.Type = &btf.Int{Name: "int", Size: 4, Encoding: btf.IntEncoding(m.IntN(2))}
				if m.IntN(3) == 0 {
					t = m.enum()
				}
				s.Members = append(s.Members, btf.Member{Name: m.name(), Type: t,
					Offset: btf.Bits(8*s.Size + unit - left), BitfieldSize: btf.Bits(bits)})
				left -= bits
			}
			s.Size += unit / 8
			continue
		}
		t := m.of(depth - 1)
		size, _ := btf.Sizeof(t)
		name := m.name()
		switch underlying(t).(type) {
		case *btf.Struct, *btf.Union:
			if m.IntN(2) == 0 && underlying(t).TypeName() != "in6_addr" {
				name = ""
			}
		}
		s.Members = append(s.Members, btf.Member{Name: name, Type: t, Offset: btf.Bits(8 * s.Size), Tags: m.tags()})
		s.Size += uint32(size)
	}
	return s
}

func randomType(seed uint64) (btf.Type, bool) {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 1))}
	t := m.of(4)
	return t, m.loose
}

// For any type and any bytes, Encode undoes Decode.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(20000) {
		typ, loose := randomType(seed)
		r := rand.New(rand.NewPCG(seed, 2))
		size, err := btf.Sizeof(typ)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, size)
		for i := range b {
			if r.IntN(3) > 0 { // zeroes too: they end texts
				b[i] = byte(r.Uint32())
			}
		}
		o := Options{Network: r.IntN(2) == 0}
		v, err := Decode(typ, b, o)
		if err != nil {
			t.Fatalf("seed %d: Decode(%5v, %x): %v", seed, typ, b, err)
		}
		back, err := Encode(typ, v, o)
		if err != nil {
			t.Fatalf("seed %d: Encode(%5v, %v): %v", seed, typ, v, err)
		}
		if !loose && !bytes.Equal(back, b) {
			t.Fatalf("seed %d: %5v %v: have %x, want %x", seed, typ, v, back, b)
		}
		again, err := Decode(typ, back, o)
		if err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("seed %d: Decode(%x) = %v, %v, want %v", seed, back, again, err, v)
		}
	}
}

// Any prefix of either family comes back from the key of a trie as it was
// written, and the key's bytes are those of the kernel.
func TestPrefixRoundTrip(t *testing.T) {
	u8 := &btf.Int{Name: "unsigned char", Size: 1}
	u32 := &btf.Int{Name: "unsigned int", Size: 4}
	key := func(n uint32, tags ...string) btf.Type {
		return &btf.Struct{Name: "key", Size: 4 + n, Members: []btf.Member{
			{Name: "prefixlen", Type: u32}, {Name: "data", Type: &btf.Array{Type: u8, Nelems: n}, Offset: 32, Tags: tags}}}
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		raw := make([]byte, 4+12*r.IntN(2))
		for i := range raw {
			raw[i] = byte(r.Uint32())
		}
		a, _ := netip.AddrFromSlice(raw)
		p, err := a.Prefix(r.IntN(a.BitLen() + 1))
		if err != nil {
			t.Fatal(err)
		}
		types := []btf.Type{key(16, TagV4Mapped)}
		if a.Is4() {
			types = append(types, key(4), nil)
		} else {
			types = append(types, key(16), nil)
		}
		for i, typ := range types {
			o, want, bits := Options{LPM: true}, p.Masked().Addr().AsSlice(), p.Bits()
			if i == 0 {
				x := p.Masked().Addr().As16()
				want, bits = x[:], bits+128-a.BitLen()
			}
			var b []byte
			var back any
			if typ == nil {
				if b, err = EncodeBytes(4+len(raw), p.String(), o); err == nil {
					back = DecodeBytes(b, o)
				}
			} else {
				if b, err = Encode(typ, p.String(), o); err == nil {
					back, err = Decode(typ, b, o)
				}
			}
			if err != nil || back != p.String() {
				t.Fatalf("%s in %v: %v, %v", p, typ, back, err)
			}
			if !bytes.Equal(b[4:], want) || getInt(b[:4], false, false).Int64() != int64(bits) {
				t.Fatalf("%s in %v: %x, want %d, %x", p, typ, b, bits, want)
			}
		}
	}
}

// Whatever somebody writes for whatever type: an error, or bytes that decode
// to a value with the same bytes.
func FuzzEncode(f *testing.F) {
	vars := variables(f)
	compiled := slices.Sorted(maps.Keys(vars))
	for seed := range uint64(8) {
		f.Add(seed, byte(seed), `{"m1": 1, "m2": [2, "0x3", {}], "m3": "10.0.0.1"}`)
	}
	for i, s := range []string{`"10.0.0.0/8"`, `-1`, `"0xffffffffffffffffffff"`, `"02:00:00:00:00:01"`, `"::1"`, `[1,2,3]`, `1e999`,
		`{"kind": 4, "addr": "10.0.0.1", "peers": [{"name": "a"}]}`, `{"prefixlen": 8, "addr": "10.0.0.0"}`, `"pre_m1"`, `null`, `true`} {
		f.Add(uint64(i), byte(8+i), s)
		f.Add(uint64(i), byte(i), s)
	}
	f.Fuzz(func(t *testing.T, seed uint64, o byte, text string) {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var v any
		if d.Decode(&v) != nil {
			return
		}
		opts := Options{Network: o&1 != 0, LPM: o&2 != 0}
		if o&4 != 0 {
			opts.Tags = []string{TagV4Mapped}
		}
		typ, _ := randomType(seed)
		if o&8 != 0 {
			typ = vars[compiled[seed%uint64(len(compiled))]].Type
		}
		if b, err := Encode(typ, v, opts); err == nil {
			back, err := Decode(typ, b, opts)
			if err != nil {
				t.Fatalf("Decode(%5v, %x): %v", typ, b, err)
			}
			if m, ok := back.(map[string]any); ok {
				delete(m, "next") // the pointer of record_t
			}
			again, err := Encode(typ, back, opts)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%5v: Encode(%v) = %x, %v, want %x", typ, back, again, err, b)
			}
		}
		size := int(seed % 40)
		if b, err := EncodeBytes(size, v, opts); err == nil {
			again, err := EncodeBytes(size, DecodeBytes(b, opts), opts)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%d bytes: Encode(%v) = %x, %v, want %x", size, DecodeBytes(b, opts), again, err, b)
			}
		}
	})
}
