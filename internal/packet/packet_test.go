package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"
)

var (
	a4 = netip.MustParseAddrPort("10.0.0.1:4000")
	b4 = netip.MustParseAddrPort("10.0.0.2:53")
	a6 = netip.MustParseAddrPort("[fd00::1]:4000")
	b6 = netip.MustParseAddrPort("[fd00::2]:53")
)

// Bytes checked by hand against RFC 791, 768 and 1071.
func TestUDPBytes(t *testing.T) {
	got := hex.EncodeToString(UDP(a4, b4, []byte("hi"), VLAN(5)))
	want := "020000000002" + "020000000001" + "81000005" + "0800" +
		"4500001e" + "00000000" + "401166cd" + "0a000001" + "0a000002" +
		"0fa00035" + "000a7399" + "6869"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestDescribe(t *testing.T) {
	hop := Extension{Type: HopByHop}
	for _, test := range []struct {
		b    []byte
		want string
	}{
		{UDP(a4, b4, nil), "10.0.0.1:4000 > 10.0.0.2:53 udp, 42 bytes"},
		{UDP(a4, b4, nil, VLAN(7, 8)), "vlan 7, vlan 8, 10.0.0.1:4000 > 10.0.0.2:53 udp, 50 bytes"},
		{UDP(a4, b4, nil, VLAN(7, 8, 9)), "vlan 7, vlan 8, type 0x8100, 54 bytes"},
		{UDP(a4, b4, nil, IPOptions([]byte{1, 1, 1})), "10.0.0.1:4000 > 10.0.0.2:53 udp, 46 bytes"},
		{TCP(a6, b6, SYN, nil), "[fd00::1]:4000 > [fd00::2]:53 tcp, 74 bytes"},
		{TCP(a6, b6, SYN, nil, Extensions(hop, Extension{Auth, make([]byte, 14)})), "[fd00::1]:4000 > [fd00::2]:53 tcp, 98 bytes"},
		{TCP(a6, b6, SYN, nil, Extensions(hop, hop, hop, hop, hop, hop, hop, hop)), "[fd00::1]:4000 > [fd00::2]:53 tcp, 138 bytes"},
		{TCP(a6, b6, SYN, nil, Extensions(hop, hop, hop, hop, hop, hop, hop, hop, hop)), "fd00::1 > fd00::2 protocol 0, 146 bytes, ipv6: more than 8 extension headers: malformed"},
		{UDP(a4, b4, nil, Fragment(1, 0, true)), "10.0.0.1:4000 > 10.0.0.2:53 udp, 42 bytes"},
		{UDP(a4, b4, nil, Fragment(1, 8, false)), "10.0.0.1 > 10.0.0.2 udp fragment, 42 bytes"},
		{UDP(a6, b6, nil, Fragment(1, 8, false)), "fd00::1 > fd00::2 udp fragment, 70 bytes"},
		{TCP(a6, b6, 0, nil, Fragment(1, 8, false)), "fd00::1 > fd00::2 tcp fragment, 82 bytes, ipv6: malformed"},
		{Echo(a4.Addr(), b4.Addr(), 1, 1, nil), "10.0.0.1 > 10.0.0.2 icmp, 42 bytes"},
		{Echo(a6.Addr(), b6.Addr(), 1, 1, nil), "fd00::1 > fd00::2 icmpv6, 62 bytes"},
		{SCTP(a4, b4, nil), "10.0.0.1:4000 > 10.0.0.2:53 sctp, 46 bytes"},
		{ARP(a4.Addr(), b4.Addr()), "arp, 42 bytes"},
		{UDP(a4, b6, nil), "::ffff:10.0.0.1 > fd00::2 protocol 0, 62 bytes, ipv6: malformed"},
		{UDP(a4, b4, nil)[:20], "type 0x0800, 20 bytes, ipv4: truncated"},
	} {
		if got := Describe(test.b); got != test.want {
			t.Errorf("%x:\n got %s\nwant %s", test.b, got, test.want)
		}
	}
}

// Summing a packet with its checksum in place gives zero.
func TestChecksums(t *testing.T) {
	payload := []byte("odd")
	for _, b := range [][]byte{
		UDP(a4, b4, payload), TCP(a4, b4, SYN|ACK, payload), Echo(a4.Addr(), b4.Addr(), 9, 9, payload, IPOptions([]byte{1})),
		UDP(a6, b6, payload), TCP(a6, b6, SYN, payload), Echo(a6.Addr(), b6.Addr(), 9, 9, payload),
	} {
		p, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		ip, n := b[14:], 40
		if p.From.Is4() {
			n = int(ip[0]&15) * 4
			if checksum(ip[:n], 0) != 0 {
				t.Errorf("%s: IPv4 header checksum", Describe(b))
			}
		}
		before := uint32(0)
		if p.Protocol != ProtoICMP {
			before = pseudo(p.Protocol, p.From, p.To, len(ip)-n)
		}
		if checksum(ip[n:], before) != 0 {
			t.Errorf("%s: layer 4 checksum", Describe(b))
		}
		if p.Ports && !bytes.Equal(p.Payload, payload) {
			t.Errorf("%s: payload %q", Describe(b), p.Payload)
		}
	}
}

// Whatever the bytes, what Parse says fits in them.
func FuzzParse(f *testing.F) {
	f.Add(UDP(a4, b4, []byte("x"), VLAN(1, 2), IPOptions([]byte{1})))
	f.Add(TCP(a6, b6, 0, nil, Extensions(Extension{Type: HopByHop}), Fragment(1, 0, true)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		headers := 14 + 4*len(p.Tags)
		if p.IsIP() {
			if !p.From.IsValid() || !p.To.IsValid() {
				t.Errorf("IP without addresses: %x", b)
			}
			headers += 20
		}
		if p.Ports {
			headers += 8
		}
		if headers+len(p.Payload) > len(b) {
			t.Errorf("%d bytes of headers and %d of payload in %d bytes", headers, len(p.Payload), len(b))
		}
	})
}

func TestParseTruncated(t *testing.T) {
	for _, b := range [][]byte{
		UDP(a4, b4, nil, VLAN(1, 2), IPOptions([]byte{1})),
		TCP(a6, b6, 0, nil, Extensions(Extension{Type: HopByHop}, Extension{Type: DestOptions, Data: make([]byte, 20)})),
		SCTP(a6, b6, nil, Fragment(1, 0, true)),
	} {
		for n := range len(b) {
			if _, err := Parse(b[:n]); err == nil {
				t.Errorf("%s cut to %d bytes: no error", Describe(b), n)
			}
		}
		if _, err := Parse(b); err != nil {
			t.Error(err)
		}
		short := bytes.Clone(b) // a length field that leaves no room for layer 4
		p, _ := Parse(b)
		ip := short[14+4*len(p.Tags):]
		if p.From.Is4() {
			binary.BigEndian.PutUint16(ip[2:], 20)
		} else {
			binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-41))
		}
		if _, err := Parse(short); err == nil {
			t.Errorf("%s with a short length: no error", Describe(b))
		}
	}
}
