package l3af

import "iter"

// RunRequest asks what a chain does with packets.
type RunRequest struct {
	// Packets are frames from their link-layer header on.
	Packets [][]byte `json:"packets"`
	// Stream, when set, gives the packets in place of Packets, and Each is told
	// what became of each, in their order and soon after: however many there are,
	// few are in memory. An error of either ends the run. Stream is called on
	// another goroutine than Each.
	Stream iter.Seq2[[]byte, error] `json:"-"`
	Each   func(PacketRun) error    `json:"-"`
	// State, when set, is the document whose chain of the hook is run, in place
	// of the one in force.
	State *State `json:"state,omitempty"`
	// LiveMaps fills the copy's maps with what the hook's maps hold now.
	// Otherwise they hold what the document gives, and their first contents.
	LiveMaps bool `json:"live_maps,omitempty"`
}

// ChainRun is what a copy of a chain did with packets.
type ChainRun struct {
	Interface string          `json:"interface"`
	Netns     string          `json:"netns,omitempty"`
	Hook      HookKind        `json:"hook"`
	ID        string          `json:"id"`                // of the chain that was copied
	Running   string          `json:"running,omitempty"` // of the chain that the hook runs
	Packets   []PacketRun     `json:"packets"`           // in the order they were given; none when they were streamed
	Programs  []ProgramStatus `json:"programs"`          // what all the packets together were counted as
	Notes     []string        `json:"notes,omitempty"`   // what differs from a run at the hook
}

// PacketRun is what a chain did with one packet.
type PacketRun struct {
	Verdict Verdict `json:"verdict,omitempty"` // "" when it could not be run
	Code    int32   `json:"code"`              // the verdict as the kernel knows it
	Program string  `json:"program,omitempty"` // whose verdict it is
	Error   string  `json:"error,omitempty"`   // why it could not be run
	Length  int     `json:"length"`            // in bytes, as it left the chain
	// Data is the packet as it left the chain; none when it was not changed.
	Data []byte `json:"data,omitempty"`
}

// ChainPlan explains how a chain came about, and what it costs.
type ChainPlan struct {
	Interface string   `json:"interface"`
	Netns     string   `json:"netns,omitempty"`
	Hook      HookKind `json:"hook"`
	ID        string   `json:"id"`
	Running   string   `json:"running,omitempty"` // the chain that the hook runs
	Segments  int      `json:"segments"`
	// Cost is that of all segments together.
	Cost     Cost          `json:"cost"`
	Programs []ProgramPlan `json:"programs"`
}

// ProgramPlan explains one program of a chain.
type ProgramPlan struct {
	Name    string    `json:"name"`
	Package string    `json:"package"`
	Entry   string    `json:"entry"` // its function in the object
	Proceed []Verdict `json:"proceed"`
	Linkage string    `json:"linkage"`
	Segment int       `json:"segment,omitempty"` // from 1
	Why     string    `json:"why,omitempty"`     // why it is not inlined
	Maps    []MapPlan `json:"maps"`
	// Priority is where a program written for libxdp asks to run: before those
	// of higher numbers. The document's order holds. nil: it does not ask.
	Priority *int `json:"priority,omitempty"`
	// Cost is what the program costs alone: in a chain of its own.
	Cost Cost `json:"cost"`
}

// MapPlan is one map of a program.
type MapPlan struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	KeySize    uint32 `json:"key_size"` // bytes
	ValueSize  uint32 `json:"value_size"`
	MaxEntries uint32 `json:"max_entries"`
	Pinned     bool   `json:"pinned"` // it outlives the program; otherwise it is read-only data
}

// Cost is what a program takes, as the kernel's verifier says it.
type Cost struct {
	Instructions int `json:"instructions"` // of the program as it is loaded, in units of 8 bytes
	Maps         int `json:"maps"`         // read-only data included
	// Stack is the depth of each function that has a frame, in bytes.
	Stack      []int  `json:"stack"`
	Verified   int    `json:"verified"`        // instructions the verifier looked at, on all paths
	VerifyTime int64  `json:"verify_us"`       // microseconds in the verifier
	LoadTime   int64  `json:"load_us"`         // microseconds from maps to machine code
	Jited      int    `json:"jited,omitempty"` // bytes of machine code
	Error      string `json:"error,omitempty"` // why the kernel refuses it
}

// ChainCode is the code of a chain.
type ChainCode struct {
	Interface string         `json:"interface"`
	Netns     string         `json:"netns,omitempty"`
	Hook      HookKind       `json:"hook"`
	ID        string         `json:"id"`
	Running   string         `json:"running,omitempty"` // the chain that the hook runs
	Functions []FunctionCode `json:"functions"`
	Jited     []JitedCode    `json:"jited,omitempty"` // when asked for
}

// FunctionCode is one function of a chain, as it is given to the kernel.
type FunctionCode struct {
	Name         string            `json:"name"`
	Segment      int               `json:"segment"` // from 1
	Instructions []InstructionCode `json:"instructions"`
}

// InstructionCode is one instruction.
type InstructionCode struct {
	Offset  int    `json:"offset"` // in its function, in units of 8 bytes
	Text    string `json:"text"`
	Program string `json:"program,omitempty"` // whose it is; "" for what joins the programs
	Source  string `json:"source,omitempty"`  // the line that it begins
}

// JitedCode is the machine code of one function.
type JitedCode struct {
	Name    string `json:"name"`
	Segment int    `json:"segment"`
	Size    int    `json:"size"` // bytes
	Code    []byte `json:"code,omitempty"`
	// Instructions is Code in the assembly language of the node's machine; none where
	// that cannot be read.
	Instructions []MachineInstruction `json:"instructions,omitempty"`
}

// MachineInstruction is one instruction of machine code.
type MachineInstruction struct {
	Offset  int    `json:"offset"` // in its function, in bytes
	Text    string `json:"text"`
	Program string `json:"program,omitempty"` // whose it is; "" for what joins the programs
	Source  string `json:"source,omitempty"`  // the line that it begins
}
