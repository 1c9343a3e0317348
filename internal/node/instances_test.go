package node

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/host"
)

func testObject(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// users of an instance at a hook each, with settings as people write them.
func usersOf(t *testing.T, xdp, tc, probe string) *l3af.State {
	t.Helper()
	settings := func(text string) l3af.Settings {
		s := l3af.Settings{}
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		for name, v := range s.Config {
			s.Config[name] = json.Number(v.(string))
		}
		for _, entries := range s.Maps {
			for i, e := range entries {
				entries[i] = l3af.MapEntry{Key: json.Number(e.Key.(string)), Value: json.Number(e.Value.(string))}
			}
		}
		if s.Instance == "" {
			s.Instance = "i"
		}
		return s
	}
	tiny := testObject(t, "tiny.bpf.o")
	s := &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{
		{Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{{Name: "a", Package: tiny, Entry: "tiny", Settings: settings(xdp)}}},
		{Interface: "v0", Hook: l3af.TCIngress, Programs: []l3af.Program{
			{Name: "b", Package: tiny, Entry: "tiny_tc", Settings: settings(tc)},
			{Name: "c", Package: tiny, Entry: "tiny_tc", Settings: settings(tc)}}},
	}}
	if probe != "" {
		s.Probes = []l3af.Probe{{Name: "p", Package: tiny, Entry: "tiny_probe", Settings: settings(probe)}}
	}
	return s
}

// The users of an instance must agree; who does not is told where.
func TestInstanceMistakes(t *testing.T) {
	other := usersOf(t, `{}`, `{}`, `{}`)
	other.Probes[0].Package = testObject(t, "bigger.bpf.o")
	for _, r := range []struct {
		name  string
		state *l3af.State
		want  string
	}{
		{"agree", usersOf(t, `{"config": {"live": "7"}, "maps": {"table": [{"key": "1", "value": "5"}, {"key": "2", "value": "6"}]}}`,
			`{"config": {"live": "7"}, "maps": {"table": [{"key": "2", "value": "6"}, {"key": "1", "value": "5"}]}}`, `{}`), ""},
		{"constants may differ", usersOf(t, `{"config": {"fixed": "2"}}`, `{"config": {"fixed": "3"}}`, ``), ""},
		{"other instances may differ", usersOf(t, `{"config": {"live": "7"}}`, `{"config": {"live": "8"}, "instance": "j"}`, ``), ""},
		{"contents", usersOf(t, `{"maps": {"table": [{"key": "1", "value": "5"}]}}`, `{}`, `{"maps": {"table": []}}`),
			`probes[0].maps.table: is not what chains[0].programs[0] wants in the map, which they share (instance i) (write the same, or leave it out)`},
		{"globals", usersOf(t, `{}`, `{"config": {"live": "7"}}`, `{"config": {"live": "8"}}`),
			`probes[0].config.live: is not what chains[1].programs[0] wants of the variable, which they share (instance i) (write the same, or leave it out)`},
		{"package", other, `probes[0].instance: instance i is of another package at chains[0].programs[0] (give it another name)`},
	} {
		t.Run(r.name, func(t *testing.T) {
			rig := newRig(t)
			defer func() { rig.n.Close() }()
			a, err := rig.n.Apply(t.Context(), r.state, "test", -1)
			if r.want == "" {
				if err != nil || len(a.Failed) > 0 {
					t.Fatalf("%+v, %v", a, err)
				}
				if steps := rig.reconcile(); len(steps) > 0 {
					t.Errorf("not at rest: %+v", steps)
				}
				return
			}
			var invalid *l3af.InvalidError
			if !errors.As(err, &invalid) || len(invalid.Mistakes) != 1 || invalid.Mistakes[0].String() != r.want {
				t.Errorf("got  %v\nwant %s", err, r.want)
			}
		})
	}
}

// What the document says of a shared map holds for those that leave it to the
// package, and no user writes a map twice.
func TestMergeDefaults(t *testing.T) {
	entry := host.Entry{Key: []byte{1}, Values: [][]byte{{2}}}
	full := func(member string, byDefault bool, entries ...host.Entry) host.Contents {
		return host.Contents{Member: member, Instance: "i", Map: "m", Full: true, Entries: entries, Default: byDefault}
	}
	patches := func(member string, list ...host.Patch) host.Contents {
		return host.Contents{Member: member, Instance: "i", Map: ".data", Patches: list}
	}
	said, silent := host.Patch{Offset: 4, Data: []byte{7}, Variable: "x"}, host.Patch{Offset: 4, Data: []byte{1}, Variable: "x", Default: true}
	in := map[string]*instance{"i": {wanted: map[string]*wanted{
		"m":     {full: []host.Entry{entry}, fullBy: "chains[0].programs[0]"},
		".data": {patches: map[int]patch{4: {said, "chains[0].programs[0]"}}},
	}}}
	got := merge([]host.Contents{
		full("a", true), {Member: "a", Map: "own", Full: true}, full("b", true), patches("a", silent),
		patches("b", host.Patch{Offset: 0, Data: []byte{9}}, silent),
	}, in)
	if len(got) != 3 || len(got[0].Entries) != 1 || got[0].Default || got[1].Map != "own" || len(got[2].Patches) != 2 ||
		got[2].Patches[0].Data[0] != 7 || got[2].Patches[1].Offset != 0 {
		t.Errorf("merged: %+v", got)
	}
}

