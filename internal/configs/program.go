package configs

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/bind"
)

// direction is where a list of programs runs.
type direction struct {
	name string        // in payloads
	arg  string        // as agents are told, and in metrics
	kind l3af.HookKind // "" for probes
}

var (
	directions     = []direction{{"xdp_ingress", "xdpingress", l3af.XDP}, {"tc_ingress", "ingress", l3af.TCIngress}, {"tc_egress", "egress", l3af.TCEgress}, {"probes", "", ""}}
	directionNames = []string{"xdp_ingress", "tc_ingress", "tc_egress", "probes"}
)

// directionOf is the direction of a chain's programs.
func directionOf(kind l3af.HookKind) direction {
	return directions[slices.IndexFunc(directions, func(d direction) bool { return d.kind == kind })]
}

func (p *Programs) list(d direction) *[]Program {
	return []*[]Program{&p.XDPIngress, &p.TCIngress, &p.TCEgress, &p.Probes}[slices.Index(directionNames, d.name)]
}

func (n *Names) list(d direction) []string {
	return [][]string{n.XDPIngress, n.TCIngress, n.TCEgress, n.Probes}[slices.Index(directionNames, d.name)]
}

// Host is the machine that payloads are for.
type Host struct {
	Name     string // what payloads must call it
	Repo     string // URL of the repository of packages
	Codename string // the directory of this distribution in it
	PinBase  string // bpffs below which agents look for maps
	LogDir   string // told to agents; "" for none
	// Interfaces are the machine's, with whether they are loopback ones.
	Interfaces func() (map[string]bool, error)
	// Look lists the programs of an object of a package. Unless fresh, a package
	// that the state names is what it was. errors.Is(err, fs.ErrNotExist): there
	// is none.
	Look func(ctx context.Context, ref, object string, fresh bool) ([]bind.Entry, error)
}

// wanted is a program of a payload in the words of the state.
type wanted struct {
	sent    Program
	path    string // in the payload
	program l3af.Program
	// probes are the object's other programs, which belong to it.
	probes []l3af.Probe
}

