package configs

import (
	"encoding/json"
	"maps"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"l3af"
)

// All is what a state says of every interface that has programs of L3AF's, in
// order of their names. The host's probes are listed with each, as upstream
// does.
func All(s *l3af.State, host string) []Interface {
	names := []string{}
	for _, c := range s.Chains {
		if c.Netns == "" && slices.ContainsFunc(c.Programs, func(p l3af.Program) bool { return isOurs(p.Settings) }) {
			names = append(names, c.Interface)
		}
	}
	for _, p := range s.Probes {
		if isOurs(p.Settings) && p.Annotations[keyIface] != "" {
			names = append(names, p.Annotations[keyIface])
		}
	}
	slices.Sort(names)
	list := []Interface{}
	for _, name := range slices.Compact(names) {
		list = append(list, One(s, host, name))
	}
	return list
}

// One is what a state says of one interface.
func One(s *l3af.State, host, iface string) Interface {
	in := Interface{HostName: host, Iface: iface, Programs: &Programs{}}
	add := func(d direction, p Program, set l3af.Settings) {
		list := in.Programs.list(d)
		*list = append(*list, p)
		if ip := set.Annotations[keyIPv4]; ip != "" && (d.kind != "" || set.Annotations[keyIface] == iface) {
			in.IPv4Address = ip
		}
	}
	for _, c := range s.Chains {
		if c.Interface != iface || c.Netns != "" {
			continue
		}
		d := directionOf(c.Hook)
		for _, p := range c.Programs {
			if sent, ok := sentAs(p.Settings); ok {
				add(d, current(sent, p), p.Settings)
			}
		}
		inOrder(*in.Programs.list(d))
	}
	for _, p := range s.Probes {
		if sent, ok := sentAs(p.Settings); ok {
			add(directionOf(""), current(sent, l3af.Program{Name: p.Name, Package: p.Package, Object: p.Object, Entry: p.Entry, Settings: p.Settings}), p.Settings)
		}
	}
	return in
}

// inOrder numbers programs anew where somebody has brought them into another
// order since they were sent.
func inOrder(list []Program) {
	if !slices.IsSortedFunc(list, func(a, b Program) int { return a.SeqID - b.SeqID }) {
		for i := range list {
			list[i].SeqID = i + 1
		}
	}
}

// current is a program as it was sent, and where the state says otherwise now,
// because it was changed on another way, as the state says.
func current(p Program, now l3af.Program) Program {
	p.Name = now.Name
	if now.Object != path.Clean(p.ObjectFile) {
		p.ObjectFile = now.Object
	}
	p.EntryFunctionName = now.Entry
	if now.Next != "" {
		p.MapName = now.Next
	}
	if now.Disabled != strings.EqualFold(p.AdminStatus, "disabled") {
		p.AdminStatus = "enabled"
		if now.Disabled {
			p.AdminStatus = "disabled"
		}
	}
	if want := mapsOf(p.MapArgs); !reflect.DeepEqual(want, now.Maps) {
		p.MapArgs = sentMaps(now.Maps)
	}
	if want := monitorOf(p.MonitorMaps); !reflect.DeepEqual(want, now.Monitor) {
		p.MonitorMaps = nil
		for _, m := range now.Monitor {
			if key, ok := whole(m.Key); ok {
				p.MonitorMaps = append(p.MonitorMaps, MonitorMap{m.Map, key, string(m.Aggregator)})
			}
		}
	}
	// The end of a reference to a repository: /NAME/VERSION/CODENAME/FILE.
	if parts := strings.Split(now.Package, "/"); len(parts) > 4 {
		repo := strings.Join(parts[:len(parts)-4], "/")
		if version := parts[len(parts)-3]; version != p.Version || parts[len(parts)-1] != p.Artifact {
			p.Version, p.Artifact = version, parts[len(parts)-1]
			if p.RepoURL != "" {
				p.RepoURL = repo
			}
		}
	}
	a := now.Agent
	if a == nil {
		a = new(l3af.Agent)
	}
	if now.Agent != nil || now.PinPath != "" { // not a probe, whose agent has no meaning
		sentCommand(&p.CmdStart, &p.StartArgs, a.Start)
		p.UserProgramDaemon = a.Daemon || p.UserProgramDaemon && len(a.Start) == 0
	}
	if a.Daemon {
		sentCommand(&p.CmdStop, &p.StopArgs, a.Stop)
		sentCommand(&p.CmdStatus, &p.StatusArgs, a.Status)
	}
	if len(a.Update) > 0 {
		sentCommand(&p.CmdUpdate, &p.UpdateArgs, a.Update)
	}
	return p
}

// ownArgs are the arguments that agents are given besides those of payloads.
var ownArgs = []string{"iface", "direction", "version", "log-dir", "rules-file", "cmd"}

// sentCommand is a command as it was sent, unless the state has another one.
func sentCommand(file *string, args *map[string]string, now []string) {
	if len(now) == 0 {
		*file = ""
		return
	}
	if now[0] != command(*file)[0] {
		*file = now[0]
	}
	has := map[string]string{}
	for _, w := range now[1:] {
		if k, v, ok := strings.Cut(strings.TrimPrefix(w, "--"), "="); ok && !slices.Contains(ownArgs, k) {
			has[k] = v
		}
	}
	said := maps.Clone(*args)
	maps.DeleteFunc(said, func(k, _ string) bool { return slices.Contains(ownArgs, k) })
	if !maps.Equal(said, has) {
		*args = has
	}
}

// sentMaps are the maps whose content L3AF's API can say: whole numbers.
func sentMaps(contents map[string][]l3af.MapEntry) []MapArg {
	var all []MapArg
	for name, entries := range contents {
		m := MapArg{Name: name, Args: []KeyValue{}}
		for _, e := range entries {
			key, ok := whole(e.Key)
			value, too := whole(e.Value)
			if ok && too {
				m.Args = append(m.Args, KeyValue{key, value})
			}
		}
		if len(m.Args) == len(entries) {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b MapArg) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func whole(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseInt(string(n), 10, 64)
	return i, err == nil
}