// A map that an upgrade changes is refused with a hint, and what ran runs on,
// until the document says that it may start anew.
func TestOnMapChange(t *testing.T) {
	r := newRig(t)
	defer func() { r.n.Close() }()
	state := func(pkg string, change l3af.MapChange) *l3af.State {
		return &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{
			{Name: "a", Package: testObject(t, pkg), Entry: "tiny", Settings: l3af.Settings{OnMapChange: change,
				Maps: map[string][]l3af.MapEntry{"table": {{Key: json.Number("1"), Value: json.Number("1")}}}}}}}}}
	}
	r.apply(state("tiny.bpf.o", ""))
	before := r.k.Running()
	a, err := r.n.Apply(t.Context(), state("bigger.bpf.o", l3af.RefuseMapChange), "test", -1)
	if err != nil || len(a.Failed) != 1 || !strings.Contains(a.Failed[0].Error, "another shape") {
		t.Fatalf("applied: %+v, %v", a, err)
	}
	if now := r.k.Running(); now[HookOf("xdp/v0")] != before[HookOf("xdp/v0")] {
		t.Error("what ran runs no more")
	}
	r.apply(state("bigger.bpf.o", l3af.ResetMapChange))
	if now := r.k.Running(); now[HookOf("xdp/v0")] == before[HookOf("xdp/v0")] {
		t.Error("the old version still runs")
	}
	if n := r.k.Entries(HookOf("xdp/v0"), "a", "table"); n != 1 {
		t.Errorf("the new map has %d entries", n)
	}
	if steps := r.reconcile(); len(steps) > 0 {
		t.Errorf("not at rest: %+v", steps)
	}
}

// Another value of a writable global is no other program.
func TestGlobalsKeepID(t *testing.T) {
	r := newRig(t)
	defer func() { r.n.Close() }()
	state := func(name, value string) *l3af.State {
		config := map[string]any{}
		if name != "" {
			config[name] = json.Number(value)
		}
		return &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{
			{Name: "a", Package: testObject(t, "tiny.bpf.o"), Entry: "tiny", Settings: l3af.Settings{Config: config}}}}}}
	}
	r.apply(state("", ""))
	id := r.k.Running()[HookOf("xdp/v0")]
	for _, value := range []string{"7", "8"} {
		a := r.apply(state("live", value))
		if len(a.Steps) != 1 || a.Steps[0].Verb != verbWrite || r.k.Running()[HookOf("xdp/v0")] != id {
			t.Errorf("live %s: %+v", value, a)
		}
	}
	if a := r.apply(state("fixed", "7")); len(a.Steps) != 1 || a.Steps[0].Verb != verbReplace || r.k.Running()[HookOf("xdp/v0")] == id {
		t.Errorf("fixed: %+v", a)
	}
}

// Programs of several objects of one package share the maps that both have;
// what the data sections of an object hold is shared with programs of it alone.
func TestInstanceOfObjects(t *testing.T) {
	r := newRig(t)
	defer func() { r.n.Close() }()
	dir := t.TempDir()
	files := map[string]string{"tiny.bpf.o": testObject(t, "tiny.bpf.o"), "bigger.bpf.o": testObject(t, "tiny.bpf.o"),
		"gate.bpf.o": testObject(t, "../../kernel/testdata/gate.bpf.o")}
	for name, from := range files {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	manifest := "apiVersion: l3af/v1\nname: p\nprograms:\n- {entry: tiny_tc, object: tiny.bpf.o, hook: tc-ingress}\n" +
		"- {entry: tiny_tc, object: bigger.bpf.o, hook: tc-egress}\n- {entry: gate, object: gate.bpf.o, hook: xdp}\n- {entry: tiny_probe, object: tiny.bpf.o, attach: raw_tracepoint/sched_process_exec}\n"
	if err := os.WriteFile(filepath.Join(dir, "package.yaml"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	settings := l3af.Settings{Instance: "i"}
	s := &l3af.State{APIVersion: l3af.APIVersion, Probes: []l3af.Probe{{Name: "p", Package: dir, Entry: "tiny_probe", Settings: settings}}}
	for hook, entry := range map[l3af.HookKind]string{l3af.XDP: "gate", l3af.TCIngress: "tiny_tc", l3af.TCEgress: "tiny_tc"} {
		s.Chains = append(s.Chains, l3af.Chain{Interface: "v0", Hook: hook, Programs: []l3af.Program{{Name: "a", Package: dir, Entry: entry, Settings: settings}}})
	}
	r.apply(s)
	var shared []string
	for _, line := range r.k.Left() {
		if name, ok := strings.CutPrefix(line, "map "); ok {
			shared = append(shared, name)
		}
	}
	want := []string{"@i/deny", "@i/table", "@i@bigger.bpf.o/.data", "@i@gate.bpf.o/.bss", "@i@gate.bpf.o/.data", "@i@tiny.bpf.o/.data"}
	if !slices.Equal(shared, want) {
		t.Errorf("shared are %q, want %q", shared, want)
	}
	if steps := r.reconcile(); len(steps) > 0 {
		t.Errorf("not at rest: %+v", steps)
	}
	r.apply(&l3af.State{APIVersion: l3af.APIVersion})
	if left := r.k.Left(); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}
