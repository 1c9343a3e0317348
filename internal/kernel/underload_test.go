package kernel

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/packet"
	"l3af/internal/testenv"
)

var (
	changes = flag.Int("l3af.changes", 250, "how many changes are made under load, at each hook (14,000 take about ten minutes)")
	seed    = flag.Uint64("l3af.seed", 0, "seed of the changes under load (0: the clock)")
)

// stamped is a chain of stamp.bpf.c in the making.
type stamped struct {
	kind       l3af.HookKind
	specs      []*ebpf.CollectionSpec // by version
	members    []stampedMember
	generation uint32
	names      int
	r          *rand.Rand
}

type stampedMember struct {
	name    string
	wide    bool
	version int
	salt    uint32
}

// mostMembers bounds chains, so that most of the time goes to changes.
const mostMembers = 12

func newStamped(t *testing.T, kind l3af.HookKind, r *rand.Rand) *stamped {
	t.Helper()
	s := &stamped{kind: kind, r: r}
	for _, name := range []string{"stamp", "stamp2"} {
		spec, err := ebpf.LoadCollectionSpec("testdata/" + name + ".bpf.o")
		if err != nil {
			t.Fatal(err)
		}
		s.specs = append(s.specs, spec)
	}
	s.members = []stampedMember{{name: "stays"}}
	s.insert(false)
	return s
}

func (s *stamped) insert(wide bool) {
	s.names++
	m := stampedMember{name: fmt.Sprint("p", s.names), wide: wide, version: s.r.IntN(2), salt: s.r.Uint32N(1000)}
	s.members = slices.Insert(s.members, s.r.IntN(len(s.members)+1), m)
}

// remove takes away one that is wide or not; "stays" stays.
func (s *stamped) remove(wide bool) bool {
	var may []int
	for i, m := range s.members {
		if m.wide == wide && m.name != "stays" {
			may = append(may, i)
		}
	}
	if len(may) == 0 {
		return false
	}
	at := may[s.r.IntN(len(may))]
	s.members = slices.Delete(s.members, at, at+1)
	return true
}

// kinds of change.
var kinds = []string{"insert", "remove", "reorder", "upgrade", "reconfigure", "more segments", "fewer segments"}

// change makes a change of one kind to a chain of so many segments, or tells
// that it cannot be made now.
func (s *stamped) change(t *testing.T, kind string, segments int) (c *chain.Chain, g generation, ok bool) {
	t.Helper()
	was := slices.Clone(s.members)
	s.generation++
	defer func() {
		if !ok {
			s.members = was
			s.generation--
		}
	}()
	member := &s.members[s.r.IntN(len(s.members))]
	switch kind {
	case "insert":
		s.insert(false)
	case "remove":
		if !s.remove(false) {
			return nil, g, false
		}
	case "reorder":
		s.r.Shuffle(len(s.members), func(i, j int) { s.members[i], s.members[j] = s.members[j], s.members[i] })
		if slices.Equal(was, s.members) {
			return nil, g, false
		}
	case "upgrade":
		member.version = 1 - member.version
	case "reconfigure":
		member.salt++
	case "more segments":
		for now := 0; now <= segments; now = len(c.Specs()) {
			s.insert(true)
			c, g = s.compose(t)
		}
	case "fewer segments":
		for now := segments; now >= segments; now = len(c.Specs()) {
			if !s.remove(true) {
				return nil, g, false
			}
			c, g = s.compose(t)
		}
	}
	if len(s.members) > mostMembers {
		return nil, g, false
	}
	if c == nil {
		c, g = s.compose(t)
	}
	return c, g, true
}

func (s *stamped) compose(t *testing.T) (*chain.Chain, generation) {
	t.Helper()
	g := generation{number: s.generation, total: uint32(len(s.members))}
	var members []chain.Member
	for i, m := range s.members {
		spec := s.specs[m.version].Copy()
		for name, value := range map[string]uint32{"generation": g.number, "position": uint32(i), "total": g.total, "salt": m.salt} {
			if err := spec.Variables[name].Set(value); err != nil {
				t.Fatal(err)
			}
		}
		g.sum += m.salt + uint32(m.version) + 1
		entry := "stamp"
		if m.wide {
			entry = "wide"
		}
		if s.kind != l3af.XDP {
			entry += "_tc"
		}
		members = append(members, chain.Member{Name: m.name, Spec: spec, Entry: entry})
	}
	c, err := chain.Compose(s.kind, members)
	if err != nil {
		t.Fatal(err)
	}
	return c, g
}

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
			from, to, server := road(c.kind)
			if !arrives(t, from, to, server, control) {
				t.FailNow()
			}
			st := newStamped(t, c.kind, rand.New(rand.NewPCG(s, 0)))
			flow := newTraffic(t, from, to, server)
			ran := &counted{k: k, target: target}
			segments := 0
			apply := func(ch *chain.Chain, g generation) {
				t.Helper()
				flow.next(g)
				res := attach(t, k, host.Load{Target: target, Mode: c.mode, Chain: ch})
				if res.Mode != c.mode {
					t.Fatalf("runs as %s", res.Mode)
				}
				if g.number == 1 {
					flow.start()
				}
				flow.attached(g)
				if err := k.Tidy(target, ch); err != nil {
					t.Fatal(err)
				}
				segments = len(ch.Specs())
				if g.number%100 == 0 {
					ran.fold(t, ch.ID)
				}
			}
			st.generation = 1
			apply(st.compose(t))
			done, most := map[string]int{}, segments
			for n := 0; n < *changes && !t.Failed(); {
				// Each kind in its turn, so that all are made equally often.
				for _, i := range st.r.Perm(len(kinds)) {
					if ch, g, ok := st.change(t, kinds[i], segments); ok && n < *changes {
						apply(ch, g)
						done[kinds[i]]++
						n++
						most = max(most, segments)
					}
				}
			}
			sent := flow.finish()
			t.Logf("-l3af.seed=%d: %d changes: %v; at most %d segments; %d packets", s, *changes, done, most, sent)
			if t.Failed() {
				return
			}
			if *changes >= 100 && (len(done) < len(kinds) || most < 3) {
				t.Error("not every kind of change was made")
			}
			if n := seen(t, k, target, "stays"); n != sent {
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
				spec, err := ebpf.LoadCollectionSpec("testdata/stamp.bpf.o")
				if err != nil {
					t.Fatal(err)
				}
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
				p := packet.UDP(netip.MustParseAddrPort("10.9.0.2:1000"), netip.MustParseAddrPort("10.9.0.1:4243"), make([]byte, numbered))
				ran, err := runPackets(t.Context(), k, host.Load{Target: hook(kind, "", "lo"), Chain: ch}, false, [][]byte{p})
				if err != nil {
					t.Fatal(err)
				}
				by, odd := stampOf(ran.Packets[0].Data[42:])
				if by.total != c.count || odd != c.odd {
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
