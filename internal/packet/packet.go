// Package packet builds and describes Ethernet frames for tests, the demo and
// the benchmark: VLAN tags, IPv4 and IPv6 with options, extension headers and
// fragments, UDP, TCP, ICMP and SCTP. Lengths and checksums are right, so that
// a real network stack accepts the frames.
package packet

import (
	"encoding/binary"
	"net/netip"
)

// EtherTypes (linux/if_ether.h).
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100 // 802.1Q
	TypeIPv6 = 0x86dd
	TypeQinQ = 0x88a8 // 802.1ad, the outer tag
)

// IP protocols and IPv6 extension headers (IANA protocol numbers).
const (
	HopByHop    = 0
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	Routing     = 43
	FragmentHdr = 44
	ProtoGRE    = 47
	ProtoESP    = 50
	Auth        = 51
	ProtoICMPv6 = 58
	NoNext      = 59
	DestOptions = 60
	ProtoDCCP   = 33
	ProtoSCTP   = 132
	ProtoUDPL   = 136
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// MAC is an Ethernet address.
type MAC [6]byte

// The addresses of a frame that names none: locally administered.
var (
	DefaultSrc = MAC{0x02, 0, 0, 0, 0, 1}
	DefaultDst = MAC{0x02, 0, 0, 0, 0, 2}
)

// Tag is a VLAN tag.
type Tag struct {
	Type     uint16 // TypeVLAN or TypeQinQ
	ID       uint16 // 1 to 4094
	Priority uint8  // 0 to 7
}

type frame struct {
	src, dst MAC
	tags     []Tag
	options  []byte // IPv4
	ext      []Extension
	frag     bool
	fragID   uint32
	offset   uint16
	more     bool
}

// hops is the time to live, or hop limit, of every frame.
const hops = 64

// Option changes how a frame is built.
type Option func(*frame)

// VLAN tags the frame, the outermost id first: the last tag is 802.1Q, those
// before it 802.1ad.
func VLAN(ids ...uint16) Option {
	return func(f *frame) {
		for i, id := range ids {
			t := Tag{Type: TypeQinQ, ID: id}
			if i == len(ids)-1 {
				t.Type = TypeVLAN
			}
			f.tags = append(f.tags, t)
		}
	}
}

// Tags tags the frame, the outermost tag first.
func Tags(tags ...Tag) Option { return func(f *frame) { f.tags = append(f.tags, tags...) } }

// IPOptions puts options in the IPv4 header, at most 40 bytes, padded to
// four.
func IPOptions(b []byte) Option {
	return func(f *frame) {
		f.options = append([]byte(nil), b[:min(len(b), 40)]...)
		for len(f.options)%4 != 0 {
			f.options = append(f.options, 0)
		}
	}
}

// Extension is an IPv6 extension header. Data is what follows its first two
// bytes, padded with zeros to the header's unit.
type Extension struct {
	Type uint8
	Data []byte
}

// Extensions puts extension headers after the IPv6 header, in order.
func Extensions(ext ...Extension) Option {
	return func(f *frame) { f.ext = append(f.ext, ext...) }
}

// Fragment makes the packet one of a fragmented datagram. Offset is in bytes,
// a multiple of 8. In IPv6 the fragment header comes after the [Extensions].
// The layer 4 bytes are written as they would be without fragmentation:
// [IP] writes other fragments.
func Fragment(id uint32, offset uint16, more bool) Option {
	return func(f *frame) { f.frag, f.fragID, f.offset, f.more = true, id, offset&^7, more }
}

// Ethernet builds a frame of any type.
func Ethernet(etherType uint16, payload []byte, opts ...Option) []byte {
	return newFrame(opts).ethernet(etherType, payload)
}

// IP builds a packet of any protocol: IPv4 when both addresses are, else IPv6
// with an IPv4 address in its mapped form.
func IP(protocol uint8, src, dst netip.Addr, payload []byte, opts ...Option) []byte {
	return newFrame(opts).ip(protocol, src, dst, payload)
}

// UDP builds a UDP packet.
func UDP(src, dst netip.AddrPort, payload []byte, opts ...Option) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b[0:], src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	sum := checksum(b, pseudo(ProtoUDP, src.Addr(), dst.Addr(), len(b)))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return IP(ProtoUDP, src.Addr(), dst.Addr(), b, opts...)
}

// TCP builds a TCP segment without options.
func TCP(src, dst netip.AddrPort, flags uint8, payload []byte, opts ...Option) []byte {
	b := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(b[0:], src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], checksum(b, pseudo(ProtoTCP, src.Addr(), dst.Addr(), len(b))))
	return IP(ProtoTCP, src.Addr(), dst.Addr(), b, opts...)
}

// Echo builds an ICMP or ICMPv6 echo request.
func Echo(src, dst netip.Addr, id, seq uint16, payload []byte, opts ...Option) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	b = append(b, payload...)
	proto, sum := uint8(ProtoICMP), uint32(0)
	b[0] = 8
	if !v4(src, dst) {
		b[0], proto = 128, ProtoICMPv6
		sum = pseudo(ProtoICMPv6, src, dst, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], checksum(b, sum))
	return IP(proto, src, dst, b, opts...)
}

