// Package configs speaks L3AF 2's language: the payloads of its API under
// /l3af/configs, and what they mean in the state of a node. Every call is an
// edit of that one state; what has no meaning here is kept in annotations, so
// that it comes back as it was sent.
package configs

// Interface is what one interface shall run: L3afBPFPrograms upstream.
type Interface struct {
	HostName    string    `json:"host_name"`
	Iface       string    `json:"iface"`
	IPv4Address string    `json:"ipv4_address"` // only a label of metrics
	Programs    *Programs `json:"bpf_programs"`
}

// Programs are the programs by direction. A list that is nil was not there.
type Programs struct {
	XDPIngress []Program `json:"xdp_ingress"`
	TCIngress  []Program `json:"tc_ingress"`
	TCEgress   []Program `json:"tc_egress"`
	Probes     []Program `json:"probes"` // of the whole host
}

// Program is one program: BPFProgram upstream, with its fields in their order.
type Program struct {
	ID                int               `json:"id" description:"Nothing uses it."`
	Name              string            `json:"name" description:"The package, and who the program is in its interface and direction."`
	SeqID             int               `json:"seq_id" description:"Its place in the chain, ascending."`
	Artifact          string            `json:"artifact" description:"The file of the package, .tar.gz or .zip."`
	MapName           string            `json:"map_name" description:"The program's own array by which it calls the next one; here the next one simply follows."`
	CmdStart          string            `json:"cmd_start" description:"A file of the package that runs before the program joins the chain."`
	CmdStop           string            `json:"cmd_stop" description:"A file of the package that runs when the program of a daemon leaves."`
	CmdStatus         string            `json:"cmd_status" description:"A file of the package that prints RUNNING as long as the daemon is well."`
	CmdConfig         string            `json:"cmd_config" description:"Nothing uses it."`
	CmdUpdate         string            `json:"cmd_update" description:"A file of the package that runs when update_args change."`
	Version           string            `json:"version"`
	UserProgramDaemon bool              `json:"user_program_daemon" description:"cmd_start keeps running, and is kept running."`
	IsPlugin          bool              `json:"is_plugin" description:"Nothing uses it."`
	CPU               int               `json:"cpu" description:"CPU time a daemon may take, in seconds; 0: no limit."`
	Memory            int               `json:"memory" description:"Address space of a daemon, in bytes; 0: no limit."`
	AdminStatus       string            `json:"admin_status" enum:"enabled,disabled," description:"disabled: it stays configured and does not run."`
	ProgType          string            `json:"prog_type"`
	RulesFile         string            `json:"rules_file" description:"The name of the file that rules are written to."`
	Rules             string            `json:"rules"`
	ConfigFilePath    string            `json:"config_file_path" description:"Nothing uses it."`
	CfgVersion        int               `json:"cfg_version" description:"Nothing uses it."`
	StartArgs         map[string]string `json:"start_args"`
	StopArgs          map[string]string `json:"stop_args"`
	StatusArgs        map[string]string `json:"status_args"`
	UpdateArgs        map[string]string `json:"update_args"`
	MapArgs           []MapArg          `json:"map_args" description:"The whole content of maps."`
	ConfigArgs        map[string]string `json:"config_args" description:"Nothing uses it."`
	MonitorMaps       []MonitorMap      `json:"monitor_maps" description:"Entries of maps that become metrics."`
	RepoURL           string            `json:"ebpf_package_repo_url" description:"Where the package comes from, if not from the configured repository."`
	ObjectFile        string            `json:"object_file" description:"The ELF file in the package."`
	EntryFunctionName string            `json:"entry_function_name" description:"The program in it."`
}

// MapArg is the whole content of one map.
type MapArg struct {
	Name string     `json:"name"`
	Args []KeyValue `json:"args"`
}

// KeyValue is one entry.
type KeyValue struct {
	Key   int64 `json:"key"`
	Value int64 `json:"value"`
}

// MonitorMap is one entry of a map that is a metric.
type MonitorMap struct {
	Name       string `json:"name"`
	Key        int64  `json:"key"`
	Aggregator string `json:"aggregator"`
}

// InterfaceNames says what is to be deleted: L3afBPFProgramNames upstream.
type InterfaceNames struct {
	HostName    string `json:"host_name"`
	Iface       string `json:"iface"`
	IPv4Address string `json:"ipv4_address"`
	Programs    *Names `json:"bpf_programs"`
}

// Names are names of programs by direction.
type Names struct {
	XDPIngress []string `json:"xdp_ingress"`
	TCIngress  []string `json:"tc_ingress"`
	TCEgress   []string `json:"tc_egress"`
	Probes     []string `json:"probes"`
}

// Restart asks for another version of the daemon: RestartConfig upstream.
type Restart struct {
	HostName string `json:"hostname"`
	Version  string `json:"version"` // v2.1.0
}
