package configs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"l3af"
	"l3af/internal/doc"
	"l3af/internal/near"
)

// ReadInterfaces reads the body of update and add. Types are taken as strictly
// as upstream takes them, keys in any case; of a key that is unknown, which
// upstream passes over in silence, notes tell. The error is a [*Error] with
// every mistake.
func ReadInterfaces(body []byte) (list []Interface, notes []string, err error) {
	r, tree, err := open(body)
	if err != nil {
		return nil, nil, err
	}
	for i, e := range r.list("", tree) {
		list = append(list, r.iface(fmt.Sprintf("[%d]", i), e))
	}
	return list, r.notes, r.err()
}

// ReadNames reads the body of delete.
func ReadNames(body []byte) (list []InterfaceNames, notes []string, err error) {
	r, tree, err := open(body)
	if err != nil {
		return nil, nil, err
	}
	for i, e := range r.list("", tree) {
		o := r.object(fmt.Sprintf("[%d]", i), e, "host_name", "iface", "ipv4_address", "bpf_programs")
		in := InterfaceNames{HostName: o.text("host_name"), Iface: o.text("iface"), IPv4Address: o.text("ipv4_address")}
		if v := o.keys["bpf_programs"]; v != nil {
			p := r.object(o.path+".bpf_programs", v, directionNames...)
			in.Programs = &Names{p.texts("xdp_ingress"), p.texts("tc_ingress"), p.texts("tc_egress"), p.texts("probes")}
		}
		list = append(list, in)
	}
	return list, r.notes, r.err()
}

// ReadRestart reads the body of restart.
func ReadRestart(body []byte) (*Restart, []string, error) {
	r, tree, err := open(body)
	if err != nil {
		return nil, nil, err
	}
	o := r.object("", tree, "hostname", "version")
	return &Restart{HostName: o.text("hostname"), Version: o.text("version")}, r.notes, r.err()
}

// reader collects what is wrong with a payload.
type reader struct {
	mistakes []l3af.Mistake
	notes    []string
}

// most is how many mistakes and notes are worth reading.
const most = 50

// open takes JSON, as upstream does, and no YAML.
func open(body []byte) (*reader, any, error) {
	var raw json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, nil, malformed(err)
	}
	tree, err := doc.Parse(body)
	if err != nil {
		return nil, nil, malformed(err)
	}
	return new(reader), tree, nil
}

func malformed(err error) error {
	return &Error{Reason: Malformed, Err: fmt.Errorf("failed to unmarshal payload: %w", err)}
}

func (r *reader) fail(path, format string, args ...any) {
	if len(r.mistakes) < most {
		r.mistakes = append(r.mistakes, l3af.Mistake{Path: path, Message: fmt.Sprintf(format, args...)})
	}
}

func (r *reader) err() error {
	if len(r.mistakes) == 0 {
		return nil
	}
	return malformed(&l3af.InvalidError{Mistakes: r.mistakes})
}

func (r *reader) iface(path string, tree any) Interface {
	o := r.object(path, tree, "host_name", "iface", "ipv4_address", "bpf_programs")
	in := Interface{HostName: o.text("host_name"), Iface: o.text("iface"), IPv4Address: o.text("ipv4_address")}
	v := o.keys["bpf_programs"]
	if v == nil {
		return in
	}
	p := r.object(path+".bpf_programs", v, directionNames...)
	in.Programs = new(Programs)
	for _, d := range directions {
		if v := p.keys[d.name]; v != nil {
			list := []Program{}
			for i, e := range r.list(p.at(d.name), v) {
				list = append(list, r.program(fmt.Sprintf("%s[%d]", p.at(d.name), i), e))
			}
			*in.Programs.list(d) = list
		}
	}
	return in
}

// programKeys are the names of the fields of a [Program].
var programKeys = []string{"id", "name", "seq_id", "artifact", "map_name", "cmd_start", "cmd_stop", "cmd_status", "cmd_config", "cmd_update",
	"version", "user_program_daemon", "is_plugin", "cpu", "memory", "admin_status", "prog_type", "rules_file", "rules", "config_file_path",
	"cfg_version", "start_args", "stop_args", "status_args", "update_args", "map_args", "config_args", "monitor_maps", "ebpf_package_repo_url",
	"object_file", "entry_function_name"}

func (r *reader) program(path string, tree any) Program {
	o := r.object(path, tree, programKeys...)
	if tree == nil {
		r.fail(path, "must be a program, not null")
	}
	return Program{
		ID: int(o.number("id")), Name: o.text("name"), SeqID: int(o.number("seq_id")), Artifact: o.text("artifact"), MapName: o.text("map_name"),
		CmdStart: o.text("cmd_start"), CmdStop: o.text("cmd_stop"), CmdStatus: o.text("cmd_status"), CmdConfig: o.text("cmd_config"),
		CmdUpdate: o.text("cmd_update"), Version: o.text("version"), UserProgramDaemon: o.flag("user_program_daemon"), IsPlugin: o.flag("is_plugin"),
		CPU: int(o.number("cpu")), Memory: int(o.number("memory")), AdminStatus: o.text("admin_status"), ProgType: o.text("prog_type"),
		RulesFile: o.text("rules_file"), Rules: o.text("rules"), ConfigFilePath: o.text("config_file_path"), CfgVersion: int(o.number("cfg_version")),
		StartArgs: o.args("start_args"), StopArgs: o.args("stop_args"), StatusArgs: o.args("status_args"), UpdateArgs: o.args("update_args"),
		MapArgs: o.mapArgs("map_args"), ConfigArgs: o.args("config_args"), MonitorMaps: o.monitorMaps("monitor_maps"),
		RepoURL: o.text("ebpf_package_repo_url"), ObjectFile: o.text("object_file"), EntryFunctionName: o.text("entry_function_name"),
	}
}

