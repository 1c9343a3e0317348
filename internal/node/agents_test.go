package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l3af"
)

// withAgent is the state "two" with an agent of the first program.
func withAgent(a l3af.Agent) *l3af.State {
	s := state("two")
	p := &s.Chains[0].Programs[0]
	p.Package, p.Agent, p.Config = AgentPackage(), &a, map[string]any{"live": json.Number("3")}
	p.Proceed = []l3af.Verdict{l3af.Pass, l3af.TX}
	return s
}

// endAgents ends the agents of a rig, which outlive it.
func (r *rig) endAgents() {
	r.n.agents.Keep(func(string) bool { return false })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left, err := os.ReadDir(filepath.Join(r.dir, "agents"))
		if err == nil && len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("agents are left: %v, %v", left, err)
		}
	}
	r.n.Close()
}

// A program whose initialiser fails does not join: what ran runs on, and the
// others are not held up.
func TestAgentFails(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	r.apply(state("two"))
	before := r.k.Running()[hookOf("xdp/v0")]
	s := withAgent(l3af.Agent{Start: []string{"init", "no", "there is no such collector"}})
	s.Chains = append(s.Chains, state("globs").Chains[2]) // w1
	a, err := r.n.Apply(context.Background(), s, "test", -1)
	const cause = "replace xdp/v0: agent of a: start: exit status 1: there is no such collector"
	if err != nil || !a.Changed || len(a.Failed) != 1 || a.Failed[0].Target != "xdp/v0" || a.Failed[0].Error != cause {
		t.Fatalf("%+v, %v", a, err)
	}
	wantSteps(t, a.Steps, "attach xdp/w1", "replace xdp/v0")
	if now := r.k.Running()[hookOf("xdp/v0")]; now != before {
		t.Errorf("%s runs, ran %s before", now, before)
	}
	c := chainAt(t, r.status(), "xdp/v0")
	if c.State != l3af.Failed || c.Error != cause || c.ID != before || c.Programs[0].Agent == nil || c.Programs[0].Agent.State != l3af.Failed {
		t.Errorf("status: %+v", c)
	}
	// A link event does not try it again, the next look at everything does.
	starts := func() (n int) {
		for ev := range events0(r.n) {
			if ev.Kind == eventAgent && ev.Target == "xdp/v0" && strings.HasPrefix(ev.Message, "a: failed: start: exit status 1") {
				n++
			}
		}
		return n
	}
	r.n.mu.Lock()
	r.n.reconcile(context.Background(), false)
	pending := len(r.n.pending)
	r.n.mu.Unlock()
	if n := starts(); n != 1 || pending != 0 {
		t.Errorf("started %d times, %d pending", n, pending)
	}
	r.reconcile()
	if n := starts(); n != 2 || chainAt(t, r.status(), "xdp/v0").Error != cause {
		t.Errorf("started %d times", n)
	}
	// Nothing is started for a chain that the kernel does not take.
	r.k.Refuse = map[string]error{"a": errors.New("the verifier says no")}
	s = withAgent(l3af.Agent{Start: []string{"daemon"}, Daemon: true})
	a, err = r.n.Apply(context.Background(), s, "test", -1)
	if err != nil || len(a.Failed) != 1 || !strings.HasPrefix(a.Failed[0].Error, "replace xdp/v0: ") || !strings.Contains(a.Failed[0].Error, "verifier") {
		t.Errorf("%+v, %v", a, err)
	}
	for ev := range events0(r.n) {
		if strings.HasPrefix(ev.Message, "a: started") {
			t.Errorf("%+v", ev)
		}
	}
	r.k.Refuse = nil
	r.apply(state("two"))
	if got := r.k.Running()[hookOf("xdp/v0")]; got != before {
		t.Errorf("%s runs, ran %s before", got, before)
	}
	wantSteps(t, r.reconcile())
}

