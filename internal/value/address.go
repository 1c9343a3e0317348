package value

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// addressSize is 4, 6 or 16 for a type that takes an IPv4, MAC or IPv6
// address, else 0.
func addressSize(c context, t btf.Type) int {
	t, c = c.resolve(t)
	size, err := sizeof(t)
	if err != nil || size != 4 && size != 6 && size != 16 {
		return 0
	}
	switch t := t.(type) {
	case *btf.Int:
		if t.Encoding == btf.Bool || size == 6 {
			return 0
		}
	case *btf.Array:
		el, _ := c.resolve(t.Type)
		if i, ok := el.(*btf.Int); !ok || i.Encoding == btf.Bool || isChar(i) {
			return 0
		}
	case *btf.Struct:
		if !(t.Name == "in_addr" && size == 4 || t.Name == "in6_addr" && size == 16) {
			return 0
		}
	default:
		return 0
	}
	return size
}

// isChar tells char, whose arrays are text, from signed and unsigned char.
func isChar(i *btf.Int) bool {
	return i.Size == 1 && (i.Encoding == btf.Char || i.Name == "char")
}

// address writes text that is an IPv4, IPv6 or MAC address to the 4, 6 or 16
// bytes of out.
func (e *encoder) address(c context, s string, out []byte) {
	if len(out) == 6 {
		mac, err := net.ParseMAC(s)
		if err != nil || len(mac) != 6 {
			e.fail(c, "write it as 02:00:00:00:00:01", "%s is not a MAC address", quote(s))
			return
		}
		copy(out, mac)
		return
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		hint := ""
		if p, err := netip.ParsePrefix(s); err == nil {
			hint = fmt.Sprintf("write %s: only keys of LPM maps are prefixes", p.Addr())
		}
		e.fail(c, hint, "%s is not an %s address", quote(s), family(len(out)))
		return
	}
	if a, ok := e.fit(c, a, s, len(out)); ok {
		copy(out, a.AsSlice())
	}
}

func family(size int) string {
	if size == 4 {
		return "IPv4"
	}
	return "IPv6"
}

// fit makes an address have so many bytes, if it may.
func (e *encoder) fit(c context, a netip.Addr, s string, size int) (netip.Addr, bool) {
	switch {
	case a.Zone() != "":
		e.fail(c, "write "+a.WithZone("").String(), "%s has a zone", quote(s))
		return a, false
	case size == 16 && a.Is4() && c.mapped:
		return netip.AddrFrom16(a.As16()), true
	case size == 16 && a.Is4():
		e.fail(c, fmt.Sprintf("write ::ffff:%s if the program keeps IPv4 addresses that way", a),
			"%s is an IPv4 address, an IPv6 address is wanted", quote(s))
		return a, false
	case size == 4 && !a.Is4():
		e.fail(c, "", "%s is an IPv6 address, an IPv4 address is wanted", quote(s))
		return a, false
	}
	return a, true
}

// lpm writes the key of an LPM trie: the prefix length in the machine's byte
// order, then data of which that many bits count
// (Documentation/bpf/map_lpm_trie.rst). t is nil when the type is not known.
func (e *encoder) lpm(c context, t btf.Type, v any, out []byte) {
	const prefixlen = 4
	if len(out) <= prefixlen {
		e.fail(c, "", "%d bytes are no key of an LPM trie", len(out))
		return
	}
	c.trie = true
	size, before := len(out)-prefixlen, len(e.errs)
	s, isText := v.(string)
	switch {
	case isText && !strings.HasPrefix(s, "0x") && (t == nil || addressSize(c, t) == 0):
		data, ok := trieData(c, t, size)
		if !ok {
			e.fail(c, "write a map of its members", "the key of this LPM trie is more than an address: %s does not do", quote(s))
			return
		}
		e.prefix(data, s, out)
	case t != nil && isStruct(t):
		e.value(c, t, v, out)
	default:
		c.network = false
		e.bytes(c, v, out)
	}
	if len(e.errs) > before {
		return
	}
	length, data := binary.NativeEndian.Uint32(out), out[prefixlen:]
	if length > uint32(8*size) {
		e.fail(c, "", "prefix length %d is out of range: 0 to %d", length, 8*size)
		return
	}
	clean := masked(data, int(length))
	if string(clean) == string(data) {
		return
	}
	hint := ""
	if a, ok := netip.AddrFromSlice(clean); ok {
		hint = fmt.Sprintf("the network is %s", network(c, t, a, int(length)))
	}
	e.fail(c, hint, "bits are set after the prefix of %d", length)
}

