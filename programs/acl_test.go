package programs

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"l3af/internal/packet"
)

// aclUnder is the acl with all its variants, which must agree.
type aclUnder struct {
	*ebpf.Collection
	t testing.TB
}

func loadACL(t testing.TB, a *access) aclUnder {
	var rules [64]rule
	copy(rules[:], a.Rules)
	c := aclUnder{load(t, "acl", map[string]any{
		"default_verdict": a.Default, "non_ip_verdict": a.NonIP, "malformed_verdict": a.Malformed, "rules": rules,
	}), t}
	for name, list := range a.Lists {
		for p, weight := range list {
			put(t, c.Maps[name], mapped(p), weight)
		}
	}
	return c
}

func (c aclUnder) judge(frame []byte) uint32 {
	c.t.Helper()
	verdict := uint32(run(c.t, c.Programs["acl"], frame))
	want := int32(tcShot)
	if verdict == pass {
		want = tcUnspec
	} else if verdict != drop {
		c.t.Fatalf("%s: XDP code %d", packet.Describe(frame), verdict)
	}
	if !runsOnTC(frame) {
		return verdict
	}
	for _, n := range []string{"acl_ingress", "acl_egress"} {
		if got := run(c.t, c.Programs[n], frame); got != want {
			c.t.Errorf("%s: %s gives %d, XDP %d", packet.Describe(frame), n, got, verdict)
		}
	}
	return verdict
}

var (
	any6 = pfx("::/0")
	any4 = pfx("0.0.0.0/0")
)

