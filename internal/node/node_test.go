package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/host"
	"l3af/internal/node/fake"
)

// state finds one of the table.
func state(name string) *l3af.State {
	for _, s := range States() {
		if s.Name == name {
			return s.State
		}
	}
	panic(name)
}

// chainAt finds the status of a chain.
func chainAt(t *testing.T, s *l3af.Status, at string) l3af.ChainStatus {
	t.Helper()
	for _, c := range s.Chains {
		if (l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}).String() == at {
			return c
		}
	}
	t.Fatalf("no %s in %+v", at, s.Chains)
	return l3af.ChainStatus{}
}

func verbs(steps []l3af.Step) []string {
	list := []string{}
	for _, s := range steps {
		list = append(list, s.Verb+" "+s.Target)
	}
	return list
}

func wantSteps(t *testing.T, steps []l3af.Step, want ...string) {
	t.Helper()
	if got := verbs(steps); !slices.Equal(got, want) {
		t.Errorf("steps are %q, want %q", got, want)
	}
}

// One apply at a time: others are told so at once, and see the revision that
// is in force. An apply outlives its client.
func TestConcurrentApplies(t *testing.T) {
	r := newRig(t)
	r.apply(state("one"))
	inside, go_on := make(chan bool), make(chan bool)
	var once sync.Once
	r.k.Before = func(method string, _ host.Target) error {
		if method == "Attach" {
			once.Do(func() { close(inside); <-go_on })
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		a, err := r.n.Apply(ctx, state("two"), "first", 1)
		if err == nil && (!a.Changed || a.Revision != 2 || len(a.Failed) > 0) {
			err = fmt.Errorf("first: %+v", a)
		}
		done <- err
	}()
	<-inside
	cancel()
	for _, apply := range []func() (*l3af.Applied, error){
		func() (*l3af.Applied, error) { return r.n.Apply(context.Background(), state("hooks"), "second", -1) },
		func() (*l3af.Applied, error) { return r.n.Rollback(context.Background(), 0, "second", -1) },
	} {
		if _, err := apply(); !isConflict(err, 2, true) {
			t.Errorf("second: %v", err)
		}
	}
	if s := r.status(); s.Revision != 2 || chainAt(t, s, "xdp/v0").State != l3af.Running {
		t.Errorf("status meanwhile: %+v", s)
	}
	close(go_on)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := r.n.Apply(context.Background(), state("one"), "late", 1); !isConflict(err, 2, false) {
		t.Errorf("late: %v", err)
	}
	if a, err := r.n.Apply(context.Background(), state("one"), "right", 2); err != nil || a.Revision != 3 {
		t.Errorf("right: %+v, %v", a, err)
	}
	r.n.Close()
	if _, err := r.n.Apply(context.Background(), state("one"), "after", -1); err == nil {
		t.Error("applied after Close")
	}
}

// Every mistake at once, and nothing changed.
func TestMistakes(t *testing.T) {
	r := newRig(t)
	r.apply(state("two"))
	garbage := filepath.Join(r.dir, "garbage.o")
	if err := os.WriteFile(garbage, []byte("\x7fELF and then nothing of the kind"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := state("hooks")
	s.Chains[0].Programs[0].Package = "/nowhere/x.o"
	s.Chains[1].Programs[1].Config = map[string]any{"nonsense": true}
	s.Chains[2].Programs[0].Package = garbage
	s.Probes = []l3af.Probe{{Name: "p", Package: "builtin:nothing"}}
	before := len(r.seen)
	for _, try := range []func() error{
		func() error { _, err := r.n.Apply(context.Background(), s, "test", -1); return err },
		func() error { _, err := r.n.Plan(context.Background(), s); return err },
	} {
		var invalid *l3af.InvalidError
		if err := try(); !errors.As(err, &invalid) {
			t.Fatalf("%v", err)
		}
		var paths []string
		for _, m := range invalid.Mistakes {
			paths = append(paths, m.Path)
		}
		want := []string{"chains[0].programs[0].package", "chains[1].programs[1].config.nonsense", "chains[2].programs[0]", "probes[0].package"}
		if len(paths) != len(want) {
			t.Fatalf("%q", invalid)
		}
		for i := range want {
			if !strings.HasPrefix(paths[i], want[i]) {
				t.Errorf("mistake %d is at %s, want %s", i, paths[i], want[i])
			}
		}
	}
	bad := &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: "xpd"}}}
	if _, err := r.n.Apply(context.Background(), bad, "test", -1); !strings.Contains(fmt.Sprint(err), `did you mean "xdp"`) {
		t.Errorf("%v", err)
	}
	if len(r.seen) != before || r.n.Current().Number != 1 {
		t.Errorf("changed: %q", r.seen[before:])
	}
}

