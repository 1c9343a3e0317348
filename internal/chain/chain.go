// Package chain composes the programs of one hook into one program. It is a
// pure function of its input and never touches the kernel.
package chain

import (
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
	// Instance, where it is not "", names the instance of the package whose
	// maps the program uses, together with all others of that instance.
	// Read-only data stays its own.
	Instance string
}

// Chain is a composed program and all it takes to load it.
type Chain struct {
	// ID is a hash, 10 hex digits, of everything that decides what the program
	// does: instructions, order, proceed sets, read-only data, map shapes.
	ID     string
	Kind   l3af.HookKind // "" for a probe
	Attach string        // probes only: tracepoint/GROUP/NAME or raw_tracepoint/NAME
	// Program is named l3af_<ID>. Its map references are the Ref of Maps and
	// must be bound with Instructions.AssociateMap, in a copy: that changes the
	// instructions.
	Program  *ebpf.ProgramSpec
	Maps     []Map
	Programs []Linked // in order
}

// Map is one map that a chain's program needs.
type Map struct {
	Ref    string        // symbol of the references in Chain.Program
	Member string        // whose it is; "" for the counters
	Name   string        // as the object names it
	Spec   *ebpf.MapSpec // with its first contents: the values of globals
	// Pinned maps outlive the program. The others are read-only data, part of
	// the program.
	Pinned bool
	// Instance is the package instance the map is shared in; "": it is Member's
	// alone. A map that several members share is here once, as the first's.
	Instance string
}

// Linked says how one program came into the chain.
type Linked struct {
	Name    string
	Linkage string // inlined; "" for a probe
	Proceed []l3af.Verdict
}

// The ways a program is linked into its chain.
const Inlined = "inlined"

// NamePrefix starts the kernel's name of every program of ours: l3af_<ID>.
const NamePrefix = "l3af_"

// Count is how often one program of a chain ran, and what it said.
type Count struct {
	Name     string
	Packets  uint64
	Verdicts map[l3af.Verdict]uint64 // none is 0
}
