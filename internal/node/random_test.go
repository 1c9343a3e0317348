package node

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l3af"
)

// randomState is programs at a few hooks, disabled or not, whose maps are
// pinned outside, shared and monitored at random: often in each other's way.
func randomState(t *testing.T, r *rand.Rand) *l3af.State {
	s := &l3af.State{APIVersion: l3af.APIVersion}
	settings := func() (string, l3af.Settings) {
		var set l3af.Settings
		object := testObject(t, []string{"tiny.bpf.o", "byname.bpf.o", "bigger.bpf.o", "byname2.bpf.o"}[r.IntN(4)])
		set.Disabled = r.IntN(4) == 0
		if r.IntN(2) == 0 {
			set.PinPath = "/sys/fs/bpf/out/" + []string{"a", "b/1", "b/2"}[r.IntN(3)]
		}
		if r.IntN(4) == 0 {
			set.Instance = strings.TrimSuffix(filepath.Base(object), ".bpf.o") // of one package each
		}
		set.OnMapChange = l3af.ResetMapChange
		if strings.Contains(object, "byname") && set.Instance == "" {
			if set.PinPath != "" {
				set.PinPath = "/sys/fs/bpf/out/n" // once shared, a map is one for those that went apart
			} else {
				return object, set
			}
		}
		if r.IntN(3) == 0 {
			set.Monitor = []l3af.Monitor{{Map: "table", Key: fmt.Sprintf("%d-%d", 1+r.IntN(3), 3+r.IntN(3))}}
		}
		if r.IntN(4) == 0 { // the same for all: who shares must agree
			set.Maps = map[string][]l3af.MapEntry{"table": {{Key: json.Number("1"), Value: json.Number("5")}}}
		}
		return object, set
	}
	for _, at := range []struct {
		iface string
		kind  l3af.HookKind
	}{{"v0", l3af.XDP}, {"v0", l3af.TCIngress}, {"v0", l3af.TCEgress}, {"w*", l3af.TCIngress}, {"nope", l3af.XDP}} {
		if r.IntN(4) == 0 {
			continue
		}
		c := l3af.Chain{Interface: at.iface, Hook: at.kind}
		for _, name := range []string{"a", "b", "c"}[:1+r.IntN(3)] {
			p := l3af.Program{Name: name, Entry: "tiny"}
			if at.kind != l3af.XDP {
				p.Entry = "tiny_tc"
			}
			p.Package, p.Settings = settings()
			if strings.Contains(p.Package, "byname") {
				p.Name += "-n" // a program of the name would have its map
			}
			c.Programs = append(c.Programs, p)
		}
		r.Shuffle(len(c.Programs), func(i, j int) { c.Programs[i], c.Programs[j] = c.Programs[j], c.Programs[i] })
		s.Chains = append(s.Chains, c)
	}
	if r.IntN(2) == 0 {
		p := l3af.Probe{Name: "p", Entry: "tiny_probe"}
		p.Package, p.Settings = settings()
		if strings.Contains(p.Package, "byname") {
			p.Name += "-n"
		}
		s.Probes = append(s.Probes, p)
	}
	return s
}

// Random states, one after the other, with crashes between: each hook runs as
// its chain says or has failed because of a map that is in the way, nothing is
// pinned outside that nobody wants, the machine comes to rest, and in the end
// nothing is left.
func TestRandomSettings(t *testing.T) {
	failed := 0
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 7))
		r := newRig(t)
		for step := range 12 {
			s := randomState(t, random)
			name := fmt.Sprintf("seed %d, step %d", seed, step)
			if random.IntN(2) == 0 {
				r.left = random.IntN(60)
			}
			crashed := r.try(func() {
				if _, err := r.n.Apply(t.Context(), s, "test", -1); err != nil && !strings.Contains(err.Error(), "which they share") && !strings.Contains(err.Error(), "is pinned there as well") {
					t.Fatalf("%s: %v", name, err)
				}
			})
			r.left = -1
			if crashed != "" {
				r.restart()
			}
			r.reconcile()
			rev := r.n.Current()
			if rev == nil {
				continue
			}
			status := r.status()
			for i := range status.Chains {
				c := &status.Chains[i]
				switch c.State {
				case l3af.Failed:
					failed++
					if !strings.Contains(c.Error, "there is another map") && !strings.Contains(c.Error, "another shape") {
						t.Errorf("%s: %s/%s: %s", name, c.Hook, c.Interface, c.Error)
					}
				case l3af.Running:
					for _, p := range c.Programs {
						if (p.State == l3af.Disabled) != (p.Linkage == "") {
							t.Errorf("%s: %s/%s: %+v", name, c.Hook, c.Interface, p)
						}
					}
				}
			}
			if len(status.Errors) > 0 {
				t.Errorf("%s: %q", name, status.Errors)
			}
			wanted, sure := outsideOf(&rev.State, status)
			have := r.k.Outside()
			for _, path := range have {
				// What failed to change runs on, with its pins.
				if !slices.Contains(wanted, path) && !anyFailed(status) {
					t.Errorf("%s: %s is left", name, path)
				}
			}
			for _, path := range sure {
				if !slices.Contains(have, path) {
					t.Errorf("%s: %s is not there, have %q", name, path, have)
				}
			}
			for _, step := range r.reconcile() {
				if step.Error == "" {
					t.Errorf("%s: not at rest: %+v", name, step)
				}
			}
			if t.Failed() {
				text, _ := json.MarshalIndent(rev.State, "", " ")
				t.Fatalf("%s\n%+v\n%q", text, status, r.k.Left())
			}
		}
		if _, err := r.n.Apply(t.Context(), &l3af.State{APIVersion: l3af.APIVersion}, "test", -1); err != nil {
			t.Fatal(err)
		}
		if left := r.k.Left(); len(left) > 0 {
			t.Fatalf("seed %d: left %q", seed, left)
		}
		r.n.Close()
	}
	t.Logf("%d hooks failed for maps in the way", failed)
}

func anyFailed(s *l3af.Status) bool {
	return slices.ContainsFunc(s.Chains, func(c l3af.ChainStatus) bool { return c.State == l3af.Failed }) ||
		slices.ContainsFunc(s.Probes, func(p l3af.ProbeStatus) bool { return p.State == l3af.Failed })
}

// outsideOf lists the pins outside that a state may have, and those that it
// must have: of programs that run.
func outsideOf(s *l3af.State, status *l3af.Status) (may, must []string) {
	add := func(set l3af.Settings, state string) {
		if set.PinPath == "" || set.Disabled {
			return
		}
		may = append(may, set.PinPath+"/table", set.PinPath+"/_data")
		if state == l3af.Running {
			must = append(must, set.PinPath+"/table", set.PinPath+"/_data")
		}
	}
	for _, c := range s.Chains {
		state := ""
		for _, is := range status.Chains {
			if is.Hook == c.Hook && matches(c.Interface, is.Interface) {
				state = is.State
			}
		}
		for _, p := range c.Programs {
			add(p.Settings, state)
		}
	}
	for _, p := range s.Probes {
		add(p.Settings, status.Probes[0].State)
	}
	return may, must
}
