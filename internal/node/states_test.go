package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"

	"l3af"
)

// State is one whole state of the table that tests walk.
type State struct {
	Name    string
	State   *l3af.State
	Running []string // targets
	Waiting []string
	// Disabled are the targets whose programs all are. Some keep maps.
	Disabled []string
	// Outside are the pins of maps below /sys/fs/bpf/out, but of read-only data.
	Outside []string
	// Entries are how many entries the map "table" of member a has at xdp/v0.
	Entries int
}

// AgentPackage is a directory with a package of tiny.bpf.o and agents, which
// TestMain removes.
var AgentPackage = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "l3af-node-agents-")
	if err != nil {
		panic(err)
	}
	object, err := os.ReadFile("testdata/tiny.bpf.o")
	if err != nil {
		panic(err)
	}
	files := map[string]string{
		"package.yaml": "apiVersion: l3af/v1\nname: tiny\nprograms:\n" +
			"- {entry: tiny, object: tiny.bpf.o, hook: xdp}\n- {entry: tiny_tc, object: tiny.bpf.o, hook: tc-ingress}\n" +
			"- {entry: tiny_probe, object: tiny.bpf.o, attach: raw_tracepoint/sched_process_exec}\nfiles: [init, daemon]\n",
		"tiny.bpf.o": string(object),
		// Its words are no, with a cause; slow, until the file it names is there; or anything.
		"init":   "#!/bin/sh\ncase $1 in no) echo \"$2\" >&2; exit 1;; slow) while ! [ -e \"$2\" ]; do sleep 0.02; done;; look) ls \"$2\" > \"$3\";; esac\n",
		"daemon": "#!/bin/sh\nexec sleep 1000\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			panic(err)
		}
	}
	return dir
})

