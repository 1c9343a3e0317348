package stamp

import (
	"embed"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/chain"
)

//go:embed bpf/*.bpf.o
var objects embed.FS

// Files are the objects' versions.
var Files = []string{"bpf/stamp.bpf.o", "bpf/stamp2.bpf.o"}

// Object reads a version of the object.
func Object(t testing.TB, version int) *ebpf.CollectionSpec {
	t.Helper()
	f, err := objects.Open(Files[version])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec, err := ebpf.LoadCollectionSpecFromReader(f.(io.ReaderAt))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// Walk is a chain of these programs that changes at random.
type Walk struct {
	Kind    l3af.HookKind
	Members []Member

	specs      []*ebpf.CollectionSpec // by version
	generation uint32
	names      int
	r          *rand.Rand
}

// Member is one program of the chain.
type Member struct {
	Name    string
	Entry   string
	Version int
	Salt    uint32

	wide bool
}

// Stays is the member that is never removed. Its global seen counts packets.
const Stays = "stays"

// mostMembers bounds chains, so that most of the time goes to changes.
const mostMembers = 12

// NewWalk begins with a chain of two programs.
func NewWalk(t testing.TB, kind l3af.HookKind, r *rand.Rand) *Walk {
	t.Helper()
	s := &Walk{Kind: kind, r: r, generation: 1}
	for version := range Files {
		s.specs = append(s.specs, Object(t, version))
	}
	s.add(Member{Name: Stays})
	s.insert(false)
	return s
}

func (s *Walk) add(m Member) {
	m.Entry = "stamp"
	if m.wide {
		m.Entry = "wide"
	}
	if s.Kind != l3af.XDP {
		m.Entry += "_tc"
	}
	s.Members = slices.Insert(s.Members, s.r.IntN(len(s.Members)+1), m)
}

func (s *Walk) insert(wide bool) {
	s.names++
	s.add(Member{Name: fmt.Sprint("p", s.names), wide: wide, Version: s.r.IntN(len(Files)), Salt: s.r.Uint32N(1000)})
}

// remove takes away one that is wide or not; Stays stays.
func (s *Walk) remove(wide bool) bool {
	var may []int
	for i, m := range s.Members {
		if m.wide == wide && m.Name != Stays {
			may = append(may, i)
		}
	}
	if len(may) == 0 {
		return false
	}
	at := may[s.r.IntN(len(may))]
	s.Members = slices.Delete(s.Members, at, at+1)
	return true
}

// Kinds are the kinds of change.
var Kinds = []string{"insert", "remove", "reorder", "upgrade", "reconfigure", "more segments", "fewer segments"}

// Change makes a change of one kind to a chain of so many segments, or tells
// that it cannot be made now.
func (s *Walk) Change(t testing.TB, kind string, segments int) (c *chain.Chain, g Generation, ok bool) {
	t.Helper()
	was := slices.Clone(s.Members)
	s.generation++
	defer func() {
		if !ok {
			s.Members = was
			s.generation--
		}
	}()
	member := &s.Members[s.r.IntN(len(s.Members))]
	switch kind {
	case "insert":
		s.insert(false)
	case "remove":
		if !s.remove(false) {
			return nil, g, false
		}
	case "reorder":
		s.r.Shuffle(len(s.Members), func(i, j int) { s.Members[i], s.Members[j] = s.Members[j], s.Members[i] })
		if slices.Equal(was, s.Members) {
			return nil, g, false
		}
	case "upgrade":
		member.Version = 1 - member.Version
	case "reconfigure":
		member.Salt++
	case "more segments":
		for now := 0; now <= segments; now = len(c.Specs()) {
			s.insert(true)
			c, g = s.Compose(t)
		}
	case "fewer segments":
		for now := segments; now >= segments; now = len(c.Specs()) {
			if !s.remove(true) {
				return nil, g, false
			}
			c, g = s.Compose(t)
		}
	}
	if len(s.Members) > mostMembers {
		return nil, g, false
	}
	if c == nil {
		c, g = s.Compose(t)
	}
	return c, g, true
}

// Compose gives the chain as it is, and what it does.
func (s *Walk) Compose(t testing.TB) (*chain.Chain, Generation) {
	t.Helper()
	g := Generation{Number: s.generation, Total: uint32(len(s.Members))}
	var members []chain.Member
	for i, m := range s.Members {
		spec := s.specs[m.Version].Copy()
		for name, value := range s.Config(i) {
			if err := spec.Variables[name].Set(value); err != nil {
				t.Fatal(err)
			}
		}
		g.Sum += m.Salt + uint32(m.Version) + 1
		members = append(members, chain.Member{Name: m.Name, Spec: spec, Entry: m.Entry})
	}
	c, err := chain.Compose(s.Kind, members)
	if err != nil {
		t.Fatal(err)
	}
	return c, g
}

// Config is the globals of a member.
func (s *Walk) Config(i int) map[string]uint32 {
	return map[string]uint32{
		"generation": s.generation, "position": uint32(i), "total": uint32(len(s.Members)), "salt": s.Members[i].Salt,
	}
}
