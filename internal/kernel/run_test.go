package kernel

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/packet"
	"l3af/internal/testenv"
)

func udp(port uint16) []byte {
	return packet.UDP(netip.MustParseAddrPort("10.9.0.2:1000"), netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), port), []byte("l3af"))
}

// ran is what a run gave, with its packets.
type ran struct {
	host.Ran
	Packets []host.RanPacket
}

func runPackets(ctx context.Context, k *Kernel, load host.Load, live bool, packets [][]byte) (*ran, error) {
	r := &ran{}
	got, err := k.Run(ctx, load, host.Run{
		LiveMaps: live,
		Packets: func(yield func([]byte, error) bool) {
			for _, p := range packets {
				if !yield(p, nil) {
					return
				}
			}
		},
		Each: func(packet []byte, one host.RanPacket) error {
			if !bytes.Equal(packet, packets[len(r.Packets)]) {
				return errors.New("another packet was run")
			}
			r.Packets = append(r.Packets, one)
			return nil
		},
	})
	if got != nil {
		r.Ran = *got
	}
	return r, err
}

// Each packet gets the verdict of the program that decides on it, which is
// named; the maps are as the document says, and nothing is left.
func TestRun(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	pair(t)
	for _, c := range []struct {
		name   string
		target host.Target
		pass   int32
		drop   int32
		note   bool
	}{
		{"xdp", hook(l3af.XDP, "", "v0"), xdpPass, xdpDrop, false},
		{"xdp in a namespace", hook(l3af.XDP, "far", "v1"), xdpPass, xdpDrop, false},
		{"tc", hook(l3af.TCIngress, "", "v0"), tcUnspec, tcShot, false},
		{"no interface", hook(l3af.TCEgress, "", "none"), tcUnspec, tcShot, true},
		{"no namespace", hook(l3af.XDP, "none", "v0"), xdpPass, xdpDrop, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			load := host.Load{
				Target: c.target, Chain: gate(t, c.target.Hook.Kind, c.pass, c.pass, c.pass),
				Contents: []host.Contents{deny("g0", 80), deny("g2", 90, 80)},
			}
			ran, err := runPackets(t.Context(), k, load, false, [][]byte{udp(80), udp(90), udp(100), {1, 2}, udp(80)})
			if err != nil {
				t.Fatal(err)
			}
			type row struct {
				code    int32
				program int
			}
			want := []row{{c.drop, 0}, {c.drop, 2}, {c.pass, 2}, {0, -1}, {c.drop, 0}}
			for i, p := range ran.Packets {
				if got := (row{p.Code, p.Program}); got != want[i] || (p.Err != nil) != (i == 3) {
					t.Errorf("packet %d: %+v, want %+v", i, p, want[i])
				}
			}
			if !bytes.Equal(ran.Packets[2].Data, udp(100)) {
				t.Errorf("packet 2 became %x", ran.Packets[2].Data)
			}
			if ran.Counts[0].Packets != 4 || ran.Counts[2].Packets != 2 || ran.Counts[0].Verdicts[c.target.Hook.Kind.Verdict(c.drop)] != 2 {
				t.Errorf("counts: %+v", ran.Counts)
			}
			if (len(ran.Notes) > 0) != c.note {
				t.Errorf("notes: %q", ran.Notes)
			}
		})
	}
	if left := tree(t, k.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A copy of a chain that runs gives real packets' verdicts, and neither its
// maps nor its counters notice. With live maps it starts as they are.
func TestRunBesideTraffic(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	pair(t)
	target := hook(l3af.XDP, "", "v0")
	load := host.Load{Target: target, Chain: gate(t, l3af.XDP, xdpPass, xdpPass), Contents: []host.Contents{deny("g1", 80)}}
	attach(t, k, load)
	m := pinnedMap(t, k, target, "g0", "deny")
	if err := m.Put(port(90), u32(1)); err != nil {
		t.Fatal(err)
	}
	before, pins := attached(t, k, target), tree(t, k.root)
	for _, live := range []bool{false, true} {
		seenBefore := seen(t, k, target, "g0")
		packets := make([][]byte, 200)
		for i := range packets {
			packets[i] = udp([]uint16{80, 90, 100, 110}[i%4])
		}
		ran, err := runPackets(t.Context(), k, load, live, packets)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range []uint16{80, 90, 100, 110} {
			arrived := arrives(t, "far", "", "10.9.0.1", int(p))
			// Only the live map of g0 denies 90.
			if p == 90 && !live {
				arrived = true
			}
			if got := ran.Packets[i].Code == xdpPass; got != arrived {
				t.Errorf("live %v, port %d: a packet passes %v, the copy says %v", live, p, arrived, got)
			}
		}
		if len(ran.Notes) > 0 {
			t.Errorf("notes: %q", ran.Notes)
		}
		// The copies' packets are more than what we sent.
		if n := seen(t, k, target, "g0") - seenBefore; n >= 200 {
			t.Errorf("the chain saw %d packets: the copy's are among them", n)
		}
	}
	if now := attached(t, k, target); now != before {
		t.Errorf("before %+v, now %+v", before, now)
	}
	if now := tree(t, k.root); !slices.Equal(now, pins) {
		t.Errorf("pins were %v, are %v", pins, now)
	}
}

func TestRunRefused(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.TCIngress, "", "lo")
	clone, err := chain.Compose(l3af.TCIngress, []chain.Member{{Name: "clone", Entry: "clone", Spec: &ebpf.CollectionSpec{
		Programs: map[string]*ebpf.ProgramSpec{"clone": {
			Name: "clone", Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{
				asm.Mov.Imm(asm.R2, 1), asm.Mov.Imm(asm.R3, 0), asm.FnCloneRedirect.Call(), asm.Mov.Imm(asm.R0, 0), asm.Return(),
			},
		}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = runPackets(t.Context(), k, host.Load{Target: target, Chain: clone}, false, [][]byte{udp(1)})
	if invalid := (*l3af.InvalidError)(nil); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "bpf_clone_redirect") {
		t.Errorf("a chain that sends packets: %v", err)
	}
	// What gives the packets and what takes the answers may end the run.
	broken := errors.New("broken")
	pass := host.Load{Target: target, Chain: gate(t, l3af.TCIngress, tcUnspec)}
	runs := 0
	_, err = k.Run(t.Context(), pass, host.Run{
		Packets: func(yield func([]byte, error) bool) { _ = yield(udp(1), nil) && yield(nil, broken) },
		Each:    func([]byte, host.RanPacket) error { runs++; return nil },
	})
	if !errors.Is(err, broken) || runs != 1 {
		t.Errorf("packets end with an error: %v after %d", err, runs)
	}
	_, err = k.Run(t.Context(), pass, host.Run{
		Packets: func(yield func([]byte, error) bool) { _ = yield(udp(1), nil) && yield(udp(2), nil) },
		Each:    func([]byte, host.RanPacket) error { return broken },
	})
	if !errors.Is(err, broken) {
		t.Errorf("nobody takes the answers: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := runPackets(ctx, k, host.Load{Target: target, Chain: gate(t, l3af.TCIngress, tcShot)}, false, [][]byte{udp(1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run: %v", err)
	}
	if _, err := k.Run(t.Context(), host.Load{Target: host.Target{Probe: "e"}, Chain: probe(t, "raw_tracepoint/sched_process_exec", "raw_execs")}, host.Run{}); err == nil {
		t.Error("packets were run through a probe")
	}
}

// A packet comes out as it left the chain: what stands before it, metadata,
// is not part of it.
func TestRunChangesPackets(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	c, err := chain.Compose(l3af.XDP, []chain.Member{{Name: "cut", Entry: "cut", Spec: &ebpf.CollectionSpec{
		Programs: map[string]*ebpf.ProgramSpec{"cut": {
			Name: "cut", Type: ebpf.XDP, License: "GPL",
			Instructions: asm.Instructions{
				asm.Mov.Reg(asm.R6, asm.R1),
				asm.Mov.Imm(asm.R2, -4), asm.FnXdpAdjustMeta.Call(),
				asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 6), asm.FnXdpAdjustHead.Call(),
				asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 3), asm.FnXdpAdjustTail.Call(),
				asm.Mov.Imm(asm.R0, 99), asm.Return(),
			},
		}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	p := udp(1)
	ran, err := runPackets(t.Context(), k, host.Load{Target: hook(l3af.XDP, "", "lo"), Chain: c}, false, [][]byte{p})
	if err != nil {
		t.Fatal(err)
	}
	if want := append(p[6:len(p):len(p)], 0, 0, 0); !bytes.Equal(ran.Packets[0].Data, want) || ran.Packets[0].Code != 99 {
		t.Errorf("got %+v, want %x", ran.Packets[0], want)
	}
}

// Whose verdict it is is known across segments, and each gives its machine
// code.
func TestRunSegments(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	passes := slices.Repeat([]int32{xdpPass}, 40)
	load := host.Load{Target: target, Chain: gate(t, l3af.XDP, passes...)}
	if len(load.Chain.Rest) == 0 {
		t.Fatal("40 programs are one segment")
	}
	deciders := map[uint16]int{1: 0, 2: 14, 3: 39}
	for port, i := range deciders {
		load.Contents = append(load.Contents, deny(load.Chain.Programs[i].Name, port))
	}
	ran, err := runPackets(t.Context(), k, load, false, [][]byte{udp(1), udp(2), udp(3), udp(4)})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range ran.Packets {
		want, code := deciders[uint16(i+1)], int32(xdpDrop)
		if i == 3 {
			want, code = 39, xdpPass
		}
		if p.Err != nil || p.Program != want || p.Code != code {
			t.Errorf("packet %d: %+v, want %d by program %d", i, p, code, want)
		}
	}
	if ran.Counts[39].Packets != 2 {
		t.Errorf("the last program counted %+v", ran.Counts[39])
	}
	attach(t, k, load)
	list, err := k.Jited(target)
	if err != nil {
		t.Fatal(err)
	}
	if last := list[len(list)-1].Segment; last != 1+len(load.Chain.Rest) {
		t.Errorf("machine code of %d segments, want %d", last, 1+len(load.Chain.Rest))
	}
}
