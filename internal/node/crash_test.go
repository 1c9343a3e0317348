package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/host"
	"l3af/internal/node/fake"
)

// newFake is the machine that States needs.
func newFake() *fake.Kernel {
	k := fake.New()
	k.AddNetns("blue")
	k.AddInterface("blue", "v1")
	for _, name := range []string{"v0", "w1", "w0"} { // in the order in which the kernel lists a pair
		k.AddInterface("", name)
	}
	return k
}

// openCached opens each package once for all tests.
var openCached = func() func(context.Context, string) (*artifact.Package, error) {
	var mu sync.Mutex
	known := map[string]*artifact.Package{}
	return func(_ context.Context, ref string) (*artifact.Package, error) {
		mu.Lock()
		defer mu.Unlock()
		if p := known[ref]; p != nil {
			return p, nil
		}
		p, err := artifact.Open(ref)
		if err == nil {
			known[ref] = p
		}
		return p, err
	}
}()

// tempDir is in memory where it can be: many tests sync files thousands of times.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "l3af-node-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// crash is what a crash point panics with.
type crash struct{ point string }

// rig is a node on a fake machine that can be killed.
type rig struct {
	t    *testing.T
	dir  string
	k    *fake.Kernel
	n    *Node
	left int  // points until the crash; negative: none
	dead bool // nothing may be changed any more
	seen []string
	each func() // called at every point
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: tempDir(t), k: newFake(), left: -1}
	r.k.Point = r.point
	r.open()
	return r
}

func (r *rig) point(name string) {
	if r.dead {
		panic(fmt.Sprintf("%s after the crash", name))
	}
	r.seen = append(r.seen, name)
	if r.each != nil {
		r.each()
	}
	if r.left == 0 {
		r.dead = true
		panic(crash{name})
	}
	r.left--
}

func (r *rig) open() {
	r.t.Helper()
	n, err := Open(Options{Dir: r.dir, Kernel: r.k, Open: openCached, Log: testLog(r.t), point: r.point})
	if err != nil {
		r.t.Fatal(err)
	}
	r.n = n
}

// try runs f; a crash in it kills the node.
func (r *rig) try(f func()) (at string) {
	defer func() {
		if c, ok := recover().(crash); ok {
			at = c.point
			r.n.agents.Close()
			r.n.lock.Close()
			r.n, r.dead, r.left = nil, false, -1
		} else if r.dead {
			r.t.Errorf("went on after the crash")
			r.dead = false
		}
	}()
	f()
	return ""
}

func (r *rig) apply(s *l3af.State) *l3af.Applied {
	r.t.Helper()
	a, err := r.n.Apply(context.Background(), s, "test", -1)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range a.Failed {
		r.t.Errorf("failed: %+v", f)
	}
	return a
}

func (r *rig) reconcile() []l3af.Step {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	return settle(r.n)
}

// restart is kill -9 and a new start.
func (r *rig) restart() {
	r.t.Helper()
	if r.n != nil {
		r.n.agents.Close()
		r.n.lock.Close()
	}
	r.open()
	r.reconcile()
}

func (r *rig) status() *l3af.Status {
	r.t.Helper()
	s, err := r.n.Status(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func testLog(t testing.TB) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return nil
}

// tally is what programs really counted.
type tally map[string]uint64

func key(t host.Target, program string) string { return t.String() + " " + program }

// told is what status says programs counted.
func told(s *l3af.Status) tally {
	sums := tally{}
	for _, c := range s.Chains {
		for _, p := range c.Programs {
			if p.Packets > 0 {
				sums[key(host.Target{Hook: l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}}, p.Name)] = p.Packets
			}
		}
	}
	return sums
}