func TestACL(t *testing.T) {
	const tcp, udp, icmp6, sctp = packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMPv6, packet.ProtoSCTP
	type list = map[netip.Prefix]uint32
	a4, b4, a6, b6 := ap("10.1.2.3:4000"), ap("192.0.2.1:22"), ap("[fd00::3]:4000"), ap("[fd00:1::1]:22")
	hop := packet.Extension{Type: packet.HopByHop}
	first, later := packet.Fragment(7, 0, true), packet.Fragment(7, 16, false)
	ssh := rule{Action: drop, Protocol: tcp, DstPort: [2]uint16{22}}
	web := rule{Action: pass, Protocol: tcp, DstPort: [2]uint16{80, 90}}
	to := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(b4.Addr(), port) }
	type row struct {
		frame []byte
		want  uint32
	}
	for _, test := range []struct {
		name string
		access
		rows []row
	}{
		{"defaults", access{pass, pass, drop, nil, nil}, []row{
			{packet.UDP(a4, b4, nil), pass},
			{packet.UDP(a6, b6, nil), pass},
			{packet.ARP(a4.Addr(), b4.Addr()), pass},
			{packet.Ethernet(0x88cc, make([]byte, 40)), pass},
			{packet.UDP(a4, b4, nil)[:41], drop},
			{packet.UDP(a4, b4, nil, packet.VLAN(1, 2, 3)), pass}, // a third tag is no IP
			{packet.UDP(a4, a6, nil), drop},                       // IPv6 from ::ffff:10.1.2.3
		}},
		{"default drop", access{drop, drop, pass, nil, nil}, []row{
			{packet.UDP(a4, b4, nil), drop},
			{packet.ARP(a4.Addr(), b4.Addr()), drop},
			{packet.UDP(a4, b4, nil)[:41], pass},
		}},
		{"the document's example", access{pass, pass, drop, nil, map[string]list{"deny": {pfx("203.0.113.0/24"): 1}}}, []row{
			{packet.UDP(ap("203.0.113.7:1"), b4, nil), drop},
			{packet.UDP(ap("203.0.113.7:1"), b4, nil, packet.VLAN(5, 6)), drop},
			{packet.UDP(ap("203.0.114.7:1"), b4, nil), pass},
			{packet.UDP(a4, ap("203.0.113.7:1"), nil), pass}, // a destination
		}},
		{"lists", access{drop, pass, drop, nil, map[string]list{
			"allow":     {pfx("10.0.0.0/8"): 1, pfx("fd00::/16"): 1, pfx("10.1.3.0/24"): 0, pfx("10.1.4.0/24"): 3},
			"allow_dst": {pfx("198.51.100.0/24"): 1},
			"deny":      {pfx("10.1.2.0/24"): 1},
			"deny_dst":  {pfx("192.0.2.9/32"): 2},
		}}, []row{
			{packet.UDP(ap("10.9.9.9:1"), b4, nil), pass},
			{packet.UDP(a4, b4, nil), drop},                              // deny wins among equals
			{packet.UDP(ap("10.1.3.1:1"), b4, nil), drop},                // the most specific entry is off
			{packet.UDP(ap("10.1.4.1:1"), ap("192.0.2.9:1"), nil), pass}, // 3 against 2
			{packet.UDP(ap("10.9.9.9:1"), ap("192.0.2.9:1"), nil), drop},
			{packet.UDP(ap("1.2.3.4:1"), ap("198.51.100.1:1"), nil), pass},
			{packet.UDP(ap("1.2.3.4:1"), b4, nil), drop},
			{packet.UDP(a6, b6, nil), pass},
			{packet.UDP(ap("[fe80::1]:1"), b6, nil), drop},
		}},
		{"everything of one family", access{pass, pass, drop, nil, map[string]list{"deny": {any4: 1}}}, []row{
			{packet.UDP(a4, b4, nil), drop}, {packet.UDP(a6, b6, nil), pass},
		}},
		{"everything", access{pass, pass, drop, nil, map[string]list{"deny": {any6: 1}}}, []row{
			{packet.UDP(a4, b4, nil), drop}, {packet.UDP(a6, b6, nil), drop},
		}},
		{"rules", access{pass, pass, drop, []rule{
			{Action: pass, Protocol: tcp, Src: mapped(pfx("10.1.0.0/16")), DstPort: [2]uint16{22}},
			ssh,
			{Action: drop, Protocol: udp, SrcPort: [2]uint16{1000, 2000}},
			{Action: drop, VLAN: 100, Dst: mapped(pfx("fd00:1::/32"))},
			{Action: drop, DstPort: [2]uint16{7}},
			{Action: drop, SrcPort: [2]uint16{0, 9}, Protocol: sctp},
		}, map[string]list{"allow": {any6: 9}}}, []row{
			{packet.TCP(a4, b4, packet.SYN, nil), pass},
			{packet.TCP(ap("10.2.0.1:9"), b4, packet.SYN, nil), drop},
			{packet.TCP(a6, b6, packet.SYN, nil), drop},
			{packet.TCP(a6, b6, packet.SYN, nil, packet.Extensions(hop, hop)), drop},
			{packet.UDP(a6, b6, nil), pass},
			{packet.UDP(ap("10.1.2.3:999"), b4, nil), pass},
			{packet.UDP(ap("10.1.2.3:1000"), b4, nil), drop},
			{packet.UDP(ap("10.1.2.3:2000"), b4, nil), drop},
			{packet.UDP(ap("10.1.2.3:2001"), b4, nil), pass},
			{packet.UDP(a6, b6, nil, packet.VLAN(100)), drop},
			{packet.UDP(a6, b6, nil, packet.VLAN(100, 5)), drop},
			{packet.UDP(a6, b6, nil, packet.VLAN(5, 100)), pass}, // the outermost tag counts
			{packet.UDP(a4, to(7), nil), drop},
			{packet.SCTP(a4, to(7), nil), drop},
			{packet.SCTP(ap("10.1.2.3:0"), b4, nil), drop},
			{packet.SCTP(ap("10.1.2.3:10"), b4, nil), pass},
			{packet.IP(packet.ProtoGRE, a4.Addr(), b4.Addr(), make([]byte, 20)), pass}, // has no ports
		}},
		{"fragments of what is dropped", access{pass, pass, drop, []rule{ssh}, nil}, []row{
			{packet.TCP(ap("10.2.0.1:9"), b4, 0, nil, first), drop},
			{packet.TCP(ap("10.2.0.1:9"), b4, 0, nil, later), pass},
			{packet.TCP(a6, b6, 0, nil, first), drop},
			{packet.TCP(a6, b6, 0, nil, later), pass},
			{packet.TCP(a6, b6, 0, nil, packet.Fragment(7, 8, true)), drop}, // malformed
		}},
		{"fragments of what passes", access{drop, pass, drop, []rule{web}, nil}, []row{
			{packet.TCP(a4, to(80), 0, nil, first), pass},
			{packet.TCP(a4, to(91), 0, nil, first), drop},
			{packet.TCP(a4, to(91), 0, nil, later), pass},
			{packet.UDP(a4, to(80), nil, later), drop},
			{packet.TCP(a6, b6, 0, nil, packet.Extensions(hop), later), pass},
		}},
		{"IPv6 neighbours", access{drop, pass, drop, []rule{{Action: pass, Protocol: icmp6, Src: mapped(pfx("fd00::/16"))}}, nil}, []row{
			{packet.Echo(a6.Addr(), b6.Addr(), 1, 1, nil), pass},
			{packet.Echo(a4.Addr(), b4.Addr(), 1, 1, nil), drop},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := loadACL(t, &test.access)
			for _, r := range test.rows {
				if got := c.judge(r.frame); got != r.want {
					t.Errorf("%s: got %d, want %d", packet.Describe(r.frame), got, r.want)
				}
				if got := test.access.judge(r.frame); got != r.want {
					t.Errorf("%s: the model says %d, want %d", packet.Describe(r.frame), got, r.want)
				}
			}
		})
	}
}

