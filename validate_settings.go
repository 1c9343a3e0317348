package l3af

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

func (m *mistakes) settings(at string, s Settings) {
	if changes := []MapChange{RefuseMapChange, ResetMapChange}; s.OnMapChange != "" && !slices.Contains(words(changes), string(s.OnMapChange)) {
		m.unknown(at+".onMapChange", "choice", string(s.OnMapChange), words(changes))
	}
	m.check(s.Instance != "" && !validName(s.Instance), at+".instance", quote(s.Instance)+" is not a valid name", nameHint)
	for _, name := range slices.Sorted(maps.Keys(s.Config)) {
		m.value(member(at+".config", name), s.Config[name], 0)
		m.check(name == "", member(at+".config", name), "the name of the variable is missing", "")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Maps)) {
		at := member(at+".maps", name)
		m.check(name == "", at, "the name of the map is missing", "")
		for i, e := range s.Maps[name] {
			at := index(at, i)
			if m.seen[at] {
				continue
			}
			m.check(e.Key == nil, at+".key", "is required", "")
			m.check(e.Value == nil, at+".value", "is required", "")
			m.value(at+".key", e.Key, 0)
			m.value(at+".value", e.Value, 0)
		}
	}
	m.check(s.PinPath != "" && (!strings.HasPrefix(s.PinPath, "/") || path.Clean(s.PinPath) != s.PinPath || s.PinPath == "/" || !printable(s.PinPath) || len(s.PinPath) > 1000),
		at+".pinPath", quote(s.PinPath)+" is not the absolute path of a directory", "")
	aggregators := words([]Aggregator{Scalar, MaxRate, Average})
	for i, e := range s.Monitor {
		at := index(at+".monitor", i)
		if m.seen[at] {
			continue
		}
		m.check(e.Map == "", at+".map", "is required", "")
		m.check(e.Key == nil, at+".key", "is required", "")
		m.value(at+".key", e.Key, 0)
		if e.Aggregator != "" && !slices.Contains(aggregators, string(e.Aggregator)) {
			m.unknown(at+".aggregator", "aggregator", string(e.Aggregator), aggregators)
		}
	}
	if s.Agent != nil && !m.seen[at+".agent"] {
		m.checkAgent(at+".agent", s.Agent)
	}
}

func (m *mistakes) checkAgent(at string, a *Agent) {
	for _, c := range []struct {
		name  string
		words []string
	}{{"start", a.Start}, {"stop", a.Stop}, {"status", a.Status}, {"update", a.Update}} {
		at := at + "." + c.name
		m.check(c.words != nil && len(c.words) == 0, at, "must name a file of the package", "leave it out")
		for i, w := range c.words {
			m.check(strings.ContainsRune(w, 0), index(at, i), "has a zero byte", "")
			m.check(i == 0 && !inside(w), index(at, i), quote(w)+" is not a path inside the package", "")
		}
	}
	m.check(a.Daemon && len(a.Start) == 0, at+".start", "is required of a daemon", "")
	m.check(a.CPU < 0, at+".cpu", "must not be negative", "")
	m.check(a.Memory < 0, at+".memory", "must not be negative", "")
	for _, name := range slices.Sorted(maps.Keys(a.Files)) {
		m.check(!inside(name), member(at+".files", name), quote(name)+" is not a path inside the package", "")
	}
}

// inside reports whether a path stays inside the directory it is relative to.
func inside(name string) bool {
	return fs.ValidPath(name) && name != "." && printable(name) && len(name) <= 1000
}

// maxDepth bounds the lists and mappings in one another of a value.
const maxDepth = 100

// value checks that a value is made of what documents are made of.
func (m *mistakes) value(at string, v any, depth int) {
	if depth > maxDepth {
		m.check(true, at, "is nested too deep", "")
		return
	}
	switch v := v.(type) {
	case nil, bool, string:
	case json.Number:
		m.check(!json.Valid([]byte(v)), at, quote(string(v))+" is not a number", "")
	case []any:
		for i, e := range v {
			m.value(index(at, i), e, depth+1)
		}
	case map[string]any:
		for k, e := range v {
			m.value(member(at, k), e, depth+1)
		}
	default:
		m.check(true, at, fmt.Sprintf("a Go %T cannot be in a document", v), "use nil, bool, string, json.Number, []any and map[string]any")
	}
}
