package examples

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/bind"
	"l3af/internal/chain"
	"l3af/internal/doc"
	"l3af/internal/host"
	"l3af/internal/kernel"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// Every example is a whole document that the kernel takes.
func TestDocuments(t *testing.T) {
	testenv.Clean(t)
	k, err := kernel.New(testenv.Bpffs(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	files, _ := filepath.Glob("*.yaml")
	if len(files) < 3 {
		t.Fatalf("examples: %s", files)
	}
	for _, file := range files {
		s := read(t, file)
		for i, c := range s.Chains {
			var members []chain.Member
			var contents []host.Contents
			for j, p := range c.Programs {
				b, mistakes := bind.Program(open(t, p.Package), c.Hook, p, fmt.Sprintf("chains[%d].programs[%d]", i, j))
				if len(mistakes) > 0 {
					t.Fatalf("%s: %v", file, mistakes)
				}
				members, contents = append(members, b.Member), append(contents, b.Contents...)
			}
			composed, err := chain.Compose(c.Hook, members)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			target := host.Target{Hook: l3af.Hook{Interface: "lo", Kind: c.Hook}}
			if err := k.TestLoad(host.Load{Target: target, Mode: l3af.Generic, Chain: composed, Contents: contents}); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		for i, p := range s.Probes {
			b, mistakes := bind.Probe(open(t, p.Package), p, fmt.Sprintf("probes[%d]", i))
			if len(mistakes) > 0 {
				t.Fatalf("%s: %v", file, mistakes)
			}
			composed, err := chain.Single(b.Attach, b.Member)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if err := k.TestLoad(host.Load{Target: host.Target{Probe: p.Name}, Chain: composed, Contents: b.Contents}); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

func read(t *testing.T, file string) *l3af.State {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := doc.Parse(b)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	s, err := l3af.ParseState(tree)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return s
}

// open opens a package as `l3af apply` has it opened: relative to the document.
func open(t *testing.T, ref string) *artifact.Package {
	t.Helper()
	if strings.HasPrefix(ref, "./") {
		abs, err := filepath.Abs(ref)
		if err != nil {
			t.Fatal(err)
		}
		ref = abs
	}
	p, err := artifact.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What is executed is counted by its name.
func TestExecs(t *testing.T) {
	testenv.Clean(t)
	spec, err := ebpf.LoadCollectionSpec("execs/execs.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exec", Program: c.Programs["execs_raw"]})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// A name that nobody else executes.
	name := fmt.Sprintf("l3af%d", os.Getpid())
	script := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := exec.Command(script).Run(); err != nil {
			t.Fatal(err)
		}
	}
	var key [16]byte
	copy(key[:], name)
	var n uint64
	if err := c.Maps["execs_by_comm"].Lookup(key, &n); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatal(err)
	}
	if n != 3 {
		t.Errorf("%s ran 3 times, counted %d", name, n)
	}
}
