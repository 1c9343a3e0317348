package l3af_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/doc"
)

const full = `
apiVersion: l3af/v1
chains:
- interface: eth0
  hook: xdp
  mode: auto
  programs:
  - name: acl
    package: builtin:acl
    entry: acl
    proceed: [pass]
    config: {default_verdict: pass, big: 18446744073709551615, deep: {a: [1, true, null]}}
    maps:
      deny: [{key: 203.0.113.0/24, value: 1}]
      empty:
  - {name: stats, package: ./stats.bpf.o, onMapChange: reset, instance: edge.1}
  - name: limit
    package: /p.tar.gz
    object: l/limit.bpf.o
    next: next_prog
    disabled: true
    pinPath: /sys/fs/bpf/eth0/limit/latest
    monitor: [{map: drops, key: 0}, {map: seen, key: 1, aggregator: max-rate}]
    agent: {start: [bin/limit, --iface=eth0, ""], stop: [x], status: [y], update: [z, a], daemon: true, cpu: 5, memory: 1073741824, files: {rules.txt: "a\n"}}
    annotations: {team: edge}
- interface: "veth*"
  netns: /run/netns/blue
  hook: tc-egress
  annotations: {ticket: "7"}
  programs:
  - {name: acl, package: /opt/acl, proceed: [unspec, ok, pipe, redirect]}
probes:
- name: exec
  package: ./examples/execs
  attach: tp/sched/sched_process_exec
- {name: raw, package: x.o, attach: raw_tp/sys_enter}
- {name: any, package: x.o, instance: other}
`

func parse(t testing.TB, text string) (*l3af.State, error) {
	t.Helper()
	tree, err := doc.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return l3af.ParseState(tree)
}