// A frame cut at any byte, or with a byte that contradicts the others, is
// malformed exactly when the model says so.
func TestACLMalformed(t *testing.T) {
	a := &access{Default: pass, NonIP: pass, Malformed: drop}
	c := loadACL(t, a)
	hop := packet.Extension{Type: packet.HopByHop}
	auth := packet.Extension{Type: packet.Auth, Data: make([]byte, 10)}
	long := packet.Extension{Type: packet.DestOptions, Data: make([]byte, 254)}
	a4, b4, a6, b6 := ap("10.1.2.3:4000"), ap("192.0.2.1:22"), ap("[fd00::3]:4000"), ap("[fd00:1::1]:22")
	dropped := 0
	for _, frame := range [][]byte{
		packet.TCP(a4, b4, 0, nil),
		packet.UDP(a4, b4, nil, packet.VLAN(1, 2), packet.IPOptions(make([]byte, 40))),
		packet.SCTP(a4, b4, nil, packet.Fragment(1, 0, true)),
		packet.TCP(a6, b6, 0, nil, packet.VLAN(3)),
		packet.UDP(a6, b6, nil, packet.Extensions(hop, auth, hop), packet.Fragment(1, 0, false)),
		packet.UDP(a6, b6, nil, packet.Extensions(hop, hop, hop, hop, hop, hop, hop, hop)),
		packet.UDP(a6, b6, nil, packet.Extensions(hop, hop, hop, hop, hop, hop, hop, hop, hop)),
		packet.UDP(a6, b6, nil, packet.Extensions(long, long)),
		packet.UDP(a6, b6, nil, packet.Extensions(long, long, hop)),
		packet.UDP(a6, b6, nil, packet.Extensions(hop), packet.Fragment(1, 8, false)),
		packet.ARP(a4.Addr(), b4.Addr()),
	} {
		check := func(frame []byte, how string) {
			t.Helper()
			want := a.judge(frame)
			if want == drop {
				dropped++
			}
			if got := c.judge(frame); got != want {
				t.Errorf("%s, %s: got %d, want %d", packet.Describe(frame), how, got, want)
			}
		}
		for n := 15; n <= len(frame); n++ {
			check(frame[:n], fmt.Sprintf("cut to %d", n))
		}
		// Every value of every byte of the fields that decide lengths.
		for at := 12; at < min(len(frame), 72); at++ {
			b := append([]byte(nil), frame...)
			for _, v := range []byte{0, 1, 4, 0x40, 0x44, 0x45, 0x46, 0x4f, 0x55, 0x60, 6, 17, 44, 51, 60, 0x81, 0xff} {
				b[at] = v
				check(b, fmt.Sprintf("byte %d is %#x", at, v))
			}
		}
	}
	if dropped < 500 {
		t.Errorf("only %d malformed frames", dropped)
	}
}

// Random rules, lists and packets: the programs do what the model does.
func TestACLEqualsModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	seen := map[uint32]int{}
	for range 40 {
		a := randomAccess(rng)
		c := loadACL(t, a)
		for range 150 {
			frame := randomFrame(rng)
			want := a.judge(frame)
			seen[want]++
			if got := c.judge(frame); got != want {
				t.Fatalf("%s: got %d, want %d of %+v\n%x", packet.Describe(frame), got, want, a, frame)
			}
		}
		c.Close()
	}
	if seen[pass] < 500 || seen[drop] < 500 {
		t.Errorf("the packets test little: %v", seen)
	}
}

// Few addresses, so that prefixes meet them.
func randomAddr(rng *rand.Rand, v4 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[8:], rng.Uint64()&0x8181_0000_0000_8103)
	if v4 {
		return netip.AddrFrom4([4]byte{10 + b[8]&1, b[9], b[14], b[15]})
	}
	b[0], b[1] = 0xfd, byte(rng.IntN(2))
	return netip.AddrFrom16(b)
}

