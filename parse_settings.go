package l3af

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
)

// settingsKeys are the keys of [Settings].
var settingsKeys = []string{"config", "maps", "onMapChange", "instance", "disabled", "pinPath", "monitor", "agent", "annotations"}

func (o *object) settings() Settings {
	s := Settings{
		OnMapChange: MapChange(o.text("onMapChange")),
		Instance:    o.text("instance"),
		Disabled:    o.flag("disabled"),
		PinPath:     o.text("pinPath"),
		Annotations: o.texts("annotations"),
	}
	for i, e := range o.list("monitor") {
		var entry Monitor
		if eo := o.m.object(index(o.at("monitor"), i), e, "map", "key", "aggregator"); eo != nil {
			entry = Monitor{Map: eo.text("map"), Key: eo.keys["key"], Aggregator: Aggregator(eo.text("aggregator"))}
		}
		s.Monitor = append(s.Monitor, entry)
	}
	if v, ok := o.keys["agent"]; ok && v != nil {
		s.Agent = o.m.agent(o.at("agent"), v)
	}
	if config := o.mapping("config"); len(config) > 0 {
		s.Config = config
	}
	byName := o.mapping("maps")
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if s.Maps == nil {
			s.Maps = make(map[string][]MapEntry, len(byName))
		}
		at := member(o.at("maps"), name)
		list, ok := byName[name].([]any)
		if !ok && byName[name] != nil {
			o.m.add(at, "must be a list of entries, not "+kindOf(byName[name]), "each entry is {key: …, value: …}")
		}
		entries := make([]MapEntry, len(list))
		for i, e := range list {
			if eo := o.m.object(index(at, i), e, "key", "value"); eo != nil {
				entries[i] = MapEntry{Key: eo.keys["key"], Value: eo.keys["value"]}
			}
		}
		s.Maps[name] = entries
	}
	return s
}

func (m *mistakes) agent(at string, tree any) *Agent {
	o := m.object(at, tree, "start", "stop", "status", "update", "daemon", "cpu", "memory", "files")
	if o == nil {
		return nil
	}
	return &Agent{
		Start:  o.words("start"),
		Stop:   o.words("stop"),
		Status: o.words("status"),
		Update: o.words("update"),
		Daemon: o.flag("daemon"),
		CPU:    int(o.number("cpu")),
		Memory: o.number("memory"),
		Files:  o.texts("files"),
	}
}

// flag reads a boolean; false when the key is missing.
func (o *object) flag(key string) bool {
	v, ok := o.keys[key]
	if !ok || v == nil {
		return false
	}
	b, ok := v.(bool)
	if !ok {
		o.m.add(o.at(key), "must be true or false, not "+kindOf(v), "")
	}
	return b
}

// number reads a whole number from 0; 0 when the key is missing.
func (o *object) number(key string) int64 {
	v, ok := o.keys[key]
	if !ok || v == nil {
		return 0
	}
	n, isNumber := v.(json.Number)
	i, err := strconv.ParseInt(string(n), 10, 63)
	if !isNumber || err != nil || i < 0 {
		o.m.add(o.at(key), "must be a whole number from 0, not "+kindOf(v), "")
		return 0
	}
	return i
}

// words reads a list of strings, which may be empty; nil when the key is missing.
func (o *object) words(key string) []string {
	list := o.list(key)
	if list == nil {
		return nil
	}
	all := make([]string, len(list))
	for i, e := range list {
		s, ok := e.(string)
		if !ok {
			o.m.add(index(o.at(key), i), "must be a string, not "+kindOf(e), "")
		}
		all[i] = s
	}
	return all
}

// texts reads a mapping of strings; nil when it is missing or empty.
func (o *object) texts(key string) map[string]string {
	keys := o.mapping(key)
	if len(keys) == 0 {
		return nil
	}
	all := make(map[string]string, len(keys))
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		s, ok := keys[k].(string)
		if !ok {
			o.m.add(member(o.at(key), k), "must be a string, not "+kindOf(keys[k]), "")
		}
		all[k] = s
	}
	return all
}
