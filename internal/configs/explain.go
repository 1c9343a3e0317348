package configs

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"l3af"
)

// Explain says an error of applying an edit in the words of the request: the
// mistakes that come of the payload have their places in it.
func (e *Edit) Explain(err error) error {
	var wrong *l3af.InvalidError
	if !errors.As(err, &wrong) {
		return fmt.Errorf("%s: %w", e.failed, err)
	}
	told := make([]l3af.Mistake, len(wrong.Mistakes))
	for i, m := range wrong.Mistakes {
		m.Path = e.locate(m.Path)
		m.Message = mentioned.ReplaceAllStringFunc(m.Message, e.locate)
		told[i] = m
	}
	return &Error{Reason: Invalid, Err: fmt.Errorf("%s: %w", e.failed, &l3af.InvalidError{Mistakes: told})}
}

var place = regexp.MustCompile(`^(?:chains\[(\d+)\]\.programs|probes)\[(\d+)\](?:\.(.*))?$`)

// mentioned finds the places of programs in a text.
var mentioned = regexp.MustCompile(`(?:chains\[\d+\]\.programs|probes)\[\d+\]`)

var wholeChain = regexp.MustCompile(`^chains\[(\d+)\]$`)

// fields are L3AF's names of what a state calls otherwise.
var fields = []struct{ state, sent string }{
	{"package", "artifact"}, {"object", "object_file"}, {"entry", "entry_function_name"}, {"next", "map_name"}, {"maps", "map_args"},
	{"monitor", "monitor_maps"}, {"agent.start", "cmd_start"}, {"agent.stop", "cmd_stop"}, {"agent.status", "cmd_status"},
	{"agent.update", "cmd_update"}, {"agent.files", "rules_file"}, {"agent", "cmd_start"}, {"pinPath", "version"}, {"instance", "name"},
	{"proceed", "entry_function_name"},
}

// locate finds the place in the payload of a place in the state; the latter
// where the payload has nothing to do with it.
func (e *Edit) locate(at string) string {
	if m := wholeChain.FindStringSubmatch(at); m != nil {
		if i, _ := strconv.Atoi(m[1]); i < len(e.State.Chains) {
			return string(e.State.Chains[i].Hook) + "/" + e.State.Chains[i].Interface
		}
	}
	m := place.FindStringSubmatch(at)
	if m == nil {
		return at
	}
	j, _ := strconv.Atoi(m[2])
	var key [3]string
	if m[1] != "" {
		i, _ := strconv.Atoi(m[1])
		if i >= len(e.State.Chains) || j >= len(e.State.Chains[i].Programs) {
			return at
		}
		c := &e.State.Chains[i]
		key = [3]string{c.Interface, string(c.Hook), c.Programs[j].Name}
	} else {
		if j >= len(e.State.Probes) {
			return at
		}
		key = [3]string{"", "", e.State.Probes[j].Name}
		if of := owner(e.State.Probes[j]); of != nil {
			for _, d := range directions {
				if d.name == of[0] {
					key = [3]string{of[1], string(d.kind), of[2]}
				}
			}
		}
	}
	path, ok := e.paths[key]
	if !ok {
		return at
	}
	rest := m[3]
	for _, f := range fields {
		if tail, ok := strings.CutPrefix(rest, f.state); ok && (tail == "" || tail[0] == '.' || tail[0] == '[') {
			rest = f.sent + tail
			break
		}
	}
	return strings.TrimSuffix(path+"."+rest, ".")
}