// object is a JSON object whose keys have the spelling that is known.
type object struct {
	r    *reader
	path string
	keys map[string]any
}

// object reads null as an object without keys, as upstream does.
func (r *reader) object(path string, tree any, known ...string) *object {
	o := &object{r, path, map[string]any{}}
	keys, ok := tree.(map[string]any)
	if !ok && tree != nil {
		r.fail(path, "must be an object, not %s", kindOf(tree))
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		v := keys[k]
		i := slices.IndexFunc(known, func(n string) bool { return strings.EqualFold(n, k) })
		switch {
		case i < 0:
			r.unknown(o.at(k), k, known)
		default:
			if _, twice := o.keys[known[i]]; twice {
				r.fail(o.at(k), "is there twice, in other letters")
			}
			o.keys[known[i]] = v
		}
	}
	return o
}

func (r *reader) unknown(path, key string, known []string) {
	if len(r.notes) == most {
		return
	}
	note := fmt.Sprintf("%.120s is ignored: there is no such field", path)
	if hint := near.Hint(key, known); strings.HasPrefix(hint, "did you") {
		note += ", " + hint
	}
	r.notes = append(r.notes, note)
}

func (o *object) at(key string) string { return strings.TrimPrefix(o.path+"."+key, ".") }

func (r *reader) list(path string, tree any) []any {
	list, ok := tree.([]any)
	if !ok && tree != nil {
		r.fail(path, "must be a list, not %s", kindOf(tree))
	}
	return list
}

func (o *object) text(key string) string {
	s, ok := o.keys[key].(string)
	if !ok && o.keys[key] != nil {
		o.r.fail(o.at(key), "must be a string, not %s", kindOf(o.keys[key]))
	}
	return s
}

func (o *object) flag(key string) bool {
	b, ok := o.keys[key].(bool)
	if !ok && o.keys[key] != nil {
		o.r.fail(o.at(key), "must be true or false, not %s", kindOf(o.keys[key]))
	}
	return b
}

func (o *object) number(key string) int64 {
	n, ok := o.keys[key].(json.Number)
	if !ok && o.keys[key] == nil {
		return 0
	}
	i, err := strconv.ParseInt(string(n), 10, 64)
	if !ok || err != nil {
		o.r.fail(o.at(key), "must be a whole number, not %s", kindOf(o.keys[key]))
	}
	return i
}

func (o *object) texts(key string) []string {
	if o.keys[key] == nil {
		return nil
	}
	all := []string{}
	for i, e := range o.r.list(o.at(key), o.keys[key]) {
		s, ok := e.(string)
		if !ok {
			o.r.fail(fmt.Sprintf("%s[%d]", o.at(key), i), "must be a string, not %s", kindOf(e))
		}
		all = append(all, s)
	}
	return all
}

// args reads arguments of a command.
func (o *object) args(key string) map[string]string {
	v := o.keys[key]
	if v == nil {
		return nil
	}
	keys, ok := v.(map[string]any)
	if !ok {
		o.r.fail(o.at(key), "must be an object, not %s", kindOf(v))
	}
	all := make(map[string]string, len(keys))
	for k, v := range keys {
		if all[k], ok = v.(string); !ok {
			o.r.fail(o.at(key)+"."+k, "must be a string, not %s", kindOf(v))
		}
	}
	return all
}

func (o *object) mapArgs(key string) []MapArg {
	if o.keys[key] == nil {
		return nil
	}
	all := []MapArg{}
	for i, e := range o.r.list(o.at(key), o.keys[key]) {
		m := o.r.object(fmt.Sprintf("%s[%d]", o.at(key), i), e, "name", "args")
		arg := MapArg{Name: m.text("name")}
		if m.keys["args"] != nil {
			arg.Args = []KeyValue{}
		}
		for j, e := range o.r.list(m.at("args"), m.keys["args"]) {
			kv := o.r.object(fmt.Sprintf("%s[%d]", m.at("args"), j), e, "key", "value")
			arg.Args = append(arg.Args, KeyValue{kv.number("key"), kv.number("value")})
		}
		all = append(all, arg)
	}
	return all
}

func (o *object) monitorMaps(key string) []MonitorMap {
	if o.keys[key] == nil {
		return nil
	}
	all := []MonitorMap{}
	for i, e := range o.r.list(o.at(key), o.keys[key]) {
		m := o.r.object(fmt.Sprintf("%s[%d]", o.at(key), i), e, "name", "key", "aggregator")
		all = append(all, MonitorMap{m.text("name"), m.number("key"), m.text("aggregator")})
	}
	return all
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return fmt.Sprintf("the string %.80q", v)
	case json.Number:
		return fmt.Sprintf("the number %.80s", string(v))
	case []any:
		return "a list"
	}
	return "an object"
}