func TestParseState(t *testing.T) {
	s, err := parse(t, full)
	if err != nil {
		t.Fatal(err)
	}
	want := &l3af.State{
		APIVersion: "l3af/v1",
		Chains: []l3af.Chain{
			{Interface: "eth0", Hook: l3af.XDP, Mode: l3af.Auto, Programs: []l3af.Program{
				{Name: "acl", Package: "builtin:acl", Entry: "acl", Proceed: []l3af.Verdict{l3af.Pass}, Settings: l3af.Settings{
					Config: map[string]any{"default_verdict": "pass", "big": json.Number("18446744073709551615"),
						"deep": map[string]any{"a": []any{json.Number("1"), true, nil}}},
					Maps: map[string][]l3af.MapEntry{"deny": {{Key: "203.0.113.0/24", Value: json.Number("1")}}, "empty": {}},
				}},
				{Name: "stats", Package: "./stats.bpf.o", Settings: l3af.Settings{OnMapChange: l3af.ResetMapChange, Instance: "edge.1"}},
				{Name: "limit", Package: "/p.tar.gz", Object: "l/limit.bpf.o", Next: "next_prog", Settings: l3af.Settings{
					Disabled: true, PinPath: "/sys/fs/bpf/eth0/limit/latest",
					Monitor: []l3af.Monitor{{Map: "drops", Key: json.Number("0")}, {Map: "seen", Key: json.Number("1"), Aggregator: l3af.MaxRate}},
					Agent: &l3af.Agent{Start: []string{"bin/limit", "--iface=eth0", ""}, Stop: []string{"x"}, Status: []string{"y"}, Update: []string{"z", "a"},
						Daemon: true, CPU: 5, Memory: 1 << 30, Files: map[string]string{"rules.txt": "a\n"}},
					Annotations: map[string]string{"team": "edge"},
				}},
			}},
			{Interface: "veth*", Netns: "blue", Hook: l3af.TCEgress, Programs: []l3af.Program{
				{Name: "acl", Package: "/opt/acl", Proceed: []l3af.Verdict{l3af.Unspec, l3af.OK, l3af.Pipe, l3af.Redirect}},
			}, Annotations: map[string]string{"ticket": "7"}},
		},
		Probes: []l3af.Probe{
			{Name: "exec", Package: "./examples/execs", Attach: "tracepoint/sched/sched_process_exec"},
			{Name: "raw", Package: "x.o", Attach: "raw_tracepoint/sys_enter"},
			{Name: "any", Package: "x.o", Settings: l3af.Settings{Instance: "other"}},
		},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

// The mistakes that people make, as they are told: path, message, hint.
func TestMistakes(t *testing.T) {
	chain := func(s string) string { return "apiVersion: l3af/v1\nchains:\n- " + s }
	program := func(s string) string {
		return chain("{interface: eth0, hook: xdp, programs: [{name: a, package: p}, " + s + "]}")
	}
	probe := func(s string) string { return "apiVersion: l3af/v1\nprobes:\n- " + s }
	for _, tt := range []struct{ in, want string }{
		{`[]`, `the document must be a mapping, not a list`},
		{`7`, `the document must be a mapping, not the number 7`},
		{`{}`, `apiVersion: is required (write apiVersion: l3af/v1)`},
		{`apiVersion: l3af/v2`, `apiVersion: unknown apiVersion "l3af/v2", did you mean "l3af/v1"?`},
		{`apiVersion: apps/v1beta1`, `apiVersion: unknown apiVersion "apps/v1beta1" (possible: l3af/v1)`},
		{"apiVersion: l3af/v1\nchain: []", `chain: unknown key "chain", did you mean "chains"?`},
		{"apiVersion: l3af/v1\nspec: {}", `spec: unknown key "spec" (possible: apiVersion, chains, probes)`},
		{"apiVersion: l3af/v1\nchains: {}", `chains: must be a list, not a mapping`},
		{"apiVersion: 1", `apiVersion: must be a string, not the number 1 (write "1", in quotes)`},
		{chain(`eth0`), `chains[0]: must be a mapping, not the string "eth0"`},
		{chain(`{interface: eth0, hook: xdp, progams: [{name: a, package: p}]}`),
			`chains[0].progams: unknown key "progams", did you mean "programs"?` + "\n" + `chains[0].programs: must name at least one program`},
		{chain(`{interface: eth0, hook: xpd, programs: [{name: a, package: p, proceed: [pass, pipe, what]}]}`),
			`chains[0].hook: unknown hook "xpd", did you mean "xdp"?`},
		{chain(`{interface: eth0, hook: ingress, programs: [{name: a, package: p}]}`),
			`chains[0].hook: unknown hook "ingress", did you mean "tc-ingress"?`},
		{chain(`{interface: eth0, hook: socket, programs: [{name: a, package: p}]}`),
			`chains[0].hook: unknown hook "socket" (possible: xdp, tc-ingress, tc-egress)`},
		{chain(`{interface: eth0, hook: true, programs: [{name: a, package: p}]}`),
			`chains[0].hook: must be a string, not a boolean`},
		{chain(`{programs: [{name: a, package: p}]}`),
			"chains[0].hook: is required (possible: xdp, tc-ingress, tc-egress)\nchains[0].interface: is required"},
		{chain(`{interface: eth0, hook: xdp, mode: skb, programs: [{name: a, package: p}]}`),
			`chains[0].mode: unknown mode "skb" (possible: auto, native, generic, offload)`},
		{program(`{name: b, package: p, onMapChange: rest}`), `chains[0].programs[1].onMapChange: unknown choice "rest", did you mean "reset"?`},
		{program(`{name: b, package: p, onMapChange: keep, instance: "a/b"}`), `chains[0].programs[1].instance: "a/b" is not a valid name` +
			" (1 to 63 letters, digits, '.', '_' and '-', the first a letter or digit)\n" + `chains[0].programs[1].onMapChange: unknown choice "keep" (possible: refuse, reset)`},
		{program("{name: b, package: p, instance: i}]}\nprobes: [{name: c, package: p, instance: i, onMapChange: reset}, {name: d, package: p, instance: i, onMapChange: refuse}]\nx: {y: [z"),
			`probes[0].onMapChange: is reset here and refuse at chains[0].programs[1], which shares its maps (instance "i")` +
				" (write the same for all programs of an instance)\nx: unknown key \"x\" (possible: apiVersion, chains, probes)"},
		{chain(`{interface: eth0, hook: tc-ingress, mode: auto, programs: [{name: a, package: p}]}`),
			`chains[0].mode: only xdp has modes, not tc-ingress (leave it out)`},
		{chain(`{interface: a-name-of-16-bytes, hook: xdp, programs: [{name: a, package: p}]}`), `chains[0].interface: "a-name-of-16-bytes" is not a valid interface name (1 to 15 bytes`},
		{chain(`{interface: 'blue:eth0', hook: xdp, programs: [{name: a, package: p}]}`), `chains[0].interface: "blue:eth0" is not a valid interface name`},
		{chain(`{interface: 'a b', hook: xdp, programs: [{name: a, package: p}]}`), `chains[0].interface: "a b" is not a valid interface name`},
		{chain(`{interface: ., hook: xdp, programs: [{name: a, package: p}]}`), `chains[0].interface: "." is not a valid interface name`},
		{chain(`{interface: 'eth[', hook: xdp, programs: [{name: a, package: p}]}`), `chains[0].interface: "eth[" is not a valid glob`},
		{chain(`{interface: 'e/*', hook: xdp, programs: [{name: a, package: p}]}`), `chains[0].interface: "e/*" is not a valid glob`},
		{chain(`{interface: '', hook: xdp, programs: [{name: a, package: p}]}`), `chains[0].interface: must not be empty`},
		{chain(`{interface: e, netns: a/b, hook: xdp, programs: [{name: a, package: p}]}`), `chains[0].netns: "a/b" is not a network namespace (a name under /run/netns, or an absolute path)`},
		{chain(`{interface: e, netns: .., hook: xdp, programs: [{name: a, package: p}]}`), `chains[0].netns: ".." is not a network namespace`},
		{chain(`{interface: e, hook: xdp, programs: [{name: a, package: p}]}`) + "\n- {interface: e, hook: xdp, programs: [{name: a, package: p}]}",
			`chains[1]: the hook xdp/e has a chain already: chains[0] (put all programs of a hook in one chain)`},
		{chain(`{interface: e, netns: blue, hook: xdp, programs: [{name: a, package: p}]}`) + "\n- {interface: e, netns: /var/run/netns/blue, hook: xdp, programs: [{name: a, package: p}]}",
			`chains[1]: the hook xdp/blue:e has a chain already: chains[0]`},
		{program(`{name: b, package: p, object: ../x.o, next: "a b", disabled: yes please, pinPath: sys/fs, annotations: {a: 1}}`),
			`chains[0].programs[1].annotations.a: must be a string, not the number 1` + "\n" + `chains[0].programs[1].disabled: must be true or false, not the string "yes please"` + "\n" +
				`chains[0].programs[1].next: "a b" is not the name of a map` + "\n" + `chains[0].programs[1].object: "../x.o" is not a path inside the package` + "\n" +
				`chains[0].programs[1].pinPath: "sys/fs" is not the absolute path of a directory`},
		{program(`{name: b, package: p, monitor: [{key: 0}, {map: m}, {map: m, key: 0, aggregator: max}]}`), `chains[0].programs[1].monitor[0].map: is required` + "\n" +
			`chains[0].programs[1].monitor[1].key: is required` + "\n" + `chains[0].programs[1].monitor[2].aggregator: unknown aggregator "max", did you mean "max-rate"?`},
		{program(`{name: b, package: p, agent: {start: [/bin/sh], stop: [], status: [1], update: x, daemon: 1, cpu: -1, memory: lots, files: {a/../b: x}}}`),
			`chains[0].programs[1].agent.cpu: must be a whole number from 0, not the number -1` + "\n" + `chains[0].programs[1].agent.daemon: must be true or false, not the number 1` + "\n" +
				`chains[0].programs[1].agent.files["a/../b"]: "a/../b" is not a path inside the package` + "\n" + `chains[0].programs[1].agent.memory: must be a whole number from 0, not the string "lots"` + "\n" +
				`chains[0].programs[1].agent.start[0]: "/bin/sh" is not a path inside the package` + "\n" + `chains[0].programs[1].agent.status[0]: must be a string, not the number 1` + "\n" +
				`chains[0].programs[1].agent.stop: must name a file of the package (leave it out)` + "\n" + `chains[0].programs[1].agent.update: must be a list, not the string "x"`},
		{program(`{name: b, package: p, agent: {daemon: true}}`), `chains[0].programs[1].agent.start: is required of a daemon`},
		{program(`x`), `chains[0].programs[1]: must be a mapping, not the string "x"`},
		{program(`{}`), "chains[0].programs[1].name: is required\nchains[0].programs[1].package: is required (builtin:NAME, a directory, an archive, or an object file)"},
		{program(`{name: a, package: q}`), `chains[0].programs[1].name: another program is named "a": chains[0].programs[0]`},
		{program(`{name: -a, package: q}`), `chains[0].programs[1].name: "-a" is not a valid name (1 to 63 letters`},
		{program(`{name: ` + strings.Repeat("a", 64) + `, package: q}`), `is not a valid name`},
		{program(`{name: b, package: [q]}`), `chains[0].programs[1].package: must be a string, not a list`},
		{program(`{name: b, package: "q\0"}`), `chains[0].programs[1].package: "q\x00" is not a package`},
		{program(`{name: b, package: q, entry: a/b}`), `chains[0].programs[1].entry: "a/b" is not the name of a program`},
		{program(`{name: b, package: q, proceed: [pass, pas]}`), `chains[0].programs[1].proceed[1]: unknown verdict "pas", did you mean "pass"?`},
		{program(`{name: b, package: q, proceed: [pipe]}`), `chains[0].programs[1].proceed[0]: "pipe" is a verdict of TC, not of xdp (possible: aborted, drop, pass, tx, redirect)`},
		{chain(`{interface: e, hook: tc-egress, programs: [{name: a, package: p, proceed: [drop]}]}`), `chains[0].programs[0].proceed[0]: "drop" is a verdict of xdp, not of tc-egress (possible: unspec, ok,`},
		{program(`{name: b, package: q, proceed: [other]}`), `unknown verdict "other" (possible:`},
		{program(`{name: b, package: q, proceed: [pass, tx, pass]}`), `chains[0].programs[1].proceed[2]: "pass" is there already`},
		{program(`{name: b, package: q, proceed: []}`), `chains[0].programs[1].proceed: must name a verdict (leave it out`},
		{program(`{name: b, package: q, proceed: pass}`), `chains[0].programs[1].proceed: must be a list, not the string "pass"`},
		{program(`{name: b, package: q, proceed: [1]}`), `chains[0].programs[1].proceed[0]: must be the name of a verdict, not the number 1`},
		{program(`{name: b, package: q, config: [x]}`), `chains[0].programs[1].config: must be a mapping, not a list`},
		{program(`{name: b, package: q, maps: {m: {a: 1}}}`), `chains[0].programs[1].maps.m: must be a list of entries, not a mapping (each entry is {key: …, value: …})`},
		{program(`{name: b, package: q, maps: {m: [{key: 1}, {key: 1, value: 2, val: 3}, 4]}}`),
			"chains[0].programs[1].maps.m[0].value: is required\n" +
				`chains[0].programs[1].maps.m[1].val: unknown key "val", did you mean "value"?` + "\n" +
				"chains[0].programs[1].maps.m[2]: must be a mapping, not the number 4"},
		{program(`{name: b, package: q, maps: {"a b": 1}}`), `chains[0].programs[1].maps["a b"]: must be a list of entries, not the number 1`},
		{probe(`{name: a, package: p}`) + "\n- {name: a, package: p}", `probes[1].name: another probe is named "a": probes[0]`},
		{probe(`{name: a, package: p, attach: tracepoint/sched}`), `probes[0].attach: cannot attach to "tracepoint/sched": want ` + l3af.AttachForms},
		{probe(`{name: a, package: p, attach: tp/../x}`), `probes[0].attach: cannot attach to "tp/../x"`},
		{probe(`{name: a, package: p, hook: xdp}`), `probes[0].hook: unknown key "hook"`},
	} {
		_, err := parse(t, tt.in)
		var invalid *l3af.InvalidError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: got %v", tt.in, err)
			continue
		}
		// Each wanted line is one mistake or the start of it; there are no others.
		got, want := strings.Split(err.Error(), "\n"), strings.Split(tt.want, "\n")
		ok := len(got) == len(want)
		for i := 0; ok && i < len(got); i++ {
			ok = strings.HasPrefix(got[i], want[i]) || len(want) == 1 && strings.Contains(got[i], want[i])
		}
		if !ok {
			t.Errorf("%s\ngot  %s\nwant %s", tt.in, err, tt.want)
		}
	}
}

func TestManyMistakes(t *testing.T) {
	text := "apiVersion: l3af/v1\nchains:\n" + strings.Repeat("- {hook: xdp, interface: e}\n", 150)
	_, err := parse(t, text)
	lines := strings.Split(fmt.Sprint(err), "\n")
	// 150 without programs, 149 of a hook that has a chain.
	if len(lines) != 101 || lines[100] != "and 199 more mistakes" || !strings.HasPrefix(lines[5], "chains[3]: ") {
		t.Errorf("got %d lines:\n%s", len(lines), err)
	}
}

// A state built in Go is told the same mistakes as a document.
func TestValidate(t *testing.T) {
	s := &l3af.State{Chains: []l3af.Chain{{Interface: "eth0", Hook: "xpd", Programs: []l3af.Program{{Name: "a",
		Settings: l3af.Settings{Config: map[string]any{"x": 5}, Maps: map[string][]l3af.MapEntry{"m": {{Key: "k"}}}}}}}}}
	const want = `apiVersion: is required (write apiVersion: l3af/v1)
chains[0].hook: unknown hook "xpd", did you mean "xdp"?
chains[0].programs[0].config.x: a Go int cannot be in a document (use nil, bool, string, json.Number, []any and map[string]any)
chains[0].programs[0].maps.m[0].value: is required
chains[0].programs[0].package: is required (builtin:NAME, a directory, an archive, or an object file)`
	if err := s.Validate(); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if err := (&l3af.State{APIVersion: l3af.APIVersion}).Validate(); err != nil {
		t.Errorf("the empty state: %v", err)
	}
}

// Numbers of a state in JSON keep every digit, also inside of a revision.
func TestRevisionJSON(t *testing.T) {
	s, err := parse(t, full)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(l3af.Revision{Number: 3, State: *s})
	if err != nil {
		t.Fatal(err)
	}
	var r l3af.Revision
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r.State, *s) {
		t.Errorf("got  %+v\nwant %+v", r.State, *s)
	}
}

