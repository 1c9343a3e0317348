package kernel

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/packet"
	"l3af/internal/testenv"
	"l3af/internal/testenv/stamp"
)

var (
	changes = flag.Int("l3af.changes", 250, "how many changes are made under load, at each hook (14,000 take about ten minutes)")
	seed    = flag.Uint64("l3af.seed", 0, "seed of the changes under load (0: the clock)")
)

// While a chain is changed in every way, and again and again, no numbered packet is
// lost or comes twice, each meets all programs of one chain in their order and
// none of another, none meets a chain that was replaced before the packet was
// sent, and the counters and maps of what stays miss none.
func TestChangesUnderLoad(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	for _, c := range []struct {
		name string
		kind l3af.HookKind
		mode l3af.Mode
	}{
		{"xdp native", l3af.XDP, l3af.Native},
		{"xdp generic", l3af.XDP, l3af.Generic},
		{"tc-ingress", l3af.TCIngress, ""},
		{"tc-egress", l3af.TCEgress, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.Clean(t)
			pair(t)
			k := open(t)
			target := hook(c.kind, "", "v0")
			from, to, server := "far", "", "10.9.0.1"
			if c.kind == l3af.TCEgress {
				from, to, server = "", "far", "10.9.0.2"
			}
			if !arrives(t, from, to, server, control) {
				t.FailNow()
			}
			r := rand.New(rand.NewPCG(s, 0))
			walk := stamp.NewWalk(t, c.kind, r)
			flow := stamp.New(t, from, to, server)
			ran := &counted{k: k, target: target}
			segments := 0
			apply := func(ch *chain.Chain, g stamp.Generation) {
				t.Helper()
				flow.Next(g)
				res := attach(t, k, host.Load{Target: target, Mode: c.mode, Chain: ch})
				if res.Mode != c.mode {
					t.Fatalf("runs as %s", res.Mode)
				}
				if g.Number == 1 {
					flow.Start()
				}
				flow.Attached(g)
				if err := k.Tidy(target, ch); err != nil {
					t.Fatal(err)
				}
				segments = len(ch.Specs())
				if g.Number%100 == 0 {
					ran.fold(t, ch.ID)
				}
			}
			apply(walk.Compose(t))
			done, most := map[string]int{}, segments
			for n := 0; n < *changes && !t.Failed(); {
				// Each kind in its turn, so that all are made equally often.
				for _, i := range r.Perm(len(stamp.Kinds)) {
					kind := stamp.Kinds[i]
					if ch, g, ok := walk.Change(t, kind, segments); ok && n < *changes {
						apply(ch, g)
						done[kind]++
						n++
						most = max(most, segments)
					}
				}
			}
			sent := flow.Finish()
			t.Logf("-l3af.seed=%d: %d changes: %v; at most %d segments; %d packets", s, *changes, done, most, sent)
			if t.Failed() {
				return
			}
			if *changes >= 100 && (len(done) < len(stamp.Kinds) || most < 3) {
				t.Error("not every kind of change was made")
			}
			if n := seen(t, k, target, stamp.Stays); n != sent {
				t.Errorf("the program that stays saw %d packets of %d", n, sent)
			}
			ran.fold(t, "")
			if ran.last < sent || ran.other != 0 {
				t.Errorf("chains counted %d packets of %d, %d of them between segments", ran.last, sent, ran.other)
			}
		})
	}
}

// What the test of changes looks for is found: programs of two generations in
// one chain, one that is missing, one too many.
func TestStampsTell(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
		for name, c := range map[string]struct {
			generations, positions []uint32
			total, odd, count      uint32
		}{
			"whole":      {[]uint32{5, 5, 5}, []uint32{0, 1, 2}, 3, 0, 3},
			"mixed":      {[]uint32{5, 4, 5}, []uint32{0, 1, 2}, 3, 1, 3},
			"one less":   {[]uint32{5, 5}, []uint32{0, 2}, 3, 2, 2},
			"none first": {[]uint32{5, 5}, []uint32{1, 2}, 3, 3, 2},
			"one more":   {[]uint32{5, 5, 5}, []uint32{0, 0, 1}, 2, 2, 3},
			"not whole":  {[]uint32{5, 5}, []uint32{0, 1}, 3, 0, 0},
		} {
			t.Run(string(kind)+" "+name, func(t *testing.T) {
				spec := stamp.Object(t, 0)
				entry := map[bool]string{true: "stamp", false: "stamp_tc"}[kind == l3af.XDP]
				var members []chain.Member
				for i := range c.positions {
					spec := spec.Copy()
					for name, v := range map[string]uint32{"generation": c.generations[i], "position": c.positions[i], "total": c.total} {
						if err := spec.Variables[name].Set(v); err != nil {
							t.Fatal(err)
						}
					}
					members = append(members, chain.Member{Name: fmt.Sprint("p", i), Spec: spec, Entry: entry})
				}
				ch, err := chain.Compose(kind, members)
				if err != nil {
					t.Fatal(err)
				}
				p := packet.UDP(netip.MustParseAddrPort("10.9.0.2:1000"), netip.MustParseAddrPort("10.9.0.1:4243"), make([]byte, stamp.Size))
				ran, err := runPackets(t.Context(), k, host.Load{Target: hook(kind, "", "lo"), Chain: ch}, false, [][]byte{p})
				if err != nil {
					t.Fatal(err)
				}
				by, odd := stamp.Read(ran.Packets[0].Data[42:])
				if by.Total != c.count || odd != c.odd {
					t.Errorf("%+v, odd %d, want %d programs, odd %d", by, odd, c.count, c.odd)
				}
			})
		}
	}
}

// counted sums what chains counted, as the daemon does.
type counted struct {
	k      *Kernel
	target host.Target
	last   uint64 // packets of the last programs
	other  uint64 // that found no next segment
}

// fold takes the counts of all chains but one that runs.
func (c *counted) fold(t *testing.T, running string) {
	t.Helper()
	list, err := c.k.Counts(c.target, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, counts := range list {
		if counts.ID == running {
			continue
		}
		c.last += counts.Programs[len(counts.Programs)-1].Packets
		for _, p := range counts.Programs {
			c.other += p.Verdicts[l3af.Other]
		}
		if err := c.k.DropCounts(c.target, counts.ID); err != nil {
			t.Fatal(err)
		}
	}
}