// Plan tells what Apply does then, and changes nothing.
func TestPlanTellsWhatApplyDoes(t *testing.T) {
	r := newRig(t)
	table := States()
	random := rand.New(rand.NewPCG(5, 6))
	for i := range 2 * len(table) {
		s := table[i%len(table)]
		if i >= len(table) {
			s = table[random.IntN(len(table))]
		}
		before, points := r.k.Left(), len(r.seen)
		p, err := r.n.Plan(context.Background(), s.State)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.seen) != points || !slices.Equal(r.k.Left(), before) {
			t.Fatalf("%s: plan changed %q", s.Name, r.seen[points:])
		}
		a := r.apply(s.State)
		// A write may turn out not to be needed.
		p.Steps = slices.DeleteFunc(p.Steps, func(s l3af.Step) bool {
			return s.Verb == verbWrite && !slices.Contains(a.Steps, s)
		})
		if strings.HasSuffix(s.Name, "agents") { // who has one, comes later
			byTarget := func(x, y l3af.Step) int { return strings.Compare(x.Target, y.Target) }
			slices.SortFunc(p.Steps, byTarget)
			slices.SortFunc(a.Steps, byTarget)
		}
		if !reflect.DeepEqual(p.Steps, a.Steps) || p.Changed != a.Changed || len(p.Failed) > 0 {
			t.Errorf("%s: planned %+v, did %+v", s.Name, p, a)
		}
	}
	r.k.Refuse = map[string]error{"a": errors.New("the verifier says no")}
	r.apply(state("empty"))
	p, err := r.n.Plan(context.Background(), state("namespace"))
	if err != nil || len(p.Failed) > 0 || len(p.Steps) != 2 {
		t.Errorf("plan of what loads: %+v, %v", p, err)
	}
	p, err = r.n.Plan(context.Background(), state("two"))
	if err != nil || len(p.Failed) != 1 || !strings.Contains(p.Steps[0].Error, "verifier") {
		t.Errorf("plan of what does not load: %+v, %v", p, err)
	}
}

// Interfaces come, go, come back and get other names while the node runs.
func TestInterfacesComeAndGo(t *testing.T) {
	r := newRig(t)
	r.k.Point = nil
	s := state("two")
	s.Chains = append(s.Chains, state("globs").Chains[0]) // w*
	r.apply(s)
	r.k.Traffic(7, func(host.Target, string) {})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- r.n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	eventually := func(what string, ok func(*l3af.Status) bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if ok(r.status()) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("never %s: %+v", what, r.status())
			}
		}
	}
	at := func(s *l3af.Status, hook string) (c l3af.ChainStatus) {
		for _, c := range s.Chains {
			if (l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}).String() == hook {
				return c
			}
		}
		return c
	}
	eventually("running", func(s *l3af.Status) bool { return at(s, "xdp/v0").State == l3af.Running })
	r.k.DeleteInterface("", "v0")
	eventually("waiting", func(s *l3af.Status) bool {
		c := at(s, "xdp/v0")
		return c.State == l3af.Waiting && c.Programs[0].Packets == 7
	})
	r.k.AddInterface("", "v0")
	eventually("back, with its counts", func(s *l3af.Status) bool {
		c := at(s, "xdp/v0")
		return c.State == l3af.Running && c.Programs[0].Packets == 7
	})
	r.k.Traffic(1, func(host.Target, string) {})
	eventually("counting on", func(s *l3af.Status) bool { return at(s, "xdp/v0").Programs[0].Packets == 8 })

	r.k.AddInterface("", "w2")
	eventually("on a new interface", func(s *l3af.Status) bool { return at(s, "xdp/w2").State == l3af.Running })
	link := at(r.status(), "xdp/w2").LinkID
	r.k.RenameInterface("", "w2", "w3")
	eventually("on a renamed interface", func(s *l3af.Status) bool { return at(s, "xdp/w3").State == l3af.Running })
	if got := at(r.status(), "xdp/w3").LinkID; got != link {
		t.Errorf("the link is %d, was %d before the interface was renamed", got, link)
	}
	// What a glob's interface leaves is kept for a while, not for ever.
	old := host.Target{Hook: l3af.Hook{Interface: "w2", Kind: l3af.XDP}}
	pins := func() bool {
		return slices.ContainsFunc(r.k.Left(), func(l string) bool { return strings.HasPrefix(l, old.String()) })
	}
	eventually("known to be gone", func(*l3af.Status) bool {
		r.n.mu.Lock()
		defer r.n.mu.Unlock()
		return !r.n.gone[old].IsZero()
	})
	if !pins() {
		t.Error("the pins of an interface that is gone were removed at once")
	}
	r.n.mu.Lock()
	r.n.gone[old] = r.n.gone[old].Add(-keepGone)
	r.n.mu.Unlock()
	r.k.AddInterface("", "unrelated")
	eventually("forgotten", func(*l3af.Status) bool { return !pins() })

	// Not wanted under its new name: the program goes.
	r.k.RenameInterface("", "v0", "x0")
	eventually("waiting again", func(s *l3af.Status) bool {
		return at(s, "xdp/v0").State == l3af.Waiting && !slices.ContainsFunc(r.k.Left(), func(l string) bool { return strings.HasPrefix(l, "xdp/v0 link") })
	})
	kinds := map[string]int{}
	for ev := range events0(r.n) {
		kinds[ev.Kind]++
	}
	if kinds[eventInterface] < 4 || kinds[eventStep] < 4 || kinds[eventApplied] != 1 || kinds[eventFailed] != 0 {
		t.Errorf("events: %v", kinds)
	}
}

