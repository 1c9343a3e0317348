package bind

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/chain"
)

// corpus makes a package of an object of the composer's corpus; without lines
// about its programs it is the bare object.
func corpus(t *testing.T, object, programs string) *artifact.Package {
	t.Helper()
	b, err := os.ReadFile("../chain/testdata/corpus/" + object + ".bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ref := filepath.Join(dir, "o.bpf.o")
	if err := os.WriteFile(ref, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if programs != "" {
		text := "apiVersion: l3af/v1\nname: pack\nprograms:\n" + programs
		if err := os.WriteFile(filepath.Join(dir, "package.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		ref = dir
	}
	p, err := artifact.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What programs for L3AF and libxdp, and those in sections with old names, say
// about themselves is understood.
func TestOtherChainers(t *testing.T) {
	for _, r := range []struct {
		object, programs string
		kind             l3af.HookKind
		program          string
		want             string // "entry next proceed priority", or the mistakes
	}{
		{"l3af", "- {entry: l3af_xdp, object: o.bpf.o, hook: xdp, map_name: next_program}\n", l3af.XDP, `{}`, "l3af_xdp next_program [pass]"},
		{"l3af", "- {entry: l3af_xdp, object: o.bpf.o, hook: xdp, chain: l3af}\n", l3af.XDP, `{}`, "l3af_xdp next_program [pass]"},
		{"l3af", "- {entry: l3af_xdp, object: o.bpf.o, hook: xdp}\n", l3af.XDP, `{}`, "l3af_xdp  [pass]"},
		{"l3af", "- {entry: l3af_xdp, object: o.bpf.o, hook: xdp, map_name: gone}\n", l3af.XDP, `{}`, `no map "gone", which its manifest names`},
		{"l3af", "- {entry: l3af_xdp, object: o.bpf.o, hook: xdp, map_name: packets}\n", l3af.XDP, `{}`, "map packets is no empty array of one program"},
		{"l3af", "", l3af.XDP, `{"entry": "l3af_xdp", "next": "next_program"}`, "l3af_xdp next_program [pass]"},
		{"l3af", "", l3af.XDP, `{"entry": "l3af_xdp", "next": "packets"}`, `chains[1].programs[0].next: map "packets" is no empty array of one program`},
		{"l3af", "", l3af.XDP, `{"entry": "l3af_xdp", "next": "next_programs"}`, `.next: package o has no map "next_programs" (did you mean "next_program"?)`},
		{"tailcalls", "- {entry: tailcalls, object: o.bpf.o, hook: xdp, chain: l3af}\n", l3af.XDP, `{}`, `"tailcalls" is listed as written for L3AF, and uses no empty array of one program`},
		{"libxdp", "", l3af.XDP, `{"entry": "libxdp_tx"}`, "libxdp_tx  [pass tx] 10"},
		{"libxdp", "", l3af.XDP, `{"entry": "libxdp_tx", "proceed": ["tx"]}`, "libxdp_tx  [tx] 10"},
		{"libxdp", "- {entry: libxdp_tx, object: o.bpf.o, hook: xdp, proceed: [drop]}\n", l3af.XDP, `{}`, "libxdp_tx  [drop] 10"},
		{"libxdp", "", l3af.XDP, `{"entry": "libxdp_silent"}`, "libxdp_silent  [pass]"},
		{"sections", "", l3af.XDP, `{"entry": "section_any"}`, "section_any  [pass]"},
		{"sections", "", l3af.XDP, `{"entry": "section_frags_named"}`, "section_frags_named  [pass]"},
		{"tc", "", l3af.TCIngress, `{"entry": "tc_slash"}`, "tc_slash  [unspec ok pipe]"},
		{"tc", "", l3af.TCEgress, `{"entry": "tc_action"}`, "tc_action  [unspec ok pipe]"},
	} {
		var p l3af.Program
		decode(t, r.program, &p)
		p.Name = "x"
		b, mistakes := Program(corpus(t, r.object, r.programs), r.kind, p, at)
		got := lines(mistakes)
		if b != nil {
			got = fmt.Sprintf("%s %s %v", b.Member.Entry, b.Member.Next, b.Member.Proceed)
			if b.Priority != nil {
				got += fmt.Sprintf(" %d", *b.Priority)
			}
			if _, err := chain.Compose(r.kind, []chain.Member{b.Member}); err != nil {
				t.Errorf("%s %s: %v", r.object, r.program, err)
			}
		}
		if got != r.want && (b != nil || !strings.Contains(got, r.want)) {
			t.Errorf("%s %s %s:\ngot  %s\nwant %s", r.object, r.programs, r.program, got, r.want)
		}
	}
}

// What only the programs use that a program tail-calls belongs to it too.
func TestHeldProgramsAreUsed(t *testing.T) {
	pkg := corpus(t, "tailcalls", "")
	for config, want := range map[string]string{
		`{"trail": 5}`: "",
		`{"gone": 5}`:  `has no global "gone"`,
	} {
		var p l3af.Program
		decode(t, `{"name": "x", "entry": "tailcalls", "config": `+config+`}`, &p)
		b, mistakes := Program(pkg, l3af.XDP, p, at)
		if got := lines(mistakes); (want == "") != (b != nil) || !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", config, got, want)
		}
	}
	// Of the tail-called programs alone, second uses less than first holds.
	x := binder{objects: new(Objects), pkg: pkg, kind: l3af.XDP}
	if !x.load(pkg.Objects()[0]) {
		t.Fatal(x.mistakes)
	}
	x.prog = x.spec.Programs["second"]
	if x.uses("programs") || !x.uses(".bss") {
		t.Errorf("second uses %v", x.used)
	}
	x.prog, x.used = x.spec.Programs["first"], nil
	if !x.uses("programs") || !x.uses(".bss") {
		t.Errorf("first uses %v", x.used)
	}
}