// trieData tells whether what follows the prefix length is one address, and
// what is known about it.
func trieData(c context, t btf.Type, size int) (context, bool) {
	if size != 4 && size != 16 {
		return c, false
	}
	if t == nil {
		return c, true
	}
	t, c = c.resolve(t)
	s, ok := t.(*btf.Struct)
	if !ok {
		return c, true
	}
	data := -1
	for i := range s.Members {
		m := &s.Members[i]
		if m.Offset < 32 || m.BitfieldSize != 0 {
			continue
		}
		// Flexible arrays (__u8 data[0]) have no size of their own.
		if n, err := sizeof(m.Type); err == nil && n == 0 {
			continue
		}
		if data >= 0 {
			return c, false
		}
		data = i
	}
	if data < 0 {
		return c, true
	}
	m := &s.Members[data]
	in := c.tagged(m.Tags)
	_, in = in.resolve(m.Type)
	if u, ok := underlying(m.Type).(*btf.Union); ok {
		for i := range u.Members {
			in = in.tagged(u.Members[i].Tags)
			_, in = in.resolve(u.Members[i].Type)
		}
		return in, true
	}
	return in, addressSize(in, m.Type) == size
}

func underlying(t btf.Type) btf.Type {
	u, _ := context{}.resolve(t)
	return u
}

func isStruct(t btf.Type) bool {
	_, ok := underlying(t).(*btf.Struct)
	return ok
}

// isPrefix tells a prefix, wherever it is: a struct of a 4-byte integer named
// prefixlen and an address.
func isPrefix(c context, t *btf.Struct) bool {
	if len(t.Members) != 2 || t.Size != 8 && t.Size != 20 {
		return false
	}
	length, addr := &t.Members[0], &t.Members[1]
	i, ok := underlying(length.Type).(*btf.Int)
	return ok && i.Size == 4 && length.Name == "prefixlen" && length.Offset == 0 && length.BitfieldSize == 0 &&
		addr.Offset == 32 && addr.BitfieldSize == 0 && addressSize(c, addr.Type) == int(t.Size)-4
}

// prefix writes "10.0.0.0/8", or an address for itself alone.
func (e *encoder) prefix(c context, s string, out []byte) {
	size := len(out) - 4
	text, length, slash := strings.Cut(s, "/")
	a, err := netip.ParseAddr(text)
	if err != nil {
		e.fail(c, "", "%s is not an %s prefix or address", quote(s), family(size))
		return
	}
	bits := a.BitLen()
	if slash {
		n, err := strconv.ParseUint(length, 10, 16)
		if err != nil || length != strconv.FormatUint(n, 10) || int(n) > bits {
			e.fail(c, "", "%s: prefix length %s is out of range: 0 to %d", quote(s), quote(length), bits)
			return
		}
		bits = int(n)
	}
	if p, err := a.WithZone("").Prefix(bits); err == nil && p.Addr() != a.WithZone("") {
		e.fail(c, fmt.Sprintf("the network is %s", p), "%s has bits set after the prefix", quote(s))
		return
	}
	whole := a.BitLen()
	a, ok := e.fit(c, a, s, size)
	if !ok {
		return
	}
	binary.NativeEndian.PutUint32(out, uint32(bits+a.BitLen()-whole))
	copy(out[4:], a.AsSlice())
}

// network writes a prefix as people do, IPv4 where it is mapped.
func network(c context, t btf.Type, a netip.Addr, length int) string {
	if in, ok := trieData(c, t, a.BitLen()/8); ok && in.mapped && a.Is4In6() && length >= 96 {
		return fmt.Sprintf("%s/%d", a.Unmap(), length-96)
	}
	return fmt.Sprintf("%s/%d", a, length)
}

// masked is data with nothing but its first bits.
func masked(data []byte, bits int) []byte {
	out := make([]byte, len(data))
	n := copy(out, data[:bits/8])
	if bits%8 != 0 {
		out[n] = data[n] &^ (0xff >> (bits % 8))
	}
	return out
}