// No tree breaks the parser; a state that it accepts is valid and stays the
// same through its tree and through YAML; its mistakes are all told.
func FuzzParseState(f *testing.F) {
	f.Add(full)
	f.Add(`{"apiVersion":"l3af/v1","chains":[{"interface":"e","hook":"xpd","programs":[{"name":"a","package":"","proceed":["pass",1]}]}],"x":{"":null}}`)
	f.Add("apiVersion: l3af/v1\nprobes: [{name: a, package: p, attach: tp/a/b, maps: {m: [{key: [], value: {}}]}}]")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<14 {
			return
		}
		tree, err := doc.Parse([]byte(text))
		if err != nil {
			return
		}
		s, err := l3af.ParseState(tree)
		if err != nil {
			var invalid *l3af.InvalidError
			if !errors.As(err, &invalid) || len(invalid.Mistakes) == 0 || s == nil {
				t.Fatalf("got %+v, %#v", s, err)
			}
			return
		}
		if err := s.Validate(); err != nil {
			t.Fatalf("accepted, but: %v", err)
		}
		tree, err = s.Tree()
		if err != nil {
			t.Fatal(err)
		}
		again, err := l3af.ParseState(tree)
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("got  %+v, %v\nwant %+v", again, err, s)
		}
		yaml, err := doc.YAML(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err = parse(t, string(yaml))
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("through YAML: got  %+v, %v\nwant %+v\n%s", again, err, s, yaml)
		}
	})
}

