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
}

// Program is one program of a chain.
type Program struct {
	Name    string    `json:"name"`    // unique in its chain
	Package string    `json:"package"` // builtin:NAME, or a path
	Entry   string    `json:"entry,omitempty"`
	Proceed []Verdict `json:"proceed,omitempty"` // empty: the package's, else the hook's default
	Settings
}

// Probe is one program bound to a kernel event.
type Probe struct {
	Name    string `json:"name"` // unique among probes
	Package string `json:"package"`
	Entry   string `json:"entry,omitempty"`
	Attach  string `json:"attach,omitempty"` // tracepoint/GROUP/NAME or raw_tracepoint/NAME; "": as the ELF section says
	Settings
}

// Settings are a program's globals and map contents as people write them.
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