// While an agent takes its time its hook runs what it ran, and the others what
// they should.
func TestSlowAgent(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	r.k.Point = nil
	r.apply(state("two"))
	before := r.k.Running()[hookOf("xdp/v0")]
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- r.n.Run(ctx) }()
	defer func() { cancel(); <-ended }()

	enough := filepath.Join(r.dir, "enough")
	s := withAgent(l3af.Agent{Start: []string{"init", "slow", enough}})
	s.Chains = append(s.Chains, state("globs").Chains[0]) // w*
	done := make(chan *l3af.Applied)
	go func() {
		a, err := r.n.Apply(ctx, s, "test", -1)
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("never %s: %+v", what, r.status())
			}
		}
	}
	agentAt := func() *l3af.AgentStatus { return chainAt(t, r.status(), "xdp/v0").Programs[0].Agent }
	eventually("starting", func() bool { a := agentAt(); return a != nil && a.State == "starting" })
	eventually("the others run", func() bool { return r.k.Running()[hookOf("xdp/w0")] != "" })
	r.k.AddInterface("", "w2")
	eventually("one that comes meanwhile runs", func() bool { return r.k.Running()[hookOf("xdp/w2")] != "" })
	if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Running || c.ID != before {
		t.Errorf("meanwhile: %+v", c)
	}
	if err := os.WriteFile(enough, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := <-done
	if len(a.Failed) > 0 || len(a.Steps) != 3 || a.Steps[2].Target != "xdp/v0" || a.Steps[2].From != before {
		t.Errorf("applied: %+v", a)
	}
	if agentAt().State != "done" || r.k.Running()[hookOf("xdp/v0")] == before {
		t.Errorf("in the end: %+v", r.status())
	}
}

// An apply that waits for agents answers when the daemon is about to end, or
// does: its revision is in force, and what it did not come to is left to the
// next daemon.
func TestApplyCutOff(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"about to end": func(r *rig) { r.n.Hurry() },
		"ended":        func(r *rig) { r.n.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			defer r.endAgents()
			r.k.Point = nil
			r.apply(state("two"))
			before := r.k.Running()[hookOf("xdp/v0")]
			enough := filepath.Join(r.dir, "enough")
			s := withAgent(l3af.Agent{Start: []string{"init", "slow", enough}})
			s.Chains = append(s.Chains, state("globs").Chains[2]) // w1
			type answer struct {
				*l3af.Applied
				error
			}
			answers := make(chan answer)
			go func() {
				a, err := r.n.Apply(context.Background(), s, "test", -1)
				answers <- answer{a, err}
			}()
			key := agentKey(hookOf("xdp/v0"), "a")
			for deadline := time.Now().Add(20 * time.Second); r.n.agents.Status(key) == nil || r.k.Running()[hookOf("xdp/w1")] == ""; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it is never started")
				}
			}
			r.n.mu.Lock() // a link event
			r.n.reconcile(context.Background(), false)
			r.n.mu.Unlock()
			end(r)
			got := <-answers
			const why = "xdp/v0: its agents are still being started, and l3afd is ending: the next one goes on with that"
			if got.error != nil || !got.Changed || got.Revision != 2 || len(got.Failed) != 1 || got.Failed[0].Error != why || got.Failed[0].Target != "xdp/v0" || got.Failed[0].To == "" {
				t.Fatalf("%+v", got)
			}
			wantSteps(t, got.Steps, "attach xdp/w1")
			if now := r.k.Running()[hookOf("xdp/v0")]; now != before {
				t.Errorf("%s runs, ran %s before", now, before)
			}
			if err := os.WriteFile(enough, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			r.n.Close()
			r.n = nil
			r.restart()
			if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Running || c.ID != got.Failed[0].To || c.Programs[0].Agent.State != "done" {
				t.Errorf("in the end: %+v", c)
			}
		})
	}
}

