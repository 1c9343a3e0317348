package bind

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/host"
	"l3af/internal/testenv"
	"l3af/internal/value"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

func decode(t testing.TB, text string, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// manifest describes testdata/all.bpf.o and testdata/probe.bpf.o.
const manifest = `apiVersion: l3af/v1
name: pack
programs:
- {entry: all, object: all.bpf.o, hook: xdp, proceed: [pass, tx]}
- {entry: tc_in, object: all.bpf.o, hook: tc-ingress}
- {entry: tc_out, object: all.bpf.o, hook: tc-ingress}
- {entry: execs, object: probe.bpf.o, attach: tracepoint/sched/sched_process_exec}
- {entry: raw, object: all.bpf.o, attach: raw_tracepoint/sys_exit}
globals:
- {name: verdict, default: drop}
- {name: port, order: network}
- {name: budget, default: 500}
- {name: verbose}
- {name: count}
maps:
- {name: lru, key_order: network, value_order: network}
`

func bare(t testing.TB, name string) *artifact.Package {
	t.Helper()
	abs, err := filepath.Abs("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := artifact.Open(abs)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// packed is a package of both objects without a manifest.
func packed(t testing.TB) *artifact.Package {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range []string{"all.bpf.o", "probe.bpf.o", "damaged.o"} {
		text, err := os.ReadFile("testdata/" + name)
		if name == "damaged.o" {
			text, err = []byte("no ELF"), nil
		}
		f, createErr := w.Create("pack/" + name)
		if err := errors.Join(err, createErr); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "pack.zip")
	if err := errors.Join(w.Close(), os.WriteFile(path, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	p, err := artifact.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func listed(t testing.TB, manifest string) *artifact.Package {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{"package.yaml": []byte(manifest)}
	for _, name := range []string{"all.bpf.o", "probe.bpf.o"} {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := artifact.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func lines(ms []l3af.Mistake) string {
	out := make([]string, len(ms))
	for i, m := range ms {
		out[i] = m.String()
	}
	return strings.Join(out, "\n")
}

const at = "chains[1].programs[0]"

func TestChoose(t *testing.T) {
	all, probe, pack := bare(t, "all.bpf.o"), bare(t, "probe.bpf.o"), listed(t, manifest)
	archive := packed(t)
	for _, r := range []struct {
		pkg     *artifact.Package
		kind    l3af.HookKind
		program string
		want    string // "entry proceed", or the mistakes
	}{
		{all, l3af.XDP, `{}`, "all [pass]"},
		{all, l3af.XDP, `{"entry": "all", "proceed": ["drop", "pass"]}`, "all [drop pass]"},
		{all, l3af.TCIngress, `{}`, "tc_in [unspec ok pipe]"},
		{all, l3af.TCEgress, `{}`, "tc_out [unspec ok pipe]"},
		{all, l3af.TCEgress, `{"entry": "tc_in"}`, "tc_in [unspec ok pipe]"},
		{all, l3af.XDP, `{"entry": "al"}`, `entry: the object has no program "al" (did you mean "all"?)`},
		{all, l3af.XDP, `{"entry": "tc_in"}`, `entry: "tc_in" is a tc program, not xdp`},
		{all, l3af.TCIngress, `{"entry": "all"}`, `entry: "all" is an xdp program, not tc-ingress`},
		{all, l3af.XDP, `{"entry": "other"}`, `entry: "other" is a kprobe program, not xdp`},
		{all, l3af.XDP, `{"entry": "mystery"}`, `entry: "mystery" is a typeless (section unknown) program, not xdp`},
		{all, l3af.XDP, `{"entry": "in_devmap"}`, `entry: "in_devmap" runs from an entry of a map (section xdp/devmap), not at a hook`},
		{all, l3af.XDP, `{"proceed": ["pass", "ok", "pass"]}`, `proceed[1]: "ok" is no verdict of xdp (there are aborted, drop, pass, tx, redirect)` + "\n" +
			at + `.proceed[2]: "pass" is there already`},
		{all, "xpd", `{}`, `unknown hook "xpd"`},
		{probe, l3af.XDP, `{}`, `package: the object has no xdp program (it has execs (tracepoint), out (tc))`},
		{probe, l3af.TCEgress, `{}`, "out [unspec ok pipe]"},
		{probe, l3af.TCIngress, `{}`, `entry: "out" is a tc-egress program, not tc-ingress (write entry: out to run it here all the same)`},
		{probe, l3af.TCIngress, `{"entry": "out"}`, "out [unspec ok pipe]"},
		{archive, l3af.XDP, `{}`, "all [pass]"},
		{archive, l3af.XDP, `{"entry": "all"}`, "all [pass]"},
		{archive, l3af.TCEgress, `{"entry": "out"}`, "out [unspec ok pipe]"},
		{archive, l3af.TCEgress, `{}`, `object: is required: 2 objects of the package have such a program (write one of all.bpf.o, probe.bpf.o)`},
		{archive, l3af.TCEgress, `{"object": "probe.bpf.o"}`, "out [unspec ok pipe]"},
		{archive, l3af.XDP, `{"object": "probe.bpf.o"}`, `package: the object has no xdp program (it has execs (tracepoint), out (tc))`},
		{archive, l3af.XDP, `{"object": "alls.bpf.o"}`, `object: package all has no object "alls.bpf.o" (did you mean "all.bpf.o"?)`},
		{archive, l3af.XDP, `{"object": "damaged.o"}`, `package: object damaged.o: not an ELF file`},
		{archive, l3af.XDP, `{"entry": "al"}`, `package: object damaged.o: not an ELF file`},
		{pack, l3af.XDP, `{"object": "all.bpf.o"}`, "all [pass tx]"},
		{pack, l3af.XDP, `{"object": "probe.bpf.o"}`, `package: object probe.bpf.o of package pack has no xdp program (it has execs (probe))`},
		{pack, l3af.XDP, `{}`, "all [pass tx]"},
		{pack, l3af.XDP, `{"proceed": ["pass"]}`, "all [pass]"},
		{pack, l3af.XDP, `{"entry": "alls"}`, `entry: package pack has no program "alls" (did you mean "all"?)`},
		{pack, l3af.XDP, `{"entry": "tc_in"}`, `entry: "tc_in" is a tc-ingress program, not xdp (there is only "all")`},
		{pack, l3af.XDP, `{"entry": "execs"}`, `entry: "execs" is a probe program, not xdp (there is only "all")`},
		{pack, l3af.TCEgress, `{}`, `package: package pack has no tc-egress program (it has all (xdp), tc_in (tc-ingress), tc_out (tc-ingress), execs (probe), raw (probe))`},
		{pack, l3af.TCIngress, `{}`, `entry: is required: package pack has 2 tc-ingress programs (write one of tc_in, tc_out)`},
		{listed(t, "apiVersion: l3af/v1\nname: p\nprograms: [{entry: gone, object: all.bpf.o, hook: xdp}]"), l3af.XDP, `{}`,
			`package: package p: object all.bpf.o has no program "gone", which its manifest names (there are all, in_devmap, mystery, other, raw, tc_in, tc_out)`},
		{listed(t, "apiVersion: l3af/v1\nname: p\nprograms: [{entry: tc_in, object: all.bpf.o, hook: xdp}]"), l3af.XDP, `{}`,
			`entry: "tc_in" is a tc program, not xdp`},
	} {
		p := l3af.Program{Name: "one"}
		decode(t, r.program, &p)
		b, mistakes := Program(r.pkg, r.kind, p, at)
		got := ""
		if got = lines(mistakes); len(mistakes) == 0 {
			got = fmt.Sprint(b.Member.Entry, " ", b.Member.Proceed)
		} else if b != nil {
			t.Errorf("%s %s: bound with mistakes", r.kind, r.program)
		}
		want := r.want
		if len(mistakes) > 0 && !strings.HasPrefix(want, "unknown") {
			want = at + "." + want
		} else if len(mistakes) > 0 {
			want = at + ": " + want
		}
		if got != want {
			t.Errorf("%s of %s at %s:\n got %s\nwant %s", r.program, r.pkg.Manifest.Name, r.kind, got, want)
		}
	}
}

// What agents run is in the package.
func TestAgent(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"run": 0o755, "sub/conf": 0o644, "all.bpf.o": 0o755} {
		text, err := os.ReadFile("testdata/all.bpf.o")
		path := filepath.Join(dir, name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, mode)); err != nil {
			t.Fatal(err)
		}
	}
	open := func(files string) *artifact.Package {
		t.Helper()
		text := "apiVersion: l3af/v1\nname: p\nprograms: [{entry: all, object: all.bpf.o, hook: xdp}]\nfiles: " + files
		if err := os.WriteFile(filepath.Join(dir, "package.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := artifact.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	with, without := open("[run, sub/conf]"), open("[]")
	for _, r := range []struct {
		pkg         *artifact.Package
		agent, want string
	}{
		{with, `{"start": ["run"], "stop": ["run", "x"], "files": {"sub/conf": "mine", "sub/more": "x"}}`, ""},
		{with, `{"start": ["rum"]}`, `.agent.start[0]: package p has no file "rum" that can be run (did you mean "run"?)`},
		{with, `{"status": ["sub/conf"]}`, `.agent.status[0]: "sub/conf" of package p is not executable (chmod +x before it is packed)`},
		{with, `{"update": ["all.bpf.o"]}`, `.agent.update[0]: "all.bpf.o" of package p is not executable (chmod +x before it is packed)`},
		{without, `{"stop": ["run"]}`, `.agent.stop[0]: package p has no file "run" (its package.yaml must list it in files)`},
		{with, `{"files": {"sub": "x"}}`, `.agent.files["sub"]: sub is a file, and cannot be a directory as well`},
		{with, `{"files": {"run/x": "x"}}`, `.agent.files["run/x"]: run is a file, and cannot be a directory as well`},
		{without, `{"files": {"a": "x", "a/b": "x"}}`, `.agent.files["a"]: a is a file, and cannot be a directory as well` + "\n" +
			at + `.agent.files["a/b"]: a is a file, and cannot be a directory as well`},
	} {
		p := l3af.Program{Name: "one"}
		decode(t, `{"agent": `+r.agent+`}`, &p)
		_, mistakes := Program(r.pkg, l3af.XDP, p, at)
		want := r.want
		if want != "" {
			want = at + want
		}
		if got := lines(mistakes); got != want {
			t.Errorf("%s:\n got %s\nwant %s", r.agent, got, want)
		}
	}
}

func TestProbe(t *testing.T) {
	all, probe, pack := bare(t, "all.bpf.o"), bare(t, "probe.bpf.o"), listed(t, manifest)
	twice := listed(t, `{"apiVersion": "l3af/v1", "name": "twice", "programs": [
		{"entry": "execs", "object": "probe.bpf.o", "attach": "tp/sched/sched_process_exec"},
		{"entry": "execs", "object": "probe.bpf.o", "attach": "tp/sched/sched_process_exit"}]}`)
	for _, r := range []struct {
		pkg   *artifact.Package
		probe string
		want  string
	}{
		{probe, `{}`, "execs at tracepoint/sched/sched_process_exec"},
		{probe, `{"attach": "tp/sched/sched_process_exit"}`, "execs at tracepoint/sched/sched_process_exit"},
		{probe, `{"attach": "raw_tracepoint/sys_enter"}`, `.attach: "execs" is a tracepoint program: it cannot attach to raw_tracepoint/sys_enter`},
		{probe, `{"attach": "kprobe/"}`, `.attach: cannot attach to "kprobe/": want ` + l3af.AttachForms},
		{all, `{}`, ".entry: is required: the object has 2 probe programs (write one of other, raw)"},
		{all, `{"entry": "raw"}`, "raw at raw_tracepoint/sys_enter"},
		{all, `{"entry": "other"}`, "other at kprobe/do_exit"},
		{all, `{"entry": "other", "attach": "uretprobe//lib/libc.so.6:malloc"}`, "other at uretprobe//lib/libc.so.6:malloc"},
		{all, `{"entry": "raw", "attach": "kprobe/do_exit"}`, `.attach: "raw" is a raw_tracepoint program: it cannot attach to kprobe/do_exit`},
		{pack, `{}`, `.entry: is required: package pack has 2 probe programs (write one of execs, raw)`},
		{pack, `{"attach": "raw_tp/sys_exit"}`, "raw at raw_tracepoint/sys_exit"},
		{pack, `{"entry": "raw"}`, "raw at raw_tracepoint/sys_exit"},
		{pack, `{"entry": "raw", "attach": "raw_tp/sys_enter"}`, "raw at raw_tracepoint/sys_enter"},
		{pack, `{"entry": "all"}`, `.entry: "all" is an xdp program, not probe (there are execs, raw)`},
		{twice, `{}`, `.attach: is required: "execs" of package twice is for several events`},
		{twice, `{"attach": "tp/sched/sched_process_exit"}`, "execs at tracepoint/sched/sched_process_exit"},
	} {
		p := l3af.Probe{Name: "one"}
		decode(t, r.probe, &p)
		b, mistakes := Probe(r.pkg, p, "probes[0]")
		got, want := lines(mistakes), r.want
		if len(mistakes) == 0 {
			got = b.Member.Entry + " at " + b.Attach
		} else {
			want = "probes[0]" + want
		}
		if got != want {
			t.Errorf("%s of %s:\n got %s\nwant %s", r.probe, r.pkg.Manifest.Name, got, want)
		}
	}
}

func TestConfig(t *testing.T) {
	p := l3af.Program{Name: "one"}
	decode(t, `{"config": {"port": 80, "net_port": 80, "gateway": "2001:db8::1", "label": "up", "counter": "0x10"}}`, &p)
	const gateway = " \x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
	check := func(b *Bound, name, want string) {
		t.Helper()
		if got := string(b.Member.Spec.Variables[name].Value); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	b, mistakes := Program(bare(t, "all.bpf.o"), l3af.XDP, p, at)
	if mistakes != nil {
		t.Fatal(lines(mistakes))
	}
	vars := b.Member.Spec.Variables
	check(b, "verdict", "\x00\x00\x00\x00")
	check(b, "port", "\x50\x00")
	check(b, "net_port", "\x00\x50")
	check(b, "gateway", gateway)
	// Constants are part of the program. The others are patches, and what the
	// object says of them stays: the program does not depend on their values.
	check(b, "label", "none"+strings.Repeat("\x00", 12))
	check(b, "counter", "\x00\x00\x00\x00")
	want := []host.Contents{
		{Member: "one", Map: ".bss", Patches: []host.Patch{{Offset: int(vars["counter"].Offset), Data: []byte{16, 0, 0, 0}, Variable: "counter"}}},
		{Member: "one", Map: ".data", Patches: []host.Patch{{Offset: int(vars["label"].Offset), Data: []byte("up" + strings.Repeat("\x00", 14)), Variable: "label"}}},
	}
	if !reflect.DeepEqual(b.Contents, want) {
		t.Errorf("contents = %+v, want %+v", b.Contents, want)
	}

	// With a manifest: its byte order and defaults; what it lists is patched
	// even where the document is silent, so that a removed line has an effect.
	b, mistakes = Program(listed(t, manifest), l3af.XDP, p, at)
	if mistakes != nil {
		t.Fatal(lines(mistakes))
	}
	check(b, "verdict", "\x01\x00\x00\x00")
	check(b, "port", "\x00\x50")
	var patched []string
	for _, c := range b.Contents {
		for _, patch := range c.Patches {
			for name, v := range vars {
				if v.SectionName == c.Map && int(v.Offset) == patch.Offset {
					what := fmt.Sprintf("%s %x", name, patch.Data)
					if patch.Default {
						what += " by default"
					}
					patched = append(patched, what)
				}
			}
		}
	}
	wantPatched := []string{"counter 10000000", "verbose 00 by default", "budget f401000000000000 by default", "label 75700000000000000000000000000000"}
	if !reflect.DeepEqual(patched, wantPatched) {
		t.Errorf("patches = %q, want %q", patched, wantPatched)
	}
}

func TestMistakes(t *testing.T) {
	for _, r := range []struct{ program, want string }{
		{`{"config": {"verdct": 1}}`, `config.verdct: package all has no global "verdct" (did you mean "verdict"?)`},
		{`{"config": {"hidden": 1}}`, `config.hidden: "hidden" is static in the object (only globals that are not static can be set)`},
		{`{"config": {"unused": 1}}`, `config.unused: program "all" does not use the global "unused" (there are budget, counter, gateway, label, net_port, port, verbose, verdict)`},
		{`{"config": {"port": 65536, "verdict": "dorp", "gateway": {"in6_u": {"u6_addr8": [1]}}}}`,
			`config.gateway.in6_u.u6_addr8: 1 bytes are too few: __u8[16] wants exactly 16` + "\n" +
				at + `.config.port: 65536 is out of range: 0 to 65535` + "\n" +
				at + `.config.verdict: "dorp" is not a name of enum verdict (did you mean "DROP"?)`},
		{`{"maps": {"hsh": []}}`, `maps.hsh: package all has no map "hsh" (did you mean "hash"?)`},
		{`{"maps": {".bss": []}}`, `maps..bss: package all has no map ".bss" (there are array, blind, blind_deny, by_verdict, cpus, deny, deny4, hash, huge, lru, percpu, percpu_hash and 4 more)`},
		{`{"maps": {"events": []}}`, `maps.events: "events" is a map of type RingBuf, which cannot be given contents`},
		{`{"maps": {"jumps": []}}`, `maps.jumps: "jumps" is a map of type ProgramArray, which cannot be given contents`},
		{`{"maps": {"readonly": []}}`, `maps.readonly: "readonly" is a map that only programs write (BPF_F_RDONLY)`},
		{`{"maps": {"not_used": []}}`, `maps.not_used: program "all" does not use the map "not_used" (there are array, blind, blind_deny, by_verdict, cpus, deny, deny4, hash, huge, lru, percpu, percpu_hash and 4 more)`},
		{`{"maps": {"array": [{"key": 0}, {"key": 1}, {"key": 2}, {"key": 3}, {"key": 4}]}}`, `maps.array: 5 entries do not fit: the map holds 4 (max_entries)`},
		{`{"maps": {"array": [{"key": 4, "value": {"rate": 1}}, {"key": 0, "value": {"rte": 1}}, {"key": "0", "value": {}}]}}`,
			`maps.array[0].key: index 4 is out of range: 0 to 3` + "\n" +
				at + `.maps.array[1].value: there is no member "rte" (did you mean "rate"?)` + "\n" +
				at + `.maps.array[2].key: is the key of maps.array[1] already`},
		{`{"maps": {"deny": [{"key": "10.0.0.0/8", "value": 1}, {"key": "::ffff:10.0.0.0/104", "value": 2}, {"key": "10.0.0.1/8", "value": 1}]}}`,
			`maps.deny[1].key: is the key of maps.deny[0] already` + "\n" +
				at + `.maps.deny[2].key: "10.0.0.1/8" has bits set after the prefix (the network is 10.0.0.0/8)`},
		{`{"maps": {"hash": [{"key": {"addr": "::1", "prt": 1}, "value": {"rate": -1}}]}}`,
			`maps.hash[0].key: there is no member "prt" (did you mean "port"?)` + "\n" +
				at + `.maps.hash[0].value.rate: -1 is out of range: 0 to 4294967295`},
		{`{"maps": {"hash": [{"key": {}}]}}`, `maps.hash[0].value: want a map with members of struct limit (rate, burst), have null`},
		{`{"maps": {"ports": [{"key": 0, "value": "eth0"}, {"key": 1, "value": 0}, {"key": 2, "value": {"ifindex": 1, "bpf_prog": 2}}, {"key": 3, "value": -1}]}}`,
			`maps.ports[0].value: want the index of an interface, have "eth0" (ip link shows it)` + "\n" +
				at + `.maps.ports[1].value: 0 is not an interface (leave the entry out)` + "\n" +
				at + `.maps.ports[2].value.bpf_prog: only ifindex can be set` + "\n" +
				at + `.maps.ports[3].value: -1 is out of range: 0 to 4294967295`},
		{`{"maps": {"blind": [{"key": 0, "value": {"a": 1}}]}}`, `maps.blind[0].value: want an integer of 8 bytes, have a map (the object has no type information for it)`},
		{`{"maps": {"huge": [{"key": 0, "value": 0}]}}`, `maps.huge: 1 entries of 1073741828 bytes are too much: at most 256 MiB`},
		{fmt.Sprintf(`{"maps": {"percpu": [{"key": 0, "value": [%s{}]}, {"key": 1, "value": []}]}}`, strings.Repeat("{},", ebpf.MustPossibleCPU())),
			fmt.Sprintf("maps.percpu[0].value: want a value for each of %d possible CPUs, have %d (write one value for all)\n"+
				at+".maps.percpu[1].value: want a value for each of %[1]d possible CPUs, have 0 (write one value for all)", ebpf.MustPossibleCPU(), ebpf.MustPossibleCPU()+1)},
	} {
		p := l3af.Program{Name: "one"}
		decode(t, r.program, &p)
		b, mistakes := Program(bare(t, "all.bpf.o"), l3af.XDP, p, at)
		if got, want := lines(mistakes), at+"."+r.want; got != want || b != nil {
			t.Errorf("%s:\n got %s\nwant %s", r.program, got, want)
		}
	}
	const bad = "apiVersion: l3af/v1\nname: p\nprograms: [{entry: all, object: all.bpf.o, hook: xdp}]\nglobals: [{name: port, default: -1}]"
	_, mistakes := Program(listed(t, bad), l3af.XDP, l3af.Program{Name: "one"}, at)
	if got, want := lines(mistakes), at+`.package: package p: default of port: -1 is out of range: 0 to 65535`; got != want {
		t.Errorf("bad default:\n got %s\nwant %s", got, want)
	}
}

// The programs that l3af ships bind with nothing but their manifests.
func TestBuiltins(t *testing.T) {
	for _, name := range []string{"acl", "ratelimit", "stats"} {
		pkg, err := artifact.Open("builtin:" + name)
		if err != nil {
			t.Fatal(err)
		}
		used := map[string]bool{}
		for i := range pkg.Manifest.Programs {
			row := &pkg.Manifest.Programs[i]
			b, mistakes := Program(pkg, row.Hook, l3af.Program{Name: name, Entry: row.Entry}, at)
			if mistakes != nil {
				t.Errorf("%s at %s: %s", name, row.Hook, lines(mistakes))
				continue
			}
			for v := range b.Member.Spec.Variables {
				used[v] = true
			}
			for m := range b.Member.Spec.Maps {
				used[m] = true
			}
		}
		for _, g := range pkg.Manifest.Globals {
			if !used[g.Name] {
				t.Errorf("%s: its manifest lists the global %s, its objects have none", name, g.Name)
			}
		}
		for _, m := range pkg.Manifest.Maps {
			if !used[m.Name] {
				t.Errorf("%s: its manifest lists the map %s, its objects have none", name, m.Name)
			}
		}
	}
}

// A rule without an action would end the list: all rules after it, and its
// own conditions, would count for nothing.
func TestACLRuleWithoutAction(t *testing.T) {
	pkg, err := artifact.Open("builtin:acl")
	if err != nil {
		t.Fatal(err)
	}
	p := l3af.Program{Name: "acl"}
	decode(t, `{"config": {"rules": [{"action": "drop"}, {"protocol": "tcp"}]}}`, &p)
	_, mistakes := Program(pkg, l3af.XDP, p, at)
	if got, want := lines(mistakes), at+".config.rules[1]: action is required"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A document as people write it for acl: rules are a list of maps that is
// shorter than the array, with prefixes of both families in structs.
func TestACLDocument(t *testing.T) {
	pkg, err := artifact.Open("builtin:acl")
	if err != nil {
		t.Fatal(err)
	}
	p := l3af.Program{Name: "acl"}
	decode(t, `{
		"config": {"default_verdict": "drop", "rules": [
			{"action": "drop", "src": "10.0.0.0/8", "protocol": "tcp", "dst_port": [80]},
			{"action": "pass", "dst": "2001:db8::1", "vlan": "0x5"}]},
		"maps": {"deny": [{"key": "203.0.113.0/24", "value": 1}, {"key": "2001:db8::/32", "value": 2}]}}`, &p)
	b, mistakes := Program(pkg, l3af.XDP, p, at)
	if mistakes != nil {
		t.Fatal(lines(mistakes))
	}
	rules := b.Member.Spec.Variables["rules"]
	got, err := value.Decode(rules.Type, rules.Value, value.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var want any
	decode(t, `[
		{"action": "drop", "protocol": "tcp", "src": "10.0.0.0/8", "dst": "::/0", "src_port": [0, 0], "dst_port": [80, 0], "vlan": 0},
		{"action": "pass", "protocol": "any", "src": "::/0", "dst": "2001:db8::1/128", "src_port": [0, 0], "dst_port": [0, 0], "vlan": 5}]`, &want)
	if list, ok := got.([]any); !ok || len(list) != 64 || !reflect.DeepEqual(list[:2], want) {
		t.Errorf("rules = %v, want %v and zeroes", got, want)
	}
	contents := []host.Contents{{Member: "acl", Map: "deny", Full: true, Entries: []host.Entry{
		{Key: []byte("\x78\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xcb\x00\x71\x00"), Values: [][]byte{{1, 0, 0, 0}}},
		{Key: []byte("\x20\x00\x00\x00\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), Values: [][]byte{{2, 0, 0, 0}}},
	}}}
	// Of the maps that it does not name, the document wants what the manifest says.
	for _, name := range []string{"allow", "allow_dst", "deny_dst"} {
		contents = append(contents, host.Contents{Member: "acl", Map: name, Full: true, Entries: []host.Entry{}, Default: true})
	}
	slices.SortFunc(contents, func(a, b host.Contents) int { return strings.Compare(a.Map, b.Map) })
	if !reflect.DeepEqual(b.Contents, contents) {
		t.Errorf("contents = %+v, want %+v", b.Contents, contents)
	}
}
