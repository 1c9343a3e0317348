package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/node"
)

// The real kernel does with random states what the fake does: the same hooks
// run, the same maps are found outside, and in the end nothing is left.
func TestRandomSettingsReal(t *testing.T) {
	m := onReal(t)
	fake := onFake(t)
	type side struct {
		m   *machine
		n   *node.Node
		dir string
	}
	open := func(s *side) {
		t.Helper()
		n, err := node.Open(node.Options{Dir: s.dir, Kernel: s.m.kernel, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		s.n = n
		node.Reconcile(n)
	}
	sides := []*side{{m: m, dir: t.TempDir()}, {m: fake, dir: t.TempDir()}}
	for _, s := range sides {
		open(s)
		defer func() { s.n.Close() }()
	}
	random := rand.New(rand.NewPCG(11, 12))
	for step := range 40 {
		state := node.RandomState(t, random)
		restart := random.IntN(3) == 0
		var pictures []string
		for _, s := range sides {
			var said strings.Builder
			if _, err := s.n.Apply(context.Background(), state, "test", -1); err != nil {
				fmt.Fprintln(&said, err)
			}
			if restart {
				if err := s.n.Close(); err != nil {
					t.Fatal(err)
				}
				s.m.restart()
				open(s)
			}
			status, err := s.n.Status(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range status.Chains {
				fmt.Fprintf(&said, "%s/%s %s %s\n", c.Hook, c.Interface, c.State, c.ID)
				for _, p := range c.Programs {
					fmt.Fprintf(&said, "  %s %s %s\n", p.Name, p.State, p.Linkage)
				}
			}
			for _, p := range status.Probes {
				fmt.Fprintf(&said, "%s %s %s\n", p.Name, p.State, p.ID)
			}
			fmt.Fprintln(&said, status.Errors)
			// The fake leaves more behind than the kernel where an attach fails, and
			// who has a data section of several is chance.
			if !node.AnyFailed(status) {
				outside := slices.DeleteFunc(s.m.outside(), func(path string) bool { return strings.HasSuffix(path, "/_data") })
				slices.Sort(outside)
				fmt.Fprintln(&said, strings.Join(outside, "\n"))
			}
			pictures = append(pictures, said.String())
		}
		if pictures[0] != pictures[1] {
			t.Fatalf("step %d: the kernel has\n%s\nthe fake\n%s", step, pictures[0], pictures[1])
		}
	}
	for _, s := range sides {
		if _, err := s.n.Apply(context.Background(), &l3af.State{APIVersion: l3af.APIVersion}, "test", -1); err != nil {
			t.Fatal(err)
		}
		if left, outside := s.m.left(), s.m.outside(); len(left)+len(outside) > 0 {
			t.Errorf("left %q, outside %q", left, outside)
		}
	}
}