// Killed before and after every change of the kernel and of a file, between
// every two states of the table and while it recovers: the node that starts
// anew brings the machine to the state on disk, leaves nothing else, counts
// every packet once, and what should run in both states runs at all times.
func TestCrashEverywhere(t *testing.T) {
	table := States()
	// What the machine has in each state, come to without a crash. The order
	// of IDs and the like in it depends on nothing but the state.
	clean := map[string][]string{}
	for _, s := range table {
		r := newRig(t)
		r.apply(s.State)
		clean[s.Name] = s.sure(r.k.Left())
		if len(s.Running) == 0 && len(clean[s.Name]) != 0 {
			t.Errorf("%s: left %q", s.Name, clean[s.Name])
		}
		r.n.Close()
	}
	random := rand.New(rand.NewPCG(1, 2))
	crashes := 0
	type pair struct{ from, to State }
	var pairs []pair
	for i := range table {
		pairs = append(pairs, pair{table[i], table[(i+1)%len(table)]})
	}
	for range 12 {
		pairs = append(pairs, pair{table[random.IntN(len(table))], table[random.IntN(len(table))]})
	}
	for _, p := range pairs {
		for at, done := 0, false; !done; at++ {
			r := newRig(t)
			r.apply(p.from.State)
			name := fmt.Sprintf("%s to %s, point %d", p.from.Name, p.to.Name, at)

			counted := tally{}
			stays := both(p.from, p.to)
			r.each = func() {
				running := r.k.Running()
				for _, target := range stays {
					if running[target] == "" {
						t.Errorf("%s: %s is not attached at %q", name, target, r.seen[len(r.seen)-1])
					}
				}
				r.k.Traffic(1, func(t host.Target, program string) { counted[key(t, program)]++ })
			}
			r.seen, r.left = nil, at
			back := false
			point := r.try(func() { r.apply(p.to.State) })
			if done = point == ""; done {
				r.left = -1
			} else {
				crashes++
				name += " " + point
				r.open()
				r.left = random.IntN(20)
				if back = random.IntN(3) == 0; back {
					// Somebody is quicker than the first look around.
					name += ", then back"
					r.left = -1
					r.apply(p.from.State)
				} else if second := r.try(func() { r.reconcile() }); second != "" {
					name += ", then " + second
					r.restart()
				}
				r.left = -1
			}
			r.reconcile()
			state := p.to
			if !sameState(r.n.Current(), p.to.State) {
				state = p.from
			}
			if got := state.sure(r.k.Left()); !slices.Equal(got, clean[state.Name]) {
				t.Errorf("%s: the machine has\n%q, for %q it is\n%q", name, got, state.Name, clean[state.Name])
			}
			r.apply(p.to.State)
			if got := p.to.sure(r.k.Left()); !slices.Equal(got, clean[p.to.Name]) {
				t.Errorf("%s: after applying again the machine has\n%q, not\n%q", name, got, clean[p.to.Name])
			}
			if steps := r.reconcile(); len(steps) > 0 {
				t.Errorf("%s: not at rest: %+v", name, steps)
			}
			s := r.status()
			got := told(s)
			want := maps.Clone(counted)
			for _, c := range s.Chains {
				for _, p := range c.Programs {
					delete(counted, key(host.Target{Hook: l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}}, p.Name))
				}
			}
			maps.DeleteFunc(want, func(k string, _ uint64) bool { _, left := counted[k]; return left })
			for k := range want {
				if back && !p.from.has(k) {
					// It came, went and came: it may have begun anew.
					delete(want, k)
					delete(got, k)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: counted %v, told %v", name, want, got)
			}
			if len(s.Errors) > 0 {
				t.Errorf("%s: %q", name, s.Errors)
			}
			if n := r.k.Held(); n != 0 {
				t.Errorf("%s: %d prepared loads are left", name, n)
			}
			r.n.Close()
			if t.Failed() {
				t.Fatalf("points: %q", r.seen)
			}
		}
	}
	t.Logf("%d crashes between %d pairs of states", crashes, len(pairs))
}

// both lists the targets that run in both states without a change of mode.
func both(a, b State) []host.Target {
	mode := func(s State, at string) l3af.Mode {
		for _, c := range s.State.Chains {
			if matches(c.Interface, hookOf(at).Hook.Interface) && c.Hook == hookOf(at).Hook.Kind && c.Mode == l3af.Generic {
				return c.Mode
			}
		}
		return l3af.Native
	}
	var list []host.Target
	for _, at := range a.Running {
		if slices.Contains(b.Running, at) && (mode(a, at) == mode(b, at) || mode(b, at) != l3af.Generic && mode(a, at) == l3af.Generic && autoMode(b, at)) {
			list = append(list, hookOf(at))
		}
	}
	return list
}

// has reports whether a state names a program of a tally.
func (s State) has(k string) bool {
	at, program, _ := strings.Cut(k, " ")
	c, _ := named(s.State, hookOf(at).Hook)
	return c != nil && slices.ContainsFunc(c.Programs, func(p l3af.Program) bool { return p.Name == program })
}

// sure leaves out of what the machine has the maps of disabled programs, which
// are there if the programs ran before, and whose a data section outside is:
// of who came first.
func (s State) sure(left []string) []string {
	return slices.DeleteFunc(left, func(line string) bool {
		if strings.Contains(line, " pins ") && strings.HasSuffix(line, "_data") {
			return true
		}
		at, name, ok := strings.Cut(line, " map ")
		at = strings.TrimSuffix(at, " uses")
		for _, d := range s.disabled() {
			if ok && at == d.at && strings.HasPrefix(name, d.program+"/") || d.instance != "" && strings.Contains(line, "map @"+d.instance+"/") {
				return true
			}
		}
		return false
	})
}

type disabledProgram struct{ at, program, instance string }

func (s State) disabled() (list []disabledProgram) {
	for _, c := range s.State.Chains {
		for _, p := range c.Programs {
			if p.Disabled {
				list = append(list, disabledProgram{l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}.String(), p.Name, p.Instance})
			}
		}
	}
	for _, p := range s.State.Probes {
		if p.Disabled {
			list = append(list, disabledProgram{"probe/" + p.Name, p.Name, p.Instance})
		}
	}
	return list
}

// autoMode reports whether a state leaves the mode of a hook open.
func autoMode(s State, at string) bool {
	for _, c := range s.State.Chains {
		if matches(c.Interface, hookOf(at).Hook.Interface) && c.Mode == l3af.Native {
			return false
		}
	}
	return true
}

func sameState(rev *l3af.Revision, s *l3af.State) bool {
	if rev == nil {
		return false
	}
	a, err1 := rev.State.Tree()
	b, err2 := s.Tree()
	return errors.Join(err1, err2) == nil && reflect.DeepEqual(a, b)
}