// States is the table. It needs an interface v0 and w0, w1 in the daemon's
// namespace, v1 in the namespace blue.
func States() []State {
	abs := func(name string) string {
		path, err := filepath.Abs(filepath.Join("testdata", name))
		if err != nil {
			panic(err)
		}
		return path
	}
	tiny, other, bigger := abs("tiny.bpf.o"), abs("other.bpf.o"), abs("bigger.bpf.o")
	a := l3af.Program{Name: "a", Package: tiny, Entry: "tiny"}
	b := l3af.Program{Name: "b", Package: other, Entry: "other"}
	with := func(p l3af.Program, f func(*l3af.Program)) l3af.Program {
		f(&p)
		return p
	}
	fixed := with(a, func(p *l3af.Program) { p.Config = map[string]any{"fixed": json.Number("2")} })
	live := with(a, func(p *l3af.Program) { p.Config = map[string]any{"live": json.Number("7")} })
	table := func(n int) l3af.Program {
		return with(a, func(p *l3af.Program) {
			entries := []l3af.MapEntry{}
			for i := range n {
				entries = append(entries, l3af.MapEntry{Key: json.Number(string('1' + rune(i))), Value: json.Number("5")})
			}
			p.Maps = map[string][]l3af.MapEntry{"table": entries}
		})
	}
	watch := func(p *l3af.Program) {
		p.Monitor = []l3af.Monitor{{Map: "table", Key: "7-8"}, {Map: "table", Key: json.Number("8"), Aggregator: l3af.Average}}
	}
	proceed := with(a, func(p *l3af.Program) { p.Proceed = []l3af.Verdict{l3af.Pass, l3af.Drop} })
	// c is upgraded in place to a version with another map.
	c := with(a, func(p *l3af.Program) { p.Name, p.OnMapChange = "c", l3af.ResetMapChange })
	upgraded := with(c, func(p *l3af.Program) { p.Package = bigger })
	found := with(a, func(p *l3af.Program) { p.Name, p.Package = "f", abs("byname.bpf.o") })
	in1 := func(p l3af.Program) l3af.Program { return with(p, func(p *l3af.Program) { p.Instance = "one" }) }
	off := func(p l3af.Program) l3af.Program { return with(p, func(p *l3af.Program) { p.Disabled = true }) }
	next := l3af.Program{Name: "n", Package: abs("../../chain/testdata/corpus/l3af.bpf.o"), Entry: "l3af_xdp", Next: "next_program"}
	pin := func(at string, p l3af.Program) l3af.Program {
		return with(p, func(p *l3af.Program) { p.PinPath = "/sys/fs/bpf/out/" + at })
	}
	start := func(word string, p l3af.Program) l3af.Program {
		return with(p, func(p *l3af.Program) {
			p.Package, p.Agent = AgentPackage(), &l3af.Agent{Start: []string{"init", word}, Stop: []string{"init", "stop"}, Update: []string{"init", "update"}}
		})
	}
	tc := func(p l3af.Program) l3af.Program {
		p.Entry += "_tc"
		return p
	}
	at := func(iface string, kind l3af.HookKind, programs ...l3af.Program) l3af.Chain {
		return l3af.Chain{Interface: iface, Hook: kind, Programs: programs}
	}
	in := func(netns string, c l3af.Chain) l3af.Chain {
		c.Netns = netns
		return c
	}
	mode := func(m l3af.Mode, c l3af.Chain) l3af.Chain {
		c.Mode = m
		return c
	}
	of := func(chains ...l3af.Chain) *l3af.State {
		return &l3af.State{APIVersion: l3af.APIVersion, Chains: chains}
	}
	probe := func(s *l3af.State) *l3af.State {
		s.Probes = []l3af.Probe{{Name: "p", Package: tiny, Entry: "tiny_probe"}}
		return s
	}
	offProbe := func(s *l3af.State) *l3af.State {
		s = probe(s)
		s.Probes[0].Disabled = true
		return s
	}
	inProbe := func(pkg string, s *l3af.State) *l3af.State {
		s.Probes = []l3af.Probe{{Name: "p", Package: pkg, Entry: "tiny_probe", Settings: in1(c).Settings}}
		return s
	}
	v0 := []string{"xdp/v0"}
	return []State{
		{Name: "empty", State: of()},
		{Name: "one", State: of(at("v0", l3af.XDP, a)), Running: v0},
		{Name: "two", State: of(at("v0", l3af.XDP, a, b)), Running: v0},
		{Name: "reordered", State: of(at("v0", l3af.XDP, b, a)), Running: v0},
		{Name: "fixed", State: of(at("v0", l3af.XDP, fixed, b)), Running: v0},
		{Name: "live", State: of(at("v0", l3af.XDP, live, b)), Running: v0},
		{Name: "contents", State: of(at("v0", l3af.XDP, table(3), b)), Running: v0, Entries: 3},
		{Name: "other contents", State: of(at("v0", l3af.XDP, table(1), b)), Running: v0, Entries: 1},
		{Name: "monitor", State: of(at("v0", l3af.XDP, with(table(1), watch), b)), Running: v0, Entries: 3},
		{Name: "proceed", State: of(at("v0", l3af.XDP, proceed, b)), Running: v0},
		{Name: "hooks", State: of(at("v0", l3af.XDP, a), at("v0", l3af.TCIngress, tc(a), tc(b)), at("v0", l3af.TCEgress, tc(b))),
			Running: []string{"xdp/v0", "tc-ingress/v0", "tc-egress/v0"}},
		{Name: "namespace", State: of(in("blue", at("v1", l3af.XDP, b)), at("v0", l3af.XDP, b)), Running: []string{"xdp/blue:v1", "xdp/v0"}},
		{Name: "globs", State: of(at("w*", l3af.XDP, a, b), at("?0", l3af.XDP, b), at("w1", l3af.XDP, b)),
			Running: []string{"xdp/w0", "xdp/v0", "xdp/w1"}},
		{Name: "generic", State: of(mode(l3af.Generic, at("v0", l3af.XDP, a, b))), Running: v0},
		{Name: "native", State: of(mode(l3af.Native, at("v0", l3af.XDP, a, b))), Running: v0},
		{Name: "probe", State: probe(of(at("v0", l3af.XDP, b))), Running: []string{"xdp/v0", "probe/p"}},
		{Name: "version", State: of(at("v0", l3af.XDP, c, b)), Running: v0},
		{Name: "upgraded", State: of(at("v0", l3af.XDP, upgraded, b)), Running: v0},
		{Name: "instance", State: inProbe(tiny, of(at("v0", l3af.XDP, in1(c), b), at("w0", l3af.TCIngress, in1(tc(c))))),
			Running: []string{"xdp/v0", "tc-ingress/w0", "probe/p"}},
		{Name: "instance upgraded", State: inProbe(bigger, of(at("v0", l3af.XDP, in1(upgraded), b), at("w0", l3af.TCIngress, in1(tc(upgraded))))),
			Running: []string{"xdp/v0", "tc-ingress/w0", "probe/p"}},
		{Name: "instance left", State: of(at("v0", l3af.XDP, c, b), at("w0", l3af.TCIngress, in1(tc(c)))), Running: []string{"xdp/v0", "tc-ingress/w0"}},
		{Name: "waiting", State: of(at("nope", l3af.XDP, a), at("v0", l3af.XDP, b), at("z*", l3af.TCEgress, tc(b)), in("nowhere", at("v0", l3af.XDP, a))),
			Running: v0, Waiting: []string{"xdp/nope", "tc-egress/z*", "xdp/nowhere:v0"}},
		{Name: "all", State: probe(of(at("v0", l3af.XDP, table(2), b), at("v0", l3af.TCIngress, tc(a)), in("blue", at("v*", l3af.TCEgress, tc(b), tc(a))), at("w?", l3af.XDP, fixed))),
			Running: []string{"xdp/v0", "tc-ingress/v0", "tc-egress/blue:v1", "xdp/w0", "xdp/w1", "probe/p"}, Entries: 2},
		{Name: "disabled", State: of(at("v0", l3af.XDP, off(c), b)), Running: v0},
		{Name: "all disabled", State: offProbe(of(at("v0", l3af.XDP, off(upgraded), off(a)), at("w0", l3af.TCIngress, in1(tc(off(c)))), at("z*", l3af.TCEgress, tc(off(b))))),
			Disabled: []string{"xdp/v0", "tc-ingress/w0", "tc-egress/z*", "probe/p"}},
		{Name: "enabled", State: probe(of(at("v0", l3af.XDP, upgraded, a), at("w0", l3af.TCIngress, in1(tc(c)), tc(off(b))))),
			Running: []string{"xdp/v0", "tc-ingress/w0", "probe/p"}},
		{Name: "agents", State: of(at("v0", l3af.XDP, start("yes", a), b), at("w0", l3af.TCIngress, start("yes", tc(c)))), Running: []string{"xdp/v0", "tc-ingress/w0"}},
		{Name: "other agents", State: of(at("v0", l3af.XDP, b, start("again", a)), at("w0", l3af.TCIngress, start("yes", tc(c)))), Running: []string{"xdp/v0", "tc-ingress/w0"}},
		{Name: "next", State: of(at("v0", l3af.XDP, next, b)), Running: v0},
		{Name: "pinned", State: of(at("v0", l3af.XDP, pin("v0/a/1", a), b), at("w0", l3af.TCEgress, pin("v0/b", tc(c)))), Running: []string{"xdp/v0", "tc-egress/w0"},
			Outside: []string{"v0/a/1/_data", "v0/a/1/table", "v0/b/_data", "v0/b/table"}},
		{Name: "pinned elsewhere", State: of(at("v0", l3af.XDP, b, pin("v0/a/2", a)), at("w0", l3af.TCEgress, tc(b), pin("v0/b", tc(upgraded)))),
			Running: []string{"xdp/v0", "tc-egress/w0"}, Outside: []string{"v0/a/2/_data", "v0/a/2/table", "v0/b/_data", "v0/b/table"}},
		{Name: "pinned together", State: offProbe(of(at("v0", l3af.XDP, in1(pin("s", a)), b, pin("v0/b", off(c))), at("w0", l3af.TCEgress, in1(pin("s", tc(a))), tc(b)))),
			Running: []string{"xdp/v0", "tc-egress/w0"}, Disabled: []string{"probe/p"}, Outside: []string{"s/_data", "s/table"}},
		{Name: "pinned by name", State: of(at("v0", l3af.TCIngress, pin("n", tc(found))), at("v0", l3af.TCEgress, pin("n", tc(found)), tc(b))),
			Running: []string{"tc-ingress/v0", "tc-egress/v0"}, Outside: []string{"n/_data", "n/table"}},
		{Name: "pinned by name of instances", State: of(at("v0", l3af.TCIngress, pin("n", in1(tc(found)))), at("v0", l3af.TCEgress, pin("n", with(tc(found), func(p *l3af.Program) { p.Instance = "two" })), tc(b))),
			Running: []string{"tc-ingress/v0", "tc-egress/v0"}, Outside: []string{"n/_data", "n/table"}},
		{Name: "pinned by one", State: of(at("v0", l3af.TCIngress, pin("m", tc(found))), at("v0", l3af.TCEgress, tc(b))),
			Running: []string{"tc-ingress/v0", "tc-egress/v0"}, Outside: []string{"m/_data", "m/table"}},
		{Name: "removed", State: of(at("v0", l3af.XDP, b)), Running: v0},
		{Name: "empty again", State: of()},
	}
}
