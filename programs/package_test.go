package programs_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/bind"
	"l3af/internal/chain"
	"l3af/internal/testenv"
	"l3af/internal/value"
	"l3af/programs"
)

var names = []string{"acl", "ratelimit", "stats"}

// Every package.yaml tells the truth about its object, and all of it.
func TestManifests(t *testing.T) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			p, err := artifact.Open("builtin:" + name)
			if err != nil {
				t.Fatal(err)
			}
			m := p.Manifest
			if m.Name != name || m.Version == "" || m.Description == "" || m.License != "GPL-2.0-only OR BSD-2-Clause" {
				t.Errorf("name %q, version %q, license %q, description %q", m.Name, m.Version, m.License, m.Description)
			}
			object, err := p.Object(name + ".bpf.o")
			if err != nil {
				t.Fatal(err)
			}
			spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
			if err != nil {
				t.Fatal(err)
			}
			wanted := map[l3af.HookKind]ebpf.AttachType{
				l3af.XDP: ebpf.AttachXDP, l3af.TCIngress: ebpf.AttachTCXIngress, l3af.TCEgress: ebpf.AttachTCXEgress,
			}
			for _, row := range m.Programs {
				prog := spec.Programs[row.Entry]
				if prog == nil {
					t.Errorf("the object has no %s", row.Entry)
					continue
				}
				if prog.AttachType != wanted[row.Hook] || row.Description == "" || !slices.Equal(row.Proceed, row.Hook.DefaultProceed()) {
					t.Errorf("%s at %s: attach type %s, proceed %s, description %q", row.Entry, row.Hook, prog.AttachType, row.Proceed, row.Description)
				}
				if prog.License != "Dual BSD/GPL" {
					t.Errorf("%s: license %q", row.Entry, prog.License)
				}
				delete(wanted, row.Hook)
				delete(spec.Programs, row.Entry)
			}
			for n := range spec.Programs {
				t.Errorf("program %s is not listed", n)
			}
			for hook := range wanted {
				t.Errorf("nothing runs at %s", hook)
			}
			for _, g := range m.Globals {
				v := spec.Variables[g.Name]
				if v == nil || g.Description == "" {
					t.Errorf("global %s: not in the object, or not described", g.Name)
					continue
				}
				b, err := value.Encode(v.Type, g.Default, value.Options{Network: g.Network})
				if err != nil || !bytes.Equal(b, v.Value) {
					t.Errorf("global %s: default %v is %x (%v), the object has %x", g.Name, g.Default, b, err, v.Value)
				}
				if !v.Constant() {
					t.Errorf("global %s is not const", g.Name)
				}
				delete(spec.Variables, g.Name)
			}
			for n := range spec.Variables {
				t.Errorf("global %s is not described", n)
			}
			for _, row := range m.Maps {
				if spec.Maps[row.Name] == nil || row.Description == "" || row.Key == "" || row.Value == "" {
					t.Errorf("map %s: not in the object, or not described", row.Name)
				}
				delete(spec.Maps, row.Name)
			}
			for n := range spec.Maps {
				if !strings.HasPrefix(n, ".") {
					t.Errorf("map %s is not described", n)
				}
			}
		})
	}
	entries, err := programs.FS.ReadDir(".")
	if err != nil || len(entries) != len(names) {
		t.Errorf("%d folders, %v: want %v", len(entries), err, names)
	}
}

// The shipped programs go into one program at every hook, each twice.
func TestSplice(t *testing.T) {
	for _, kind := range l3af.HookKinds() {
		var members []chain.Member
		for _, name := range append(names, names...) {
			p, err := artifact.Open("builtin:" + name)
			if err != nil {
				t.Fatal(err)
			}
			b, mistakes := bind.Program(p, kind, l3af.Program{Name: name + string(rune('a'+len(members)))}, "x")
			if len(mistakes) > 0 {
				t.Fatal(mistakes)
			}
			members = append(members, b.Member)
		}
		c, err := chain.Compose(kind, members)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Programs) != 6 || len(c.Maps) > 64 {
			t.Errorf("%s: %d programs, %d maps", kind, len(c.Programs), len(c.Maps))
		}
		for _, l := range c.Programs {
			if l.Linkage != chain.Inlined {
				t.Errorf("%s: %s is %s", kind, l.Name, l.Linkage)
			}
		}
	}
}

// What the verifier does for a chain is what it does for its programs, one after
// the other: it does not follow each once more for every way through those before.
func TestChainsVerifyLinearly(t *testing.T) {
	testenv.Clean(t)
	for _, kind := range l3af.HookKinds() {
		sum, members := uint32(0), []chain.Member(nil)
		for i := range 6 {
			name := names[i%len(names)]
			pkg, err := artifact.Open("builtin:" + name)
			if err != nil {
				t.Fatal(err)
			}
			b, mistakes := bind.Program(pkg, kind, l3af.Program{Name: fmt.Sprint(name, i)}, "")
			if mistakes != nil {
				t.Fatal(mistakes)
			}
			members = append(members, b.Member)
			sum += verified(t, kind, b.Member)
		}
		if all := verified(t, kind, members...); float64(all) > 1.3*float64(sum) {
			t.Errorf("%s: the verifier looks at %d instructions of a chain, at %d of its programs", kind, all, sum)
		}
	}
}

// verified is how many instructions the verifier looks at to load a chain.
func verified(t *testing.T, kind l3af.HookKind, members ...chain.Member) uint32 {
	t.Helper()
	c, err := chain.Compose(kind, members)
	if err != nil {
		t.Fatal(err)
	}
	spec := c.Program.Copy()
	for _, m := range c.Maps {
		opened, err := ebpf.NewMap(m.Spec)
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Close()
		if err := spec.Instructions.AssociateMap(m.Ref, opened); err != nil {
			t.Fatal(err)
		}
	}
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	n, ok := info.VerifiedInstructions()
	if !ok {
		t.Fatal("the kernel does not say how many instructions it looked at")
	}
	return n
}

// The package of the README is one.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, manifest, _ := strings.Cut(string(text), "```yaml\n")
	manifest, _, ok := strings.Cut(manifest, "```")
	if !ok {
		t.Fatal("no example")
	}
	m, err := artifact.ParseManifest([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	if !m.Globals[1].Network || !m.Maps[0].KeyNetwork || m.Maps[0].Default == nil {
		t.Errorf("%+v", m)
	}
}
