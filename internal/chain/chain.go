// Package chain composes the programs of one hook into one program. It is a
// pure function of its input and never touches the kernel.
package chain

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"l3af"
)

// Member is one program of a chain, ready to be composed.
type Member struct {
	Name string // unique in the chain
	// Spec is the object the program comes from, globals set. Compose reads it
	// and leaves it as it is.
	Spec  *ebpf.CollectionSpec
	Entry string // key of Spec.Programs
	// Proceed are the verdicts after which the next program runs; empty: the
	// hook's default. Counting the first costs nothing; each of the others
	// costs one counter when it occurs.
	Proceed []l3af.Verdict
	// Next names the array of programs by whose entry 0 the program, written
	// for L3AF, calls the one behind it: that call is taken out. "": none.
	Next string
	// Instance, where it is not "", names the instance of the package whose
	// maps the program uses, together with all others of that instance.
	// Read-only data stays its own.
	Instance string
	// Object tells the objects of a package apart that has several: what their
	// other data sections hold is of one object, and shared with its programs.
	Object string
}

// SharedIn is the instance that a map of the member is shared in, if its
// members share maps: a data section's name is that of its object's.
func (m *Member) SharedIn(name string) string {
	if m.Instance == "" || m.Object == "" || !strings.HasPrefix(name, ".") {
		return m.Instance
	}
	object := m.Object
	if len(object) > 40 { // it becomes a part of a name that has 255 bytes at most
		object = fmt.Sprintf("%x", sha256.Sum256([]byte(object)))[:20]
	}
	return m.Instance + "@" + object
}

// Chain is a composed program and all it takes to load it.
type Chain struct {
	// ID is a hash, 10 hex digits, of everything that decides what the chain
	// does: instructions, order, proceed sets, read-only data, map shapes. How
	// the programs are linked is not part of it.
	ID     string
	Kind   l3af.HookKind // "" for a probe
	Attach string        // probes only: as of l3af.NormalAttach
	// Program is named l3af_<ID>, and so are those of Rest. Their map references
	// are the Ref of Maps and must be bound with Instructions.AssociateMap, in a
	// copy: that changes the instructions.
	Program *ebpf.ProgramSpec
	// Rest are the segments behind the first, which is Program. Each goes on in
	// the next by a tail call through the PROG_ARRAY Segments, whose entry i
	// must hold Rest[i] before the first packet comes.
	Rest     []*ebpf.ProgramSpec
	Segments *ebpf.MapSpec // references to it are SegmentsRef; nil when Rest is empty
	Maps     []Map
	Programs []Linked // in order

	made *composition // nil for a probe, and in what Light gives
}

// Specs are the programs of all segments, in order.
func (c *Chain) Specs() []*ebpf.ProgramSpec {
	return append([]*ebpf.ProgramSpec{c.Program}, c.Rest...)
}

// Light is what must be known of a chain that runs: nothing of its code, and
// no types, which hold on to all of an object's.
func (c *Chain) Light() *Chain {
	l := *c
	l.made = nil
	l.Program = &ebpf.ProgramSpec{Name: c.Program.Name, Type: c.Program.Type}
	l.Rest = make([]*ebpf.ProgramSpec, len(c.Rest))
	for i, p := range c.Rest {
		l.Rest[i] = &ebpf.ProgramSpec{Name: p.Name, Type: p.Type}
	}
	l.Maps = slices.Clone(c.Maps)
	for i := range l.Maps {
		spec := *l.Maps[i].Spec
		spec.Key, spec.Value, spec.Contents, spec.Tags = nil, nil, nil, nil
		l.Maps[i].Spec = &spec
		l.Maps[i].Holds = slices.Clone(l.Maps[i].Holds)
		for j := range l.Maps[i].Holds {
			l.Maps[i].Holds[j].Program = nil
		}
	}
	return &l
}

// Map is one map that a chain's program needs.
type Map struct {
	Ref    string        // symbol of the references in Chain.Program
	Member string        // whose it is; "" for the counters
	Name   string        // as the object names it
	Spec   *ebpf.MapSpec // with its first contents: the values of globals
	Holds  []Held        // maps and programs it holds at first
	// Pinned maps outlive the program. The others are read-only data, part of
	// the program.
	Pinned bool
	// Instance is the package instance the map is shared in; "": it is Member's
	// alone. A map that several members share is here once, as the first's.
	Instance string
	Users    []string // the members that use it, Member first
	// ByName: the object asks for it to be pinned by its name, where loaders of
	// other objects find it (LIBBPF_PIN_BY_NAME).
	ByName bool
}

// Linked says how one program came into the chain.
type Linked struct {
	Name    string
	Linkage string // "" for a probe
	Proceed []l3af.Verdict
	Segment int    // from 1; 0 for a probe
	Why     string // why it is not inlined; "" when it is
	// Whole: XDP, and it knows packets in one piece only: its section is not
	// xdp.frags. One such program makes the whole chain so.
	Whole bool
}

// The ways a program is linked into its chain.
const (
	Inlined = "inlined" // its code is part of the segment's entry function
	Called  = "called"  // it is a function of the segment, verified by itself
)

// SegmentsRef is the symbol of the references to Chain.Segments; no member's
// map has it.
const SegmentsRef = "/segments"

// NamePrefix starts the kernel's name of every program of ours: l3af_<ID>.
const NamePrefix = "l3af_"

// Count is how often one program of a chain ran, and what it said.
type Count struct {
	Name     string
	Packets  uint64
	Verdicts map[l3af.Verdict]uint64 // none is 0
}