// SCTP builds an SCTP packet; chunks are taken as they are and the CRC is left
// zero.
func SCTP(src, dst netip.AddrPort, chunks []byte, opts ...Option) []byte {
	b := make([]byte, 12, 12+len(chunks))
	binary.BigEndian.PutUint16(b[0:], src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	return IP(ProtoSCTP, src.Addr(), dst.Addr(), append(b, chunks...), opts...)
}

// ARP builds a broadcast request for an IPv4 address.
func ARP(src, target netip.Addr, opts ...Option) []byte {
	f := newFrame(opts)
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(b, f.src[:]...)
	b = append(b, last4(src)...)
	b = append(b, make([]byte, 6)...)
	b = append(b, last4(target)...)
	f.dst = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return f.ethernet(TypeARP, b)
}

func newFrame(opts []Option) *frame {
	f := &frame{src: DefaultSrc, dst: DefaultDst}
	for _, o := range opts {
		o(f)
	}
	return f
}

func (f *frame) ethernet(etherType uint16, payload []byte) []byte {
	b := make([]byte, 0, 14+4*len(f.tags)+len(payload))
	b = append(b, f.dst[:]...)
	b = append(b, f.src[:]...)
	for _, t := range f.tags {
		b = binary.BigEndian.AppendUint16(b, t.Type)
		b = binary.BigEndian.AppendUint16(b, uint16(t.Priority)<<13|t.ID&0xfff)
	}
	b = binary.BigEndian.AppendUint16(b, etherType)
	return append(b, payload...)
}

func (f *frame) ip(protocol uint8, src, dst netip.Addr, payload []byte) []byte {
	if v4(src, dst) {
		return f.ip4(protocol, src, dst, payload)
	}
	return f.ip6(protocol, src, dst, payload)
}

func (f *frame) ip4(protocol uint8, src, dst netip.Addr, payload []byte) []byte {
	n := 20 + len(f.options)
	b := make([]byte, 20, n+len(payload))
	b[0] = byte(4<<4 | n/4)
	binary.BigEndian.PutUint16(b[2:], uint16(n+len(payload)))
	if f.frag {
		binary.BigEndian.PutUint16(b[4:], uint16(f.fragID))
		off := f.offset / 8
		if f.more {
			off |= 0x2000
		}
		binary.BigEndian.PutUint16(b[6:], off)
	}
	b[8], b[9] = hops, protocol
	copy(b[12:], last4(src))
	copy(b[16:], last4(dst))
	b = append(b, f.options...)
	binary.BigEndian.PutUint16(b[10:], checksum(b, 0))
	return f.ethernet(TypeIPv4, append(b, payload...))
}

func (f *frame) ip6(protocol uint8, src, dst netip.Addr, payload []byte) []byte {
	ext := f.ext
	if f.frag {
		data := make([]byte, 6)
		off := f.offset
		if f.more {
			off |= 1
		}
		binary.BigEndian.PutUint16(data, off)
		binary.BigEndian.PutUint32(data[2:], f.fragID)
		ext = append(ext[:len(ext):len(ext)], Extension{FragmentHdr, data})
	}
	var headers []byte
	for i, e := range ext {
		next := protocol
		if i+1 < len(ext) {
			next = ext[i+1].Type
		}
		headers = append(headers, e.bytes(next)...)
	}
	b := make([]byte, 40, 40+len(headers)+len(payload))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(headers)+len(payload)))
	b[6], b[7] = protocol, hops
	if len(ext) > 0 {
		b[6] = ext[0].Type
	}
	s, d := src.As16(), dst.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	b = append(b, headers...)
	return f.ethernet(TypeIPv6, append(b, payload...))
}

func (e Extension) bytes(next uint8) []byte {
	b := append([]byte{next, 0}, e.Data...)
	for len(b) < 8 || len(b)%8 != 0 {
		b = append(b, 0)
	}
	switch e.Type {
	case FragmentHdr: // the second byte is reserved
	case Auth: // in 4 bytes, less two (RFC 4302)
		b[1] = byte(len(b)/4 - 2)
	default: // in 8 bytes, less one (RFC 8200)
		b[1] = byte(len(b)/8 - 1)
	}
	return b
}

func v4(src, dst netip.Addr) bool { return src.Is4() && dst.Is4() }

func last4(a netip.Addr) []byte {
	b := a.As16()
	return b[12:]
}

// pseudo sums the pseudo header of layer 4 checksums.
func pseudo(protocol uint8, src, dst netip.Addr, n int) uint32 {
	s, d := src.As16(), dst.As16()
	a, b := s[:], d[:]
	if v4(src, dst) {
		a, b = s[12:], d[12:]
	}
	return sum(a) + sum(b) + uint32(protocol) + uint32(n)
}

func sum(b []byte) uint32 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	return s
}

// checksum is the Internet checksum (RFC 1071) of b and what was summed
// before.
func checksum(b []byte, before uint32) uint16 {
	s := before + sum(b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