// translate says a program in the words of the state.
func (e *edit) translate(in Interface, d direction, p Program, at string) (_ *wanted, err error) {
	defer func() {
		if wrong := (*Error)(nil); errors.As(err, &wrong) {
			wrong.Program = &Placed{Label: p.Name, Version: p.Version, Direction: d.arg, Iface: in.Iface, IPv4: in.IPv4Address}
		}
	}()
	h, w := e.h, &wanted{sent: p, path: at}
	var wrong []l3af.Mistake
	check := func(bad bool, field, format string, args ...any) {
		if bad {
			wrong = append(wrong, l3af.Mistake{Path: at + "." + field, Message: fmt.Sprintf(format, args...)})
		}
	}
	check(p.Name == "", "name", "is required")
	check(p.Version == "", "version", "is required")
	check(p.Artifact == "", "artifact", "is required")
	check(p.SeqID < 0, "seq_id", "counts from 1")
	check(p.CPU < 0, "cpu", "must not be negative")
	check(p.Memory < 0, "memory", "must not be negative")
	check(!slices.Contains([]string{"", "enabled", "disabled"}, strings.ToLower(p.AdminStatus)), "admin_status", "must be enabled or disabled, not %.80q", p.AdminStatus)
	if kind, _, _ := strings.Cut(string(d.kind), "-"); kind != "" {
		check(p.ProgType != "" && !strings.EqualFold(p.ProgType, kind), "prog_type", "is %.80q in %s", p.ProgType, d.name)
	}
	check(p.ObjectFile == "", "object_file", "is required: programs that their own userspace binary loads (cmd_start alone) are not supported, because nobody could chain them "+
		"without a gap; name the ELF file of the package, and in entry_function_name the program in it")
	seen := map[string]bool{}
	for i, m := range p.MapArgs {
		check(m.Name == "", fmt.Sprintf("map_args[%d].name", i), "is required")
		check(seen[m.Name], fmt.Sprintf("map_args[%d].name", i), "the content of %.80q was given already", m.Name)
		seen[m.Name] = true
	}
	repo := p.RepoURL
	if repo == "" {
		repo = h.Repo
	}
	check(repo == "", "ebpf_package_repo_url", "is required, since no repository is configured (package-repo)")
	ref := ""
	if len(wrong) == 0 {
		var err error
		ref, err = artifact.RepositoryRef(repo, p.Name, p.Version, h.Codename, p.Artifact)
		check(err != nil, "artifact", "%v", err)
	}
	if len(wrong) > 0 {
		return nil, &Error{Reason: Invalid, Err: &l3af.InvalidError{Mistakes: wrong}}
	}
	if e.all {
		e.fresh[ref] = true
	}
	w.program = l3af.Program{
		Name: p.Name, Package: ref, Object: path.Clean(p.ObjectFile), Entry: p.EntryFunctionName,
		Settings: l3af.Settings{
			// What upstream does when the pinned maps do not fit.
			OnMapChange: l3af.ResetMapChange,
			Disabled:    strings.EqualFold(p.AdminStatus, "disabled"),
			Maps:        mapsOf(p.MapArgs),
			Monitor:     monitorOf(p.MonitorMaps),
			Annotations: annotate(p, in.IPv4Address),
		},
	}
	if d.kind == "" {
		return w, nil
	}
	w.program.Next = p.MapName
	w.program.PinPath = h.pinPath(in.Iface, d, p)
	w.program.Agent = h.agent(in.Iface, d, p)
	if names := strings.Join(ineffective(p), ", "); names != "" {
		why := ": they are for daemons (user_program_daemon)"
		if p.CmdStart == "" {
			why = " without a cmd_start"
		}
		e.note("%s: %s have no effect%s", at, names, why)
	}
	entries, err := h.Look(e.ctx, ref, w.program.Object, e.all)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Error{Reason: Unknown, Err: fmt.Errorf("failed to download and start eBPF program %s version %s iface %s direction %s with err %w", p.Name, p.Version, in.Iface, d.arg, err)}
	case err != nil:
		return nil, &Error{Reason: Unavailable, Err: fmt.Errorf("failed to download and start eBPF program %s version %s iface %s direction %s with err %w", p.Name, p.Version, in.Iface, d.arg, err)}
	}
	for _, entry := range entries {
		if entry.Event != "" && entry.Name != p.EntryFunctionName {
			// All maps of the object are theirs together. Those of one name in both
			// directions of tc are one already where the object pins them by name:
			// they have one directory.
			w.program.Instance = joined(p.Name, in.Iface, d.arg)
			w.probes = append(w.probes, w.companion(in.Iface, d, entry))
		}
	}
	return w, nil
}

// companion is a probe that the object of a program has besides it.
func (w *wanted) companion(iface string, d direction, e bind.Entry) l3af.Probe {
	p := w.program
	return l3af.Probe{
		Name: joined(w.sent.Name, iface, d.arg, e.Name), Package: p.Package, Object: p.Object, Entry: e.Name, Attach: e.Event,
		Settings: l3af.Settings{
			OnMapChange: p.OnMapChange, Instance: p.Instance, PinPath: p.PinPath, Disabled: p.Disabled,
			Annotations: map[string]string{keyOf: ownerOf(iface, d, p.Name)},
		},
	}
}

// pinPath is where upstream pins the maps of a program, and its agents open
// them. Names with dots, such as those of VLANs, bpffs does not take.
func (h *Host) pinPath(iface string, d direction, p Program) string {
	dir := []string{h.PinBase}
	if d.kind != l3af.XDP {
		dir = append(dir, "tc", "globals")
	}
	return path.Join(append(dir, underscored(iface), underscored(p.Name), underscored(p.Version))...)
}

// underscored is a name as bpffs takes it, and a version as agents are told it.
func underscored(name string) string { return strings.ReplaceAll(name, ".", "_") }

