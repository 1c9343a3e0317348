package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"l3af"
	"l3af/internal/host"
)

// many is a state with n interfaces, which r gets, and one chain for each.
func many(r *rig, n int, change func(i int, p *l3af.Program)) *l3af.State {
	s := &l3af.State{APIVersion: l3af.APIVersion}
	one := state("one").Chains[0].Programs[0]
	for i := range n {
		p := one
		if change != nil {
			change(i, &p)
		}
		name := fmt.Sprintf("m%03d", i)
		r.k.AddInterface("", name)
		s.Chains = append(s.Chains, l3af.Chain{Interface: name, Hook: l3af.XDP, Programs: []l3af.Program{p}})
	}
	return s
}

// Loads are prepared side by side and attached in the document's order. One
// that fails holds up no other, and all that was prepared is let go.
func TestPreparedAhead(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor")
	}
	r := newRig(t)
	both := make(chan bool)
	var attached []string
	r.k.Before = func(method string, t host.Target) error {
		name := t.Hook.Interface
		switch {
		case method == "Prepare" && (name == "m000" || name == "m001"):
			// Neither goes on before the other is there.
			select {
			case both <- true:
			case <-both:
			case <-time.After(20 * time.Second):
				return errors.New("it is alone")
			}
		case method == "Prepare" && name == "m002":
			return errors.New("no good")
		case method == "Attach":
			attached = append(attached, name)
		}
		return nil
	}
	a, err := r.n.Apply(t.Context(), many(r, 20, nil), "test", -1)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Failed) != 1 || a.Failed[0].Target != "xdp/m002" || !strings.Contains(a.Failed[0].Error, "attach xdp/m002: no good") {
		t.Errorf("failed: %+v", a.Failed)
	}
	if len(attached) != 19 || !slices.IsSorted(attached) {
		t.Errorf("attached %q", attached)
	}
	if n := r.k.Held(); n != 0 {
		t.Errorf("%d prepared loads are left", n)
	}
}

// Chains whose agents are to start first are tried side by side, and as few at a
// time. No agent starts for one that the kernel does not take.
func TestAgentsTriedAhead(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor")
	}
	r := newRig(t)
	defer r.endAgents()
	both := make(chan bool)
	var at, most atomic.Int32
	r.k.Before = func(method string, t host.Target) error {
		if method != "TestLoad" {
			return nil
		}
		now := at.Add(1)
		defer at.Add(-1)
		for was := most.Load(); now > was && !most.CompareAndSwap(was, now); was = most.Load() {
		}
		switch t.Hook.Interface {
		case "m000", "m001":
			// Neither goes on before the other is there.
			select {
			case both <- true:
			case <-both:
			case <-time.After(20 * time.Second):
				return errors.New("it is alone")
			}
		case "m002":
			return errors.New("no good")
		}
		return nil
	}
	s := many(r, 8, func(i int, p *l3af.Program) {
		p.Package, p.Agent = AgentPackage(), &l3af.Agent{Start: []string{"init", "yes"}}
		if i == 7 {
			p.Agent = nil
		}
	})
	a, err := r.n.Apply(t.Context(), s, "test", -1)
	// It is tried again when the agents of the others are up.
	failing := func(s l3af.Step) bool { return s.Target == "xdp/m002" }
	if err != nil || len(slices.DeleteFunc(slices.Clone(a.Steps), failing)) != 7 || len(a.Failed) != 1 || a.Failed[0].Error != "attach xdp/m002: no good" {
		t.Fatalf("%+v, %v", a, err)
	}
	if n := int(most.Load()); n > runtime.GOMAXPROCS(0) {
		t.Errorf("%d were tried at a time", n)
	}
	for ev := range events0(r.n) {
		if ev.Kind == eventAgent && ev.Target == "xdp/m002" {
			t.Errorf("an agent: %+v", ev)
		}
	}
	for _, c := range r.status().Chains {
		if want := c.Interface != "m002"; (c.State == l3af.Running) != want {
			t.Errorf("%+v", c)
		}
	}
}

// What was prepared may be of no use when its turn comes: it is prepared again.
func TestStaleIsPreparedAgain(t *testing.T) {
	r := newRig(t)
	var tries atomic.Int32
	r.k.Before = func(method string, t host.Target) error {
		if method == "Attach" && tries.Add(1) == 1 {
			return host.ErrStale
		}
		return nil
	}
	r.apply(state("one"))
	if tries.Load() != 2 || r.k.Running()[hookOf("xdp/v0")] == "" {
		t.Errorf("%d tries, running: %v", tries.Load(), r.k.Running())
	}
}

// Chains that do the same are composed once, whatever maps they are given;
// few whole ones are kept at a time, and none after the round.
func TestEqualChainsAreOne(t *testing.T) {
	r := newRig(t)
	const different = 3 * maxHeld
	s := many(r, 2*different, func(i int, p *l3af.Program) {
		p.Config = map[string]any{"fixed": json.Number(fmt.Sprint(i % different))}
		p.Maps = map[string][]l3af.MapEntry{"table": {{Key: json.Number("1"), Value: json.Number(fmt.Sprint(i))}}}
	})
	d, err := r.n.draft(s, r.n.opener(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	whole := func(all []*made) int {
		kept := map[*composed]bool{}
		for _, m := range all {
			if m.built.whole != nil {
				kept[m.built] = true
			}
		}
		return len(kept)
	}
	if n := whole(d.made); n != maxHeld {
		t.Errorf("%d whole chains are kept, want %d", n, maxHeld)
	}
	ids := map[string]bool{}
	for i := range different {
		a, b := d.made[i], d.made[i+different]
		if a.built != b.built || a.id != b.id || len(a.contents) != 1 || sameEntries(a.contents[0].Entries, b.contents[0].Entries) {
			t.Errorf("%s and %s: chains %s and %s, contents %v and %v", a.path, b.path, a.id, b.id, a.contents, b.contents)
		}
		ids[a.id] = true
	}
	if len(ids) != different {
		t.Errorf("%d chains, want %d", len(ids), different)
	}

	r.apply(s)
	if n := whole(r.n.made); n != 0 {
		t.Errorf("%d whole chains are kept after the apply", n)
	}
	r.k.Reboot() // everything is composed again from what was stored
	if steps := r.reconcile(); len(steps) != 2*different {
		t.Errorf("%d steps", len(steps))
	}
	if s := r.status(); len(s.Errors) > 0 || len(r.k.Running()) != 2*different {
		t.Errorf("%d run, errors %q", len(r.k.Running()), s.Errors)
	}
}

// Probes that are disabled take no place from chains that are to be loaded.
func TestDisabledIsNotKept(t *testing.T) {
	r := newRig(t)
	defer r.n.Close()
	s := many(r, 1, nil)
	for i := range maxHeld {
		s.Probes = append(s.Probes, l3af.Probe{Name: fmt.Sprint("p", i), Package: testObject(t, "tiny.bpf.o"), Entry: "tiny_probe", Settings: l3af.Settings{Disabled: true}})
	}
	for range 5 { // whichever is composed first
		d, err := r.n.draft(s, r.n.opener(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		if b := d.made[0].built; b.whole == nil || len(b.room) != 1 {
			t.Errorf("%d places are taken, one is the chain's: %t", len(b.room), b.whole != nil)
		}
	}
}
