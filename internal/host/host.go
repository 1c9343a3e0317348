// Package host holds the words that node and kernel share: what a host has,
// and what is to be put there.
package host

import (
	"context"
	"errors"

	"l3af"
	"l3af/internal/chain"
)

// Target is a place where one program of ours runs: a hook or a probe.
type Target struct {
	Hook  l3af.Hook // zero for a probe
	Probe string    // the probe's name; "" for a hook
}

// String gives "xdp/eth0" or "probe/exec".
func (t Target) String() string {
	if t.Probe != "" {
		return "probe/" + t.Probe
	}
	return t.Hook.String()
}

// Interface is a network interface of a namespace.
type Interface struct {
	Name  string
	Index int
}

// Attached is what the kernel has at one target, read back and never
// remembered.
type Attached struct {
	Target Target
	// ID is that of the chain that runs, from the program's name. It is ""
	// when nothing runs: no link, or one whose interface is gone or is not the
	// one the hook names now. Pins may be left then.
	ID        string
	Mode      l3af.Mode // XDP: what it runs as
	ProgramID uint32
	LinkID    uint32
	Segments  int // hooks: how many programs the chain is, one after another
	// Err is why nothing above is known.
	Err error
}

// Load is what is wanted at one target.
type Load struct {
	Target   Target
	Mode     l3af.Mode // XDP only; "" means auto
	Chain    *chain.Chain
	Contents []Contents
	Pins     Pins
	// Reset names the members whose maps start anew when their shape is not
	// that of what is pinned; the others' are refused.
	Reset []string
	// Renew are paths outside where objects pin a map by its name that is to
	// start anew for all who share it: the first has its new one there.
	Renew []string
}

// Pins are the directories of bpffs where the maps of programs are pinned as
// well, each by its name, by program.
type Pins map[string]string

// ErrTaken says that another target has another map pinned where one is to be
// found as well. It may be about to leave.
var ErrTaken = errors.New("there is another map")

// Contents is what the document wants in one map.
type Contents struct {
	Member   string
	Instance string // that Map is shared in; "": Member's alone
	Map      string
	// Full: the map holds Entries and nothing else but Present (an array: zero
	// elsewhere). Otherwise only Patches and Present are wanted.
	Full    bool
	Entries []Entry
	Patches []Patch
	// Present are keys that have an entry, whatever it holds: it is made, all
	// zero, where there is none.
	Present [][]byte
	// Default: Entries are the package's, the document is silent.
	Default bool
}

// Entry is one wanted entry, in the kernel's layout. Values of a per-CPU map
// hold one value for each possible CPU, or a single one that is wanted on all.
type Entry struct {
	Key    []byte
	Values [][]byte
}

// MapKey names one entry of a target's maps.
type MapKey struct {
	Member, Instance, Map string // as in [Contents]
	Key                   []byte
}

// Patch is wanted bytes in the value of a data section (.data, .bss).
type Patch struct {
	Offset   int
	Data     []byte
	Variable string
	Default  bool // as Contents.Default
}

// Prepared is a load whose maps are open and whose program is verified. Nobody
// sees anything of it until it is attached.
type Prepared interface {
	// Attach makes the target run it, once. The error is [ErrStale] when what it
	// was prepared for has changed; nothing has happened then.
	Attach(ctx context.Context) (Result, error)
	Close()
}

// ErrStale says that maps were pinned or unpinned since a load was prepared
// that it was to adopt or to make.
var ErrStale = errors.New("other maps are pinned now than when the chain was prepared")

// Result says what an attach became.
type Result struct {
	Mode l3af.Mode // XDP: native, generic or offload
	Note string    // why auto did not become native
	// Chain is the chain as the kernel took it, where that is not Load.Chain:
	// the same programs, linked otherwise to keep within the verifier's limits.
	Chain *chain.Chain
}

// Counts is what one chain counted since it was first attached to its target.
type Counts struct {
	ID       string // of the chain
	MapID    uint32 // of the counter map: never used again before the next boot
	Programs []chain.Count
}

// ModeError says that XDP could not change its mode. What ran runs again as
// it did, but it was detached for the try, and packets passed unseen.
type ModeError struct{ Err error }

func (e *ModeError) Error() string { return e.Err.Error() }
func (e *ModeError) Unwrap() error { return e.Err }