// agent is the userspace half of a program, with the arguments that upstream
// gives it; those that it writes "--k =v" are "--k=v". Order is by name.
func (h *Host) agent(iface string, d direction, p Program) *l3af.Agent {
	updates := p.CmdUpdate != "" && len(p.UpdateArgs) > 0
	if p.CmdStart == "" && !updates {
		return nil
	}
	a := &l3af.Agent{}
	about := []string{"--iface=" + iface, "--direction=" + d.arg}
	version := "--version=" + underscored(p.Version)
	logs := []string{}
	if h.LogDir != "" {
		logs = append(logs, "--log-dir="+h.LogDir)
	}
	if updates {
		a.Update = slices.Concat(command(p.CmdUpdate), about, []string{"--cmd=update", version}, logs, arguments(p.UpdateArgs))
	}
	if p.CmdStart == "" {
		return a
	}
	a.Daemon = p.UserProgramDaemon
	a.Start = slices.Concat(command(p.CmdStart), about, []string{version}, logs)
	if p.RulesFile != "" && p.Rules != "" {
		file := path.Join(d.arg, p.RulesFile)
		a.Files = map[string]string{file: p.Rules}
		a.Start = append(a.Start, "--rules-file="+file)
	}
	a.Start = append(a.Start, arguments(p.StartArgs)...)
	if a.Daemon {
		a.CPU, a.Memory = p.CPU, int64(p.Memory)
		if p.CmdStop != "" {
			a.Stop = slices.Concat(command(p.CmdStop), about, arguments(p.StopArgs))
		}
		if p.CmdStatus != "" {
			a.Status = slices.Concat(command(p.CmdStatus), arguments(p.StatusArgs))
		}
	}
	return a
}

// ineffective are the fields of a program that say something of an agent that it
// does not have.
func ineffective(p Program) (names []string) {
	for _, f := range []struct {
		name  string
		given bool
		start bool // it is for whatever is started; else for daemons
	}{
		{"start_args", len(p.StartArgs) > 0, true}, {"rules", p.RulesFile != "" && p.Rules != "", true}, {"user_program_daemon", p.UserProgramDaemon, true},
		{"cmd_stop", p.CmdStop != "", false}, {"cmd_status", p.CmdStatus != "", false}, {"cpu", p.CPU > 0, false}, {"memory", p.Memory > 0, false},
	} {
		if f.given && (p.CmdStart == "" || !f.start && !p.UserProgramDaemon) {
			names = append(names, f.name)
		}
	}
	return names
}

// command is a file of the package. What leads out of it is left as it is, for
// the state to refuse.
func command(file string) []string { return []string{strings.TrimPrefix(file, "./")} }

func arguments(args map[string]string) []string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(args)) {
		list = append(list, "--"+k+"="+args[k])
	}
	return list
}

func mapsOf(args []MapArg) map[string][]l3af.MapEntry {
	if len(args) == 0 {
		return nil
	}
	all := make(map[string][]l3af.MapEntry, len(args))
	for _, m := range args {
		entries := []l3af.MapEntry{}
		for _, kv := range m.Args {
			entries = append(entries, l3af.MapEntry{Key: number(kv.Key), Value: number(kv.Value)})
		}
		all[m.Name] = entries
	}
	return all
}

func monitorOf(list []MonitorMap) []l3af.Monitor {
	var all []l3af.Monitor
	for _, m := range list {
		all = append(all, l3af.Monitor{Map: m.Name, Key: number(m.Key), Aggregator: l3af.Aggregator(m.Aggregator)})
	}
	return all
}

func number(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

// joined makes one name, which a state takes, of several: what no name can
// have is replaced and what is too long is cut, and then a hash keeps it
// apart from others.
func joined(parts ...string) string {
	const longest = 63
	plain := strings.Join(parts, ".")
	name := strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)) {
			return r
		}
		return '_'
	}, plain)
	// Dots in the parts could make one name of two.
	if name == plain && len(name) <= longest && strings.Count(plain, ".") == len(parts)-1 {
		return name
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return fmt.Sprintf("%s-%x", name[:min(len(name), longest-9)], sum[:4])
}