// What runs as it is wanted, and has an agent that is told something new, has not
// failed where that takes too long.
func TestApplyCutOffUpdate(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	r.k.Point = nil
	enough := filepath.Join(r.dir, "enough")
	a := l3af.Agent{Start: []string{"daemon"}, Daemon: true}
	r.apply(withAgent(a))
	a.Update = []string{"init", "slow", enough}
	answers := make(chan *l3af.Applied)
	go func() {
		applied, err := r.n.Apply(context.Background(), withAgent(a), "test", -1)
		if err != nil {
			t.Error(err)
		}
		answers <- applied
	}()
	r.n.Hurry()
	if got := <-answers; got.Revision != 2 || len(got.Failed) > 0 {
		t.Errorf("%+v", got)
	}
	if err := os.WriteFile(enough, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A daemon is there as long as its program is, whatever becomes of the node.
func TestAgentStays(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	r.apply(withAgent(l3af.Agent{Start: []string{"daemon"}, Daemon: true}))
	agentAt := func() *l3af.AgentStatus {
		t.Helper()
		return chainAt(t, r.status(), "xdp/v0").Programs[0].Agent
	}
	first := agentAt()
	if first == nil || first.State != l3af.Running || first.PID == 0 {
		t.Fatalf("%+v", first)
	}
	for range 2 {
		r.restart()
		if now := agentAt(); now.PID != first.PID || now.Restarts != 0 || now.State != l3af.Running {
			t.Errorf("after a restart: %+v, was %+v", now, first)
		}
	}
	wantSteps(t, r.reconcile())
	// Other programs come and go, its own is the same.
	s := withAgent(l3af.Agent{Start: []string{"daemon"}, Daemon: true})
	s.Chains[0].Programs = s.Chains[0].Programs[:1]
	r.apply(s)
	if now := agentAt(); now.PID != first.PID {
		t.Errorf("after another program left: %+v, was %+v", now, first)
	}
	// Other arguments, and nothing else: the chain stays, the agent does not.
	s.Chains[0].Programs[0].Agent = &l3af.Agent{Start: []string{"daemon", "--other"}, Daemon: true}
	if a := r.apply(s); len(a.Steps) > 0 || !a.Changed {
		t.Errorf("other arguments: %+v", a)
	}
	second := agentAt()
	if second.State != l3af.Running || second.PID == first.PID || unix.Kill(first.PID, 0) == nil {
		t.Errorf("other arguments: %+v, was %+v", second, first)
	}
	// Disabled, it is not there; nor when it left the document.
	gone := func() {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); unix.Kill(second.PID, 0) == nil; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the agent, pid %d, is there", second.PID)
			}
		}
	}
	s.Chains[0].Programs[0].Disabled = true
	r.apply(s)
	gone()
	s.Chains[0].Programs[0].Disabled = false
	r.apply(s)
	if second = agentAt(); second.State != l3af.Running {
		t.Errorf("enabled again: %+v", second)
	}
	r.apply(state("empty"))
	gone()
}

// newMaps is a state whose program has an agent, and a map that starts anew
// with each of the objects that has another one.
func newMaps(t *testing.T, object string) *l3af.State {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(testObject(t, object))
	if err := errors.Join(err, os.CopyFS(dir, os.DirFS(AgentPackage())), os.Chmod(filepath.Join(dir, "init"), 0o755),
		os.WriteFile(filepath.Join(dir, "tiny.bpf.o"), text, 0o644)); err != nil {
		t.Fatal(err)
	}
	s := withAgent(l3af.Agent{Start: []string{"init", "yes"}})
	s.Chains[0].Programs[0].Package, s.Chains[0].Programs[0].OnMapChange = dir, l3af.ResetMapChange
	return s
}

// order tells in which order a target changed and its agent of a was started.
func (r *rig) order(target string) (kinds string) {
	for ev := range events0(r.n) {
		if ev.Target == target && (ev.Kind == eventStep || ev.Message == "a: done") {
			kinds += " " + ev.Kind
		}
	}
	return kinds
}

// Agents start before the switch, when maps that start anew are not there yet:
// they start anew after it.
func TestAgentOfNewMaps(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	r.apply(newMaps(t, "tiny.bpf.o"))
	if got := r.order("xdp/v0"); got != " agent step" {
		t.Errorf("at first:%s", got)
	}
	r.apply(newMaps(t, "bigger.bpf.o"))
	if got := r.order("xdp/v0"); got != " agent step agent step agent" {
		t.Errorf("with another map:%s", got)
	}
	wantSteps(t, r.reconcile())
	if got := r.order("xdp/v0"); got != " agent step agent step agent" {
		t.Errorf("at rest:%s", got)
	}
}

