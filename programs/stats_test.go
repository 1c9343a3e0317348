package programs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l3af/internal/packet"
	"l3af/internal/testenv"
)

// trafficKey is struct traffic_key.
type trafficKey struct{ Direction, Network, Protocol uint32 }

type traffic struct{ Packets, Bytes uint64 }

// The numbers of enum stats_direction and enum stats_network.
const (
	ingress, egress = 0, 1

	netOther, netARP, netIPv4, netIPv6, netMalformed = 0, 1, 2, 3, 4
)

// totals reads the counts of all CPUs.
func totals(t testing.TB, m *ebpf.Map) map[trafficKey]traffic {
	t.Helper()
	all := map[trafficKey]traffic{}
	var k trafficKey
	var cpus []traffic
	it := m.Iterate()
	for it.Next(&k, &cpus) {
		sum := all[k]
		for _, c := range cpus {
			sum.Packets += c.Packets
			sum.Bytes += c.Bytes
		}
		all[k] = sum
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func keyOf(direction uint32, frame []byte) trafficKey {
	p, err := packet.Parse(frame)
	k := trafficKey{Direction: direction}
	switch {
	case err != nil:
		k.Network = netMalformed
	case p.EtherType == packet.TypeIPv4:
		k.Network, k.Protocol = netIPv4, uint32(p.Protocol)
	case p.EtherType == packet.TypeIPv6:
		k.Network, k.Protocol = netIPv6, uint32(p.Protocol)
	case p.EtherType == packet.TypeARP:
		k.Network = netARP
	default:
		k.Network = netOther
	}
	return k
}

// ours leaves out ICMPv6, in which the kernel speaks on its own on any link.
func ours(counts map[trafficKey]traffic) map[trafficKey]traffic {
	maps.DeleteFunc(counts, func(k trafficKey, _ traffic) bool { return k.Protocol == packet.ProtoICMPv6 })
	return counts
}

func differences(got, want map[trafficKey]traffic) []string {
	var all []string
	for k, w := range want {
		if got[k] != w {
			all = append(all, fmt.Sprintf("%+v: got %+v, want %+v", k, got[k], w))
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			all = append(all, fmt.Sprintf("%+v: got %+v, want none", k, g))
		}
	}
	return all
}

// The counts are those of what was sent, whatever it was and from several
// CPUs; nothing is held up.
func TestStats(t *testing.T) {
	for entry, direction := range map[string]uint32{"stats": ingress, "stats_ingress": ingress, "stats_egress": egress} {
		t.Run(entry, func(t *testing.T) {
			c := load(t, "stats", nil)
			want, code := map[trafficKey]traffic{}, int32(tcUnspec)
			if entry == "stats" {
				code = 2
			}
			rng := rand.New(rand.NewPCG(3, 4))
			var frames [][]byte
			for len(frames) < 2000 {
				f := randomFrame(rng)
				if len(frames)%4 == 0 { // every protocol number
					f = packet.IP(uint8(len(frames)/4), randomAddr(rng, true), randomAddr(rng, true), make([]byte, 40))
				}
				if !runsOnTC(f) {
					continue
				}
				frames = append(frames, f)
				k := keyOf(direction, f)
				w := want[k]
				want[k] = traffic{w.Packets + 1, w.Bytes + uint64(len(f))}
			}
			var wg sync.WaitGroup
			for _, half := range [][][]byte{frames[:1000], frames[1000:]} {
				wg.Go(func() {
					for _, f := range half {
						if got, err := c.Programs[entry].Run(&ebpf.RunOptions{Data: f}); err != nil || int32(got) != code {
							t.Errorf("%s: code %d, %v", packet.Describe(f), int32(got), err)
						}
					}
				})
			}
			wg.Wait()
			for _, d := range differences(totals(t, c.Maps["traffic"]), want) {
				t.Error(d)
			}
			if len(want) < 100 {
				t.Errorf("only %d kinds of packets", len(want))
			}
		})
	}
}

// On a real device the outermost tag is in the socket buffer and not in the
// bytes, and headers may lie behind the linear data. Both are read as XDP
// reads them.
func TestRealTraffic(t *testing.T) {
	testenv.Clean(t)
	testenv.Netns(t, "a")
	testenv.Netns(t, "b")
	testenv.Veth(t, testenv.End{Netns: "a", Name: "v0"}, testenv.End{Netns: "b", Name: "v0"})
	for _, ns := range []string{"a", "b"} {
		testenv.In(t, ns, func() {
			l, err := netlink.LinkByName("v0")
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetMTU(l, 9000); err != nil {
				t.Fatal(err)
			}
		})
	}
	out, in := load(t, "stats", nil), load(t, "stats", nil)
	testenv.In(t, "a", func() { attach(t, out.Programs["stats_egress"], ebpf.AttachTCXEgress, "v0") })
	testenv.In(t, "b", func() { attach(t, in.Programs["stats_ingress"], ebpf.AttachTCXIngress, "v0") })

	a4, b4, a6, b6 := ap("10.0.0.1:1"), ap("10.0.0.2:2"), ap("[fd00::1]:1"), ap("[fd00::2]:2")
	big := make([]byte, 6000) // more than a page: only then is data left out of the linear part
	long := packet.Extension{Type: packet.DestOptions, Data: make([]byte, 254)}
	qinq := packet.VLAN(7, 8)
	frames := [][]byte{
		packet.UDP(a4, b4, nil), packet.UDP(a4, b4, nil, packet.VLAN(5)), packet.SCTP(a4, b4, big, qinq),
		packet.TCP(a4, b4, 0, big), packet.TCP(a6, b6, 0, big), packet.TCP(a6, b6, 0, big, packet.VLAN(5)),
		packet.UDP(a6, b6, big, packet.Extensions(long, long)), packet.UDP(a6, b6, big, packet.Extensions(long, long), qinq),
		packet.UDP(a6, b6, big, packet.Extensions(long, long, long)), // malformed
		packet.UDP(a4, b4, nil, packet.VLAN(1, 2, 3)),
		packet.ARP(a4.Addr(), b4.Addr()),
	}
	wantOut, wantIn := map[trafficKey]traffic{}, map[trafficKey]traffic{}
	testenv.In(t, "a", func() {
		for _, f := range frames {
			send(t, "v0", f)
			for direction, want := range map[uint32]map[trafficKey]traffic{egress: wantOut, ingress: wantIn} {
				k := keyOf(direction, f)
				want[k] = traffic{want[k].Packets + 1, want[k].Bytes + uint64(len(f))}
			}
		}
	})
	var wrong []string
	for range 100 { // delivery is not at once
		wrong = append(differences(ours(totals(t, out.Maps["traffic"])), wantOut), differences(ours(totals(t, in.Maps["traffic"])), wantIn)...)
		if len(wrong) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// The VLAN condition and the drop of the acl hold for tags that are not in the
// bytes.
func TestACLOnRealTraffic(t *testing.T) {
	testenv.Clean(t)
	testenv.Netns(t, "a")
	testenv.Netns(t, "b")
	testenv.Veth(t, testenv.End{Netns: "a", Name: "v0"}, testenv.End{Netns: "b", Name: "v0"})
	a := &access{Default: pass, NonIP: drop, Malformed: drop, Rules: []rule{{Action: drop, VLAN: 5}, {Action: drop, VLAN: 7, Protocol: packet.ProtoUDP}},
		Lists: map[string]map[netip.Prefix]uint32{"deny": {pfx("10.0.0.9/32"): 1}}}
	acl, in := loadACL(t, a), load(t, "stats", nil)
	testenv.In(t, "b", func() {
		attach(t, acl.Programs["acl_ingress"], ebpf.AttachTCXIngress, "v0")
		attach(t, in.Programs["stats_ingress"], ebpf.AttachTCXIngress, "v0") // runs after it: acl ends with unspec
	})
	want := map[trafficKey]traffic{}
	testenv.In(t, "a", func() {
		for _, src := range []string{"10.0.0.1:1", "10.0.0.9:1"} {
			for _, vlan := range [][]uint16{nil, {5}, {6}, {7, 5}, {6, 5}, {6, 5, 4}} {
				f := packet.UDP(ap(src), ap("10.0.0.2:2"), nil, packet.VLAN(vlan...))
				send(t, "v0", f)
				if a.judge(f) == pass {
					k := keyOf(ingress, f)
					want[k] = traffic{want[k].Packets + 1, want[k].Bytes + uint64(len(f))}
				}
			}
		}
	})
	if len(want) == 0 {
		t.Fatal("nothing passes")
	}
	var wrong []string
	for range 100 {
		if wrong = differences(ours(totals(t, in.Maps["traffic"])), want); len(wrong) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

func attach(t testing.TB, p *ebpf.Program, at ebpf.AttachType, name string) {
	t.Helper()
	l, err := link.AttachTCX(link.TCXOptions{Interface: testenv.Interface(t, "", name).Index, Program: p, Attach: at})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

// send puts a frame on the wire with no more than the Ethernet header in the
// linear part of its buffer, where the kernel can do that.
func send(t testing.TB, name string, frame []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Fatal(err)
	}
	// struct virtio_net_hdr: flags, gso_type, hdr_len (little-endian, as the
	// machine's), …: no offloads, 14 bytes of headers.
	hdr := make([]byte, 10)
	hdr[2], hdr[3] = 14, 0
	to := &unix.SockaddrLinklayer{Ifindex: testenv.Interface(t, "", name).Index}
	if err := unix.Sendto(fd, append(hdr, frame...), 0, to); err != nil {
		t.Fatalf("send %s: %v", packet.Describe(frame), err)
	}
}