// A rollback brings the old packages back, whatever became of the files.
func TestRollback(t *testing.T) {
	r := newRig(t)
	r.n.opts.Open = new(artifact.Opener).Open
	path := filepath.Join(r.dir, "p.o")
	install := func(name string) {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s := &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{{Name: "p", Package: path}}}}}
	if _, err := r.n.Rollback(context.Background(), 0, "test", -1); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("nothing to roll back to: %v", err)
	}
	install("tiny.bpf.o")
	r.apply(s)
	first := r.k.Running()[hookOf("xdp/v0")]
	if _, err := r.n.Rollback(context.Background(), 0, "test", -1); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("rollback of the first: %v", err)
	}
	install("other.bpf.o")
	if a := r.apply(s); !a.Changed || a.Revision != 2 || r.k.Running()[hookOf("xdp/v0")] == first {
		t.Errorf("the package changed under the same name: %+v", a)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a, err := r.n.Rollback(context.Background(), 0, "me", 2)
	if err != nil || a.Revision != 3 || !a.Changed || r.k.Running()[hookOf("xdp/v0")] != first {
		t.Errorf("rollback: %+v, %v", a, err)
	}
	if a, err = r.n.Rollback(context.Background(), 1, "me", -1); err != nil || a.Changed || a.Revision != 3 {
		t.Errorf("rollback to what is: %+v, %v", a, err)
	}
	if _, err = r.n.Rollback(context.Background(), 9, "me", -1); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("rollback to 9: %v", err)
	}
	if _, err = r.n.Rollback(context.Background(), 2, "me", 2); !isConflict(err, 3, false) {
		t.Errorf("rollback on the wrong revision: %v", err)
	}
	r.restart()
	wantSteps(t, r.reconcile())
	revs, err := allRevisions(r.n)
	if err != nil || len(revs) != 3 || revs[0].Number != 3 || revs[0].By != "me" || revs[0].Time.IsZero() ||
		!maps.Equal(revs[0].Packages, revs[2].Packages) || maps.Equal(revs[0].Packages, revs[1].Packages) {
		t.Errorf("revisions: %+v, %v", revs, err)
	}
}

func allRevisions(n *Node) (revs []l3af.Revision, err error) {
	for rev, err := range n.Revisions() {
		if err != nil {
			return nil, err
		}
		revs = append(revs, *rev)
	}
	return revs, nil
}

func TestFiftyRevisions(t *testing.T) {
	r := newRig(t)
	r.apply(state("two")) // tiny and other
	packages := func() int {
		list, err := os.ReadDir(filepath.Join(r.dir, "packages"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	onlyOther := []*l3af.State{state("removed"), state("empty")}
	for i := range 49 {
		r.apply(onlyOther[i%2])
	}
	revs, err := allRevisions(r.n)
	if err != nil || len(revs) != 50 || revs[49].Number != 1 || packages() != 2 {
		t.Fatalf("%d revisions, %d packages, %v", len(revs), packages(), err)
	}
	r.apply(onlyOther[1])
	revs, err = allRevisions(r.n)
	if err != nil || len(revs) != 50 || revs[0].Number != 51 || revs[49].Number != 2 || packages() != 1 {
		t.Errorf("%d revisions, %d packages, %v", len(revs), packages(), err)
	}
	files, err := os.ReadDir(filepath.Join(r.dir, "revisions"))
	if err != nil || len(files) != 50 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if rev, err := r.n.Revision(2); err != nil || rev.Number != 2 {
		t.Errorf("%+v, %v", rev, err)
	}
	if _, err := r.n.Revision(1); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("a revision that is not kept: %v", err)
	}
	if _, err := r.n.Rollback(context.Background(), 1, "test", -1); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("rollback to a revision that is not kept: %v", err)
	}
	r.restart()
	if got := r.n.Current(); got == nil || got.Number != 51 {
		t.Errorf("current: %+v", got)
	}
}

var _ Kernel = (*fake.Kernel)(nil)
