package l3af

import "time"

// Revision is one applied state.
type Revision struct {
	Number int       `json:"revision"`
	Time   time.Time `json:"time"`
	By     string    `json:"by"` // who applied it: a user's name and uid
	State  State     `json:"state"`
	// Packages is the digest (sha256, hex) of the bytes each package
	// reference stood for when the state was applied.
	Packages map[string]string `json:"packages,omitempty"`
}

// The states of a chain or probe.
const (
	Running = "running"
	Waiting = "waiting" // no such interface or network namespace yet, or Error says why
	Failed  = "failed"  // Error says why; what ran before runs on
	// Disabled: the document says that it does not run; of a chain, that none
	// of its programs does.
	Disabled = "disabled"
)

// Status is what a node runs, read back from the kernel.
type Status struct {
	Revision int           `json:"revision"`
	Chains   []ChainStatus `json:"chains"`
	Probes   []ProbeStatus `json:"probes"`
	Errors   []string      `json:"errors"` // what concerns the node, not one chain
}

// ChainStatus is one hook. For a glob that matches nothing, Interface is the
// glob and State is waiting.
type ChainStatus struct {
	Interface string          `json:"interface"`
	Netns     string          `json:"netns,omitempty"`
	Hook      HookKind        `json:"hook"`
	Mode      Mode            `json:"mode,omitempty"`      // XDP: what it runs as, read back
	ModeNote  string          `json:"mode_note,omitempty"` // why auto did not become native
	State     string          `json:"state"`
	Error     string          `json:"error,omitempty"`      // the whole trail, verifier log included
	ID        string          `json:"id,omitempty"`         // of the chain that runs now
	ProgramID uint32          `json:"program_id,omitempty"` // kernel ids
	LinkID    uint32          `json:"link_id,omitempty"`
	Segments  int             `json:"segments,omitempty"`
	Programs  []ProgramStatus `json:"programs"`
}

// ProgramStatus is one program of a chain. Counts only ever grow while the
// program stays in the chain, whatever else of the chain changes.
type ProgramStatus struct {
	Name     string             `json:"name"`
	Package  string             `json:"package,omitempty"`
	State    string             `json:"state,omitempty"`   // disabled; "" for a program that its chain runs
	Linkage  string             `json:"linkage,omitempty"` // inlined or called
	Why      string             `json:"why,omitempty"`     // why it is not inlined
	Segment  int                `json:"segment,omitempty"` // which of the chain's segments it is in, from 1, where there are several
	Packets  uint64             `json:"packets"`           // how often it ran
	Verdicts map[Verdict]uint64 `json:"verdicts"`          // its return codes by name; none is 0
	Proceed  []Verdict          `json:"proceed,omitempty"` // after which the next program runs
	Maps     []string           `json:"maps,omitempty"`    // those of its maps that outlive it
	Agent    *AgentStatus       `json:"agent,omitempty"`
	Monitor  []MonitorStatus    `json:"monitor,omitempty"` // in the document's order
}

// MonitorStatus is the value of one entry that a document's monitor names.
// Entries are looked at once a second; until it was first seen there is none.
type MonitorStatus struct {
	Map string `json:"map"`
	// Key is as the document writes it, text without quotes; each key of a range
	// or list is in decimal.
	Key        string     `json:"key"`
	Aggregator Aggregator `json:"aggregator"`
	Value      float64    `json:"value"`
}

// AgentStatus is the userspace half of a program.
type AgentStatus struct {
	// State is starting, updating, running, done (it has ended with status 0, as
	// it should), restarting (after a pause), stopping or failed.
	State    string `json:"state"`
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`        // of a daemon that ended by itself
	Error    string `json:"error,omitempty"` // why it ended last, or does not start
	// What it and all that it made have used; 0 where the kernel does not tell.
	CPUSeconds float64 `json:"cpu_seconds,omitempty"`
	Memory     int64   `json:"memory,omitempty"` // bytes, now
}

// ProbeStatus is one probe.
type ProbeStatus struct {
	Name      string          `json:"name"`
	Attach    string          `json:"attach,omitempty"`
	State     string          `json:"state"`
	Error     string          `json:"error,omitempty"`
	ID        string          `json:"id,omitempty"`
	ProgramID uint32          `json:"program_id,omitempty"`
	LinkID    uint32          `json:"link_id,omitempty"`
	Agent     *AgentStatus    `json:"agent,omitempty"`
	Monitor   []MonitorStatus `json:"monitor,omitempty"`
}

// Step is one change that takes the machine nearer to its state.
type Step struct {
	Verb   string `json:"verb"`           // attach, replace, detach, write
	Target string `json:"target"`         // xdp/eth0, or probe/exec
	From   string `json:"from,omitempty"` // chain IDs
	To     string `json:"to,omitempty"`
	Error  string `json:"error,omitempty"`
	// Unstarted says that the daemon ended while its agents were being started: the
	// next one goes on with that.
	Unstarted bool `json:"unstarted,omitempty"`
}

// Applied is the answer to an apply, a rollback or a plan.
type Applied struct {
	Revision int    `json:"revision"` // the revision now in force
	Changed  bool   `json:"changed"`  // false: the state was already this
	Steps    []Step `json:"steps"`
	// Failed names the hooks and probes that do not run as wanted.
	Failed []Step `json:"failed,omitempty"`
	// Tried are the chains of a plan that the kernel was asked to take: those
	// that are not in Failed it takes.
	Tried []Tried `json:"tried,omitempty"`
	// Agents are those that a plan would start, change or stop.
	Agents []AgentStep `json:"agents,omitempty"`
}

// AgentStep is what would become of the agent of a program.
type AgentStep struct {
	// Verb is start, stop, update, or restart: it gives way to another, or its
	// program has other maps than it found.
	Verb    string `json:"verb"`
	Target  string `json:"target"`
	Program string `json:"program"`
}

// Tried is a chain that was loaded for a try.
type Tried struct {
	Target   string         `json:"target"`
	ID       string         `json:"id"`
	Programs []TriedProgram `json:"programs"` // in order
}

// TriedProgram is one program of it.
type TriedProgram struct {
	Name    string `json:"name"`
	Package string `json:"package"`
	Linkage string `json:"linkage,omitempty"`
}

// Event is one thing that happened on the node. ID tells it from all others of
// the node, also of other runs of the daemon.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"` // applied, step, failed, interface, agent, log
	Target   string    `json:"target,omitempty"`
	Message  string    `json:"message"`
	Revision int       `json:"revision,omitempty"`
	ID       string    `json:"id"`
}
