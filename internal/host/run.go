package host

import (
	"iter"
	"time"

	"l3af"
	"l3af/internal/chain"
)

// Run is packets for a copy of a chain.
type Run struct {
	// Packets come from the link-layer header on. An error ends the run.
	Packets iter.Seq2[[]byte, error]
	// Each is told what the chain did with each packet, in their order. An error
	// ends the run.
	Each func(packet []byte, ran RanPacket) error
	// LiveMaps: the copy's maps start with what the target's maps hold now,
	// but for what the load's contents say.
	LiveMaps bool
}

// Ran is what a copy of a chain did.
type Ran struct {
	Counts []chain.Count // of all the packets together
	Notes  []string      // what differs from a run at the target
}

// RanPacket is what a copy of a chain did with one packet.
type RanPacket struct {
	Code    int32  // the verdict
	Program int    // whose verdict it is: an index into Chain.Programs
	Data    []byte // as it left the chain
	Err     error  // why it could not be run; nothing else is known then
}

// Cost is what a chain takes.
type Cost struct {
	Chain        *chain.Chain // as the kernel took it: composed anew where a limit of the verifier demands it
	Instructions int          // in units of 8 bytes, as they are given to the kernel
	Maps         int          // read-only data and counters included
	Stack        []int        // the depth of each function with a frame of its own, in bytes
	Verified     int          // instructions the verifier looked at, on all paths
	VerifyTime   time.Duration
	LoadTime     time.Duration // from the maps to machine code
	Jited        int           // bytes of machine code
}

// Jited is the machine code of a function in the kernel.
type Jited struct {
	Name    string
	Segment int // from 1
	Size    int
	Code    []byte // nil where the kernel does not give it

	Instructions []l3af.MachineInstruction
}
