package l3af

// State is all that one node should run: the document of `l3af apply`.
type State struct {
	APIVersion string  `json:"apiVersion"`
	Chains     []Chain `json:"chains,omitempty"`
	Probes     []Probe `json:"probes,omitempty"`
}

// Chain is the ordered programs of one hook, or of the same hook on every
// interface that a glob matches.
type Chain struct {
	Interface string    `json:"interface"` // name or glob (path.Match)
	Netns     string    `json:"netns,omitempty"`
	Hook      HookKind  `json:"hook"`
	Mode      Mode      `json:"mode,omitempty"` // XDP only; "" means auto
	Programs  []Program `json:"programs"`
	// Annotations are for whoever wrote the document. They change nothing.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Program is one program of a chain.
type Program struct {
	Name    string    `json:"name"`             // unique in its chain
	Package string    `json:"package"`          // builtin:NAME, or a path
	Object  string    `json:"object,omitempty"` // path inside the package; needed when entry alone is not clear
	Entry   string    `json:"entry,omitempty"`
	Proceed []Verdict `json:"proceed,omitempty"` // empty: the package's, else the hook's default
	// Next names the program's own array of one program, by which a program
	// written for L3AF calls the next one. Here the next one is simply the next.
	Next string `json:"next,omitempty"`
	Settings
}

// Probe is one program bound to a kernel event.
type Probe struct {
	Name    string `json:"name"` // unique among probes
	Package string `json:"package"`
	Object  string `json:"object,omitempty"` // as in a program
	Entry   string `json:"entry,omitempty"`
	Attach  string `json:"attach,omitempty"` // as [NormalAttach] takes it; "": as the ELF section says
	Settings
}

// Settings are what programs and probes have in common: first of all, globals
// and map contents as people write them.
// Values are what encoding/json gives with UseNumber: nil, bool, string,
// json.Number, []any, map[string]any. BTF gives them their type.
type Settings struct {
	Config map[string]any        `json:"config,omitempty"`
	Maps   map[string][]MapEntry `json:"maps,omitempty"` // the full wanted content of each named map
	// OnMapChange is what happens to maps whose shape is another one in a new
	// version of the package; "": refuse.
	OnMapChange MapChange `json:"onMapChange,omitempty"`
	// Instance names an instance of the package: the programs and probes that
	// name the same one use the same maps. "": the maps are the program's own.
	Instance string `json:"instance,omitempty"`
	// Disabled: the program is in the document and does not run.
	Disabled bool `json:"disabled,omitempty"`
	// PinPath is an absolute path below which the maps of the program's object
	// are found as well, each by its name, for processes that expect them there.
	// It is a directory of bpffs that several programs may name.
	PinPath string    `json:"pinPath,omitempty"`
	Monitor []Monitor `json:"monitor,omitempty"`
	Agent   *Agent    `json:"agent,omitempty"`
	// Annotations are for whoever wrote the document. They change nothing.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Monitor is entries of a map whose values are metrics, each by itself. They
// are made, with the value 0, where the map has no such entry. Values of up to
// 8 bytes are integers.
type Monitor struct {
	Map string `json:"map"`
	// Key is as in [MapEntry]. Integer keys may be several: a range such as
	// "0-15", both ends included, or a list of keys and ranges.
	Key        any        `json:"key"`
	Aggregator Aggregator `json:"aggregator,omitempty"` // "": scalar
}

// Aggregator says which number is made of an entry that is looked at once a
// second. Values of a per-CPU map are added up first.
type Aggregator string

const (
	Scalar  Aggregator = "scalar"   // what it holds
	MaxRate Aggregator = "max-rate" // the largest change in a second of the last samples
	Average Aggregator = "avg"      // the average of the last samples
)

// Agent is the userspace half of a program: files of its package that the
// daemon runs, as root, in the package's directory. Of each command the first
// word is a path inside the package, the others are its arguments.
type Agent struct {
	// Start runs once the program's maps are there, before it joins the chain. A
	// daemon is kept running; anything else must end with status 0 for the
	// program to join.
	Start []string `json:"start,omitempty"`
	// Stop runs when the program leaves, before a daemon gets SIGTERM, and SIGKILL at last.
	Stop []string `json:"stop,omitempty"`
	// Status runs from time to time. Unless it prints RUNNING, a daemon is started anew.
	Status []string `json:"status,omitempty"`
	// Update runs after Start, and again whenever it changes.
	Update []string `json:"update,omitempty"`
	Daemon bool     `json:"daemon,omitempty"` // Start keeps running
	CPU    int      `json:"cpu,omitempty"`    // CPU time a daemon may take, in seconds (RLIMIT_CPU); 0: no limit
	Memory int64    `json:"memory,omitempty"` // address space of a daemon, in bytes (RLIMIT_AS); 0: no limit
	// Files are written, text by path inside the package, before Start.
	Files map[string]string `json:"files,omitempty"`
}

// MapChange says what becomes of a map whose type, sizes, flags or layout of
// key or value change.
type MapChange string

const (
	RefuseMapChange MapChange = "refuse" // the change of the program is refused, and what ran runs on
	ResetMapChange  MapChange = "reset"  // the map starts anew
)

// MapEntry is one wanted entry of a map.
type MapEntry struct {
	Key   any `json:"key"`
	Value any `json:"value"`
}