func randomPrefix(rng *rand.Rand) netip.Prefix {
	a := randomAddr(rng, rng.IntN(2) == 0)
	n := rng.IntN(a.BitLen() + 1)
	if rng.IntN(3) == 0 {
		n = a.BitLen()
	}
	p, _ := a.Prefix(n)
	return p
}

var protocols = []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP, packet.ProtoICMP, packet.ProtoICMPv6, packet.ProtoGRE, packet.ProtoUDPL, packet.ProtoDCCP, packet.NoNext}

func randomPort(rng *rand.Rand) uint16 { return uint16(rng.IntN(6)) }

func randomAccess(rng *rand.Rand) *access {
	verdict := func() uint32 { return drop + uint32(rng.IntN(2)) }
	a := &access{Default: verdict(), NonIP: verdict(), Malformed: verdict(), Lists: map[string]map[netip.Prefix]uint32{}}
	for _, n := range []string{"allow", "allow_dst", "deny", "deny_dst"} {
		a.Lists[n] = map[netip.Prefix]uint32{}
		for range rng.IntN(6) {
			p := randomPrefix(rng)
			if n == "deny" && p.Bits() == 0 {
				continue
			}
			a.Lists[n][p] = uint32(rng.IntN(4))
		}
	}
	count := rng.IntN(5)
	if rng.IntN(10) == 0 {
		count = 64
	}
	for range count {
		r := rule{Action: verdict()}
		if rng.IntN(2) == 0 {
			r.Protocol = uint32(protocols[rng.IntN(len(protocols))])
		}
		if rng.IntN(2) == 0 {
			r.Src = mapped(randomPrefix(rng))
		}
		if rng.IntN(2) == 0 {
			r.Dst = mapped(randomPrefix(rng))
		}
		if rng.IntN(3) == 0 {
			r.SrcPort = [2]uint16{randomPort(rng), randomPort(rng)}
		}
		if rng.IntN(2) == 0 {
			r.DstPort = [2]uint16{randomPort(rng), randomPort(rng)}
		}
		if rng.IntN(4) == 0 {
			r.VLAN = uint16(1 + rng.IntN(3))
		}
		a.Rules = append(a.Rules, r)
	}
	return a
}

func randomFrame(rng *rand.Rand) []byte {
	v4 := rng.IntN(2) == 0
	src := netip.AddrPortFrom(randomAddr(rng, v4), randomPort(rng))
	dst := netip.AddrPortFrom(randomAddr(rng, v4), randomPort(rng))
	var opts []packet.Option
	for range rng.IntN(4) {
		if rng.IntN(2) == 0 {
			tag := packet.Tag{Type: packet.TypeVLAN, ID: uint16(rng.IntN(4)), Priority: uint8(rng.IntN(8))}
			if rng.IntN(2) == 0 {
				tag.Type = packet.TypeQinQ
			}
			opts = append(opts, packet.Tags(tag))
		}
	}
	if rng.IntN(4) == 0 {
		opts = append(opts, packet.IPOptions(make([]byte, rng.IntN(41))))
	}
	if rng.IntN(3) == 0 {
		opts = append(opts, packet.Fragment(rng.Uint32(), uint16(rng.IntN(4)*8), rng.IntN(2) == 0))
	}
	for range rng.IntN(4) {
		types := []uint8{packet.HopByHop, packet.Routing, packet.DestOptions, packet.Auth}
		opts = append(opts, packet.Extensions(packet.Extension{Type: types[rng.IntN(4)], Data: make([]byte, rng.IntN(30))}))
	}
	payload := make([]byte, 20+rng.IntN(8))
	var frame []byte
	switch proto := protocols[rng.IntN(len(protocols))]; proto {
	case packet.ProtoTCP:
		frame = packet.TCP(src, dst, packet.SYN, payload, opts...)
	case packet.ProtoUDP:
		frame = packet.UDP(src, dst, payload, opts...)
	case packet.ProtoSCTP:
		frame = packet.SCTP(src, dst, payload, opts...)
	default:
		frame = packet.IP(proto, src.Addr(), dst.Addr(), payload, opts...)
	}
	if rng.IntN(12) == 0 {
		frame = packet.ARP(randomAddr(rng, true), randomAddr(rng, true))
	}
	for rng.IntN(4) == 0 {
		frame[12+rng.IntN(min(80, len(frame))-12)] ^= 1 << rng.IntN(8)
	}
	if rng.IntN(8) == 0 {
		frame = frame[:15+rng.IntN(len(frame)-14)]
	}
	return frame
}
