package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Info is what the headers of a frame say.
type Info struct {
	Src, Dst  MAC
	Tags      []Tag  // outermost first, at most two
	EtherType uint16 // after the tags
	// What follows is set for IP only.
	From, To netip.Addr
	Protocol uint8 // after the extension headers
	Fragment bool  // a fragment that is not the first: it has no layer 4 header
	Ports    bool  // TCP, UDP, UDP-Lite, SCTP or DCCP, and not such a fragment
	FromPort uint16
	ToPort   uint16
	Payload  []byte // of layer 4 when Ports, else what follows the IP headers
}

// The most extension headers that Parse follows, and the most bytes of them.
const (
	maxExtensions     = 8
	maxExtensionBytes = 512
)

var (
	errShort     = errors.New("truncated")
	errMalformed = errors.New("malformed")
)

// Parse reads the headers of a frame up to the ports. It fails when a header
// does not fit in the frame or in the length its IP header gives, contradicts
// itself, or is one that no host may send: an IPv6 address in the form mapped
// from IPv4, or a TCP fragment at offset 8 (RFC 3128). Info holds what was
// read before. Frames that are not IP have no such mistakes.
func Parse(b []byte) (Info, error) {
	var p Info
	if len(b) < 14 {
		return p, fmt.Errorf("ethernet: %w", errShort)
	}
	copy(p.Dst[:], b)
	copy(p.Src[:], b[6:])
	p.EtherType = binary.BigEndian.Uint16(b[12:])
	b = b[14:]
	for len(p.Tags) < 2 && (p.EtherType == TypeVLAN || p.EtherType == TypeQinQ) {
		if len(b) < 4 {
			return p, fmt.Errorf("vlan tag: %w", errShort)
		}
		tci := binary.BigEndian.Uint16(b)
		p.Tags = append(p.Tags, Tag{Type: p.EtherType, ID: tci & 0xfff, Priority: uint8(tci >> 13)})
		p.EtherType = binary.BigEndian.Uint16(b[2:])
		b = b[4:]
	}
	switch p.EtherType {
	case TypeIPv4:
		if err := p.ip4(b); err != nil {
			return p, fmt.Errorf("ipv4: %w", err)
		}
	case TypeIPv6:
		if err := p.ip6(b); err != nil {
			return p, fmt.Errorf("ipv6: %w", err)
		}
	default:
		p.Payload = b
	}
	return p, nil
}

// IsIP says whether the frame is IPv4 or IPv6.
func (p *Info) IsIP() bool { return p.EtherType == TypeIPv4 || p.EtherType == TypeIPv6 }

func (p *Info) ip4(b []byte) error {
	if len(b) < 20 {
		return errShort
	}
	n, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if b[0]>>4 != 4 || n < 20 || total < n {
		return errMalformed
	}
	if len(b) < n {
		return errShort
	}
	p.From = netip.AddrFrom4([4]byte(b[12:16]))
	p.To = netip.AddrFrom4([4]byte(b[16:20]))
	return p.layer4(b[9], binary.BigEndian.Uint16(b[6:])&0x1fff, b[n:min(total, len(b))])
}

func (p *Info) ip6(b []byte) error {
	if len(b) < 40 {
		return errShort
	}
	if b[0]>>4 != 6 {
		return errMalformed
	}
	p.From = netip.AddrFrom16([16]byte(b[8:24]))
	p.To = netip.AddrFrom16([16]byte(b[24:40]))
	if p.From.Is4In6() || p.To.Is4In6() {
		return errMalformed
	}
	next := b[6]
	b = b[40:min(40+int(binary.BigEndian.Uint16(b[4:])), len(b))]
	left := maxExtensionBytes
	for range maxExtensions {
		var n int
		switch next {
		case HopByHop, Routing, DestOptions, FragmentHdr, Auth:
			if len(b) < 8 {
				return errShort
			}
		default:
			return p.layer4(next, 0, b)
		}
		switch next {
		case FragmentHdr:
			if off := binary.BigEndian.Uint16(b[2:]) >> 3; off != 0 {
				return p.layer4(b[0], off, b[8:])
			}
			n = 8
		case Auth:
			n = (int(b[1]) + 2) * 4
		default:
			n = (int(b[1]) + 1) * 8
		}
		if len(b) < n {
			return errShort
		}
		if left -= n; left < 0 {
			return fmt.Errorf("more than %d bytes of extension headers: %w", maxExtensionBytes, errMalformed)
		}
		next, b = b[0], b[n:]
	}
	switch next {
	case HopByHop, Routing, DestOptions, FragmentHdr, Auth:
		return fmt.Errorf("more than %d extension headers: %w", maxExtensions, errMalformed)
	}
	return p.layer4(next, 0, b)
}

// layer4 reads the ports; offset is that of the fragment, in 8 bytes.
func (p *Info) layer4(protocol uint8, offset uint16, b []byte) error {
	p.Protocol, p.Payload = protocol, b
	if offset != 0 {
		p.Fragment = true
		if offset == 1 && protocol == ProtoTCP {
			return errMalformed
		}
		return nil
	}
	n := 0
	switch protocol {
	case ProtoTCP:
		n = 20
	case ProtoUDP, ProtoUDPL:
		n = 8
	case ProtoSCTP, ProtoDCCP:
		n = 12
	default:
		return nil
	}
	if len(b) < n {
		return errShort
	}
	p.Ports = true
	p.FromPort = binary.BigEndian.Uint16(b)
	p.ToPort = binary.BigEndian.Uint16(b[2:])
	p.Payload = b[n:]
	return nil
}

var protocolNames = map[uint8]string{
	ProtoICMP: "icmp", ProtoTCP: "tcp", ProtoUDP: "udp", ProtoGRE: "gre", ProtoESP: "esp",
	ProtoICMPv6: "icmpv6", ProtoDCCP: "dccp", ProtoSCTP: "sctp", ProtoUDPL: "udplite",
}

// Describe says in one line what a frame is:
// "vlan 100, 10.0.0.1:4000 > 10.0.0.2:53 udp, 60 bytes".
func Describe(b []byte) string {
	p, err := Parse(b)
	var s strings.Builder
	for _, t := range p.Tags {
		fmt.Fprintf(&s, "vlan %d, ", t.ID)
	}
	switch {
	case p.Ports:
		fmt.Fprintf(&s, "%s > %s ", netip.AddrPortFrom(p.From, p.FromPort), netip.AddrPortFrom(p.To, p.ToPort))
	case p.From.IsValid():
		fmt.Fprintf(&s, "%s > %s ", p.From, p.To)
	case p.EtherType == TypeARP:
		s.WriteString("arp")
	default:
		fmt.Fprintf(&s, "type 0x%04x", p.EtherType)
	}
	if p.From.IsValid() {
		if name := protocolNames[p.Protocol]; name != "" {
			s.WriteString(name)
		} else {
			fmt.Fprintf(&s, "protocol %d", p.Protocol)
		}
	}
	if p.Fragment {
		s.WriteString(" fragment")
	}
	fmt.Fprintf(&s, ", %d bytes", len(b))
	if err != nil {
		fmt.Fprintf(&s, ", %v", err)
	}
	return s.String()
}