// What one program of an instance makes anew is another map for the agents of
// all of them.
func TestAgentOfNewSharedMaps(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	version := func(object string) *l3af.State {
		s := newMaps(t, object)
		s.Chains[0].Programs = s.Chains[0].Programs[:1]
		s.Chains[0].Programs[0].Instance = "i"
		second := s.Chains[0]
		second.Interface = "w0"
		s.Chains = append(s.Chains, second)
		return s
	}
	r.apply(version("tiny.bpf.o"))
	r.apply(version("bigger.bpf.o"))
	for _, target := range []string{"xdp/v0", "xdp/w0"} {
		if got := r.order(target); got != " agent step agent step agent" {
			t.Errorf("%s:%s", target, got)
		}
	}
}

// pairMaps is newMaps of pair.bpf.o with all its programs.
func pairMaps(t *testing.T) *l3af.State {
	t.Helper()
	s := newMaps(t, "pair.bpf.o")
	manifest := filepath.Join(s.Chains[0].Programs[0].Package, "package.yaml")
	text, err := os.ReadFile(manifest)
	if err == nil {
		more := "\n- {entry: one, object: tiny.bpf.o, hook: xdp}\n- {entry: bare, object: tiny.bpf.o, hook: xdp}\nfiles:"
		err = os.WriteFile(manifest, bytes.Replace(text, []byte("\nfiles:"), []byte(more), 1), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Maps are the same ones when programs that share them change places.
func TestAgentOfSameMapsElsewhere(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	s := pairMaps(t)
	a := s.Chains[0].Programs[0]
	a.Instance = "i"
	other := l3af.Program{Name: "n", Package: a.Package, Entry: "one"}
	other.Instance, other.OnMapChange = "i", a.OnMapChange
	s.Chains[0].Programs = []l3af.Program{a, other}
	r.apply(s)
	s.Chains[0].Programs = []l3af.Program{other, a}
	r.apply(s)
	if got := r.order("xdp/v0"); got != " agent step step" {
		t.Errorf("a is behind another:%s", got)
	}
}

// A program without maps that gets some has an agent that found none.
func TestAgentOfFirstMaps(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	s := pairMaps(t)
	a := &s.Chains[0].Programs[0]
	a.Entry, a.Config = "bare", nil
	r.apply(s)
	a.Entry = "tiny"
	r.apply(s)
	if got := r.order("xdp/v0"); got != " agent step step agent" {
		t.Errorf("with maps:%s", got)
	}
}

// A daemon that ends between a switch to new maps and the new start of the
// agent leaves that to the next one, which knows by the maps that the agent
// found.
func TestAgentOfNewMapsAfterCrash(t *testing.T) {
	for _, at := range []string{"after update link of xdp/v0", "after put map a/table in place", "after remove maps aside"} {
		t.Run(at, func(t *testing.T) {
			r := newRig(t)
			defer r.endAgents()
			r.apply(newMaps(t, "tiny.bpf.o"))
			next := newMaps(t, "bigger.bpf.o")
			r.each = func() {
				if r.seen[len(r.seen)-1] == at {
					r.left = 0
				}
			}
			if point := r.try(func() { r.apply(next) }); point != at {
				t.Fatalf("crashed at %q", point)
			}
			r.each = nil
			r.restart()
			if got := r.order("xdp/v0"); got != " agent" {
				t.Errorf("after the crash:%s", got)
			}
			wantSteps(t, r.reconcile())
			r.restart()
			if got := r.order("xdp/v0"); got != "" {
				t.Errorf("at rest:%s", got)
			}
		})
	}
}

// The map in the place of one whose pin somebody removed may have to wait for
// another to leave the directory where both are to be found: so does the agent.
func TestAgentOfLostMap(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	pinned := func(at, other string) *l3af.State {
		s := withAgent(l3af.Agent{Start: []string{"init", "yes"}})
		s.Chains[0].Programs[0].PinPath = at
		s.Chains = append(s.Chains, l3af.Chain{Interface: "w0", Hook: l3af.XDP, Programs: []l3af.Program{
			{Name: "c", Package: testObject(t, "tiny.bpf.o"), Entry: "tiny", Settings: l3af.Settings{PinPath: other}}}})
		return s
	}
	const x, y = "/sys/fs/bpf/out/x", "/sys/fs/bpf/out/y"
	r.apply(pinned(x, y))
	r.k.Lose(hookOf("xdp/v0"), "a", "table")
	switches := 0
	r.each = func() {
		if r.seen[len(r.seen)-1] != "before update link of xdp/v0" {
			return
		}
		switches++
		if _, starting := r.n.pending[hookOf("xdp/v0")]; starting {
			t.Error("the agent starts before its map is there")
		}
	}
	r.apply(pinned(y, ""))
	r.each = nil
	if got := r.order("xdp/v0"); switches != 1 || got != " agent step step agent" {
		t.Errorf("%d switches; %s", switches, got)
	}
	wantSteps(t, r.reconcile())
}

// A plan tells what an apply then does about agents.
func TestPlanTellsAgents(t *testing.T) {
	r := newRig(t)
	defer r.endAgents()
	daemon := func(change func(*l3af.Agent, *l3af.State)) *l3af.State {
		a := l3af.Agent{Start: []string{"daemon"}, Daemon: true}
		s := withAgent(a)
		if change != nil {
			change(s.Chains[0].Programs[0].Agent, s)
		}
		return s
	}
	update := func(a *l3af.Agent, _ *l3af.State) { a.Update = []string{"init", "update"} }
	for _, c := range []struct {
		name  string
		state *l3af.State
		want  string // what the plan says
		did   string // what is told after the apply
	}{
		{"no agent", state("two"), "", ""},
		{"an agent", daemon(nil), "start", "a: started"},
		{"the same", daemon(nil), "", ""},
		{"an update", daemon(update), "update", "a: updated"},
		{"another Stop", daemon(func(a *l3af.Agent, s *l3af.State) { update(a, s); a.Stop = []string{"init", "stop"} }), "", ""},
		{"other arguments", daemon(func(a *l3af.Agent, _ *l3af.State) { a.Start = append(a.Start, "x") }), "restart", "a: stopped a: started"},
		{"one that fails", daemon(func(a *l3af.Agent, _ *l3af.State) { a.Start, a.Daemon = []string{"init", "no", "x"}, false }), "restart", "a: stopped a: failed"},
		{"fails again", daemon(func(a *l3af.Agent, _ *l3af.State) { a.Start, a.Daemon = []string{"init", "no", "x"}, false }), "restart", "a: stopped a: failed"},
		{"as it was", daemon(nil), "restart", "a: stopped a: started"},
		{"disabled", daemon(func(_ *l3af.Agent, s *l3af.State) { s.Chains[0].Programs[0].Disabled = true }), "stop", "a: stopped"},
		{"enabled", daemon(nil), "start", "a: started"},
		{"no chain", state("empty"), "stop", "a: stopped"},
		{"no interface", daemon(func(_ *l3af.Agent, s *l3af.State) { s.Chains[0].Interface = "nope" }), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := r.n.Plan(context.Background(), c.state)
			if err != nil {
				t.Fatal(err)
			}
			var said []string
			for _, a := range p.Agents {
				said = append(said, a.Verb)
				if a.Target != "xdp/v0" || a.Program != "a" {
					t.Errorf("planned %+v", a)
				}
			}
			told := func() (list []string) {
				for ev := range events0(r.n) {
					if ev.Kind == eventAgent {
						message, _, _ := strings.Cut(ev.Message, ",")
						list = append(list, strings.Join(strings.Fields(message)[:2], " "))
					}
				}
				return list
			}
			before := len(told())
			if _, err := r.n.Apply(context.Background(), c.state, "test", -1); err != nil {
				t.Fatal(err)
			}
			stops := func() bool { // it is ended in the background
				a := r.n.agents.Status("xdp/v0/a")
				return a != nil && a.State == "stopping"
			}
			for deadline := time.Now().Add(20 * time.Second); stops(); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it never ends")
				}
			}
			did := strings.ReplaceAll(strings.Join(told()[before:], " "), "failed:", "failed")
			if strings.Join(said, " ") != c.want || !strings.HasPrefix(did, c.did) || (c.did == "") != (did == "") {
				t.Errorf("planned %q, want %q; did %q, want %q", said, c.want, did, c.did)
			}
		})
	}
	// Nothing is started for a chain that the kernel does not take.
	r.k.Refuse = map[string]error{"a": errors.New("the verifier says no")}
	if p, err := r.n.Plan(context.Background(), daemon(nil)); err != nil || len(p.Failed) != 1 || len(p.Agents) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
}