// What is found later joins what was found before, but not at the same places.
func TestMistakesJoin(t *testing.T) {
	first := &l3af.InvalidError{Mistakes: []l3af.Mistake{{Path: "chains[1].hook", Message: "a"}, {Path: "chains[0].programs[0]", Message: "b"}}}
	got := first.With([]l3af.Mistake{
		{Path: "chains[0].programs[0].config.x", Message: "told with its program"},
		{Path: "chains[0].programs[01]", Message: "c"},
		{Path: "chains[0].programs[0]", Message: "twice"},
		{Path: "chains[2].programs[0].package", Message: "d"},
	})
	want := "chains[0].programs[0]: b\nchains[0].programs[01]: c\nchains[1].hook: a\nchains[2].programs[0].package: d"
	if got.Error() != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if len(first.Mistakes) != 2 {
		t.Errorf("the first error changed: %s", first)
	}
}

func TestNormalAttach(t *testing.T) {
	for attach, want := range map[string]string{
		"": "", "tp/sched/sched_switch": "tracepoint/sched/sched_switch", "raw_tp/sys_enter": "raw_tracepoint/sys_enter",
		"kprobe/do_exit": "kprobe/do_exit", "kretprobe/foo.isra.0": "kretprobe/foo.isra.0",
		"uprobe//lib/libc.so.6:malloc": "uprobe//lib/libc.so.6:malloc", "uretprobe//opt/a:b/x:main.(*T).f": "uretprobe//opt/a:b/x:main.(*T).f",
		"tp/sched": "-", "raw_tp/a/b": "-", "kprobe/": "-", "kprobe/a/b": "-", "kprobe/a+0x10": "-", "uprobe/libc.so:malloc": "-", "uprobe//lib/libc.so": "-",
		"uprobe//lib/../libc.so:malloc": "-", "uprobe//lib/libc.so:": "-", "uprobe//lib/libc.so:a b": "-", "kprobe.multi/x": "-", "fentry/x": "-", "x": "-",
	} {
		got, err := l3af.NormalAttach(attach)
		if want == "-" && (err == nil || got != "") || want != "-" && (err != nil || got != want) {
			t.Errorf("%q: %q, %v", attach, got, err)
		}
	}
}
