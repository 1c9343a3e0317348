package node

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"l3af"
	"l3af/internal/agent"
	"l3af/internal/artifact"
	"l3af/internal/host"
)

// agentOf is the agent of a program of the document.
type agentOf struct {
	program string
	agent   *l3af.Agent
	digest  string // of the package
}

// agentKey tells the agents of a machine apart.
func agentKey(t host.Target, program string) string { return t.String() + "/" + program }

// splitKey is the inverse of agentKey.
func splitKey(key string) (target, program string) {
	i := strings.LastIndexByte(key, '/')
	return key[:i], key[i+1:]
}

func (n *Node) openAgents() (*agent.Supervisor, error) {
	return agent.Open(agent.Options{
		Dir: filepath.Join(n.opts.Dir, "agents"), Log: n.log, Poll: n.opts.AgentPoll,
		Changed: n.wake,
		Event: func(key, message string) {
			target, program := splitKey(key)
			n.events.publish(l3af.Event{Kind: eventAgent, Target: target, Message: program + ": " + message})
		},
	})
}

// specs are the agents that are wanted at a target.
func (n *Node) specs(w *want) []*agent.Spec {
	var specs []*agent.Spec
	for _, a := range w.made.agents {
		specs = append(specs, &agent.Spec{
			Key: agentKey(w.target, a.program), Agent: *a.agent, Digest: a.digest,
			Open: func() (*artifact.Package, error) { return n.store.Get(a.digest) },
		})
	}
	return specs
}

// planAgents tells what would become of agents where wants are wanted. runs
// tells of a target whether that would come to run there: else nothing becomes
// of its agents.
func (n *Node) planAgents(wants []want, runs func(*want) bool) ([]l3af.AgentStep, error) {
	var steps []l3af.AgentStep
	add := func(verb, key string) {
		target, program := splitKey(key)
		steps = append(steps, l3af.AgentStep{Verb: verb, Target: target, Program: program})
	}
	wanted, left := map[string]bool{}, map[string]bool{}
	for i := range wants {
		w := &wants[i]
		left[w.target.String()] = !runs(w)
		specs := n.specs(w)
		if w.present && runs(w) && len(specs) > 0 {
			if err := n.find(w, specs); err != nil {
				return nil, err
			}
		}
		for _, spec := range specs {
			wanted[spec.Key] = true
			if verb := n.agents.Would(spec); verb != "" && w.present && runs(w) {
				add(verb, spec.Key)
			}
		}
	}
	for _, key := range n.agents.Keys() {
		if target, _ := splitKey(key); !wanted[key] && !left[target] {
			add(agent.Stop, key)
		}
	}
	return steps, nil
}

// agents sees to the agents that are wanted at a target and reports whether
// all of them are up. Those that are not are started in the background, after
// first, where that is not nil; one that failed is tried again when contents
// are looked at.
func (r *round) agents(w *want, first func() error) (up bool, err error) {
	n := r.n
	var idle []*agent.Spec
	busy := false
	specs := r.n.specs(w)
	for i, spec := range specs {
		switch state, why := n.agents.State(spec); {
		case r.toStart(state):
			idle = append(idle, spec)
		case state == agent.Up:
			n.agents.Want(spec)
		case state == agent.Starting:
			busy = true
		default:
			err = fmt.Errorf("agent of %s: %w", w.made.agents[i].program, why)
		}
	}
	if len(idle) > 0 && first != nil {
		if err := first(); err != nil {
			return false, err
		}
	}
	if len(idle) > 0 {
		if err := r.n.find(w, idle); err != nil {
			return false, err
		}
	}
	for _, spec := range idle {
		n.agents.Want(spec)
	}
	if busy = busy || len(idle) > 0; busy {
		n.pending[w.target] = starting{w.made.id, specs, r.have[w.target].ID == w.made.id}
	}
	return !busy && err == nil, err
}

// toStart reports whether an agent in that state is to be started.
func (r *round) toStart(state agent.State) bool {
	return state == agent.Idle || state == agent.Failed && r.contents
}

// tryAhead finds out whether the kernel takes the chains of steps that wait for
// agents to be started, as many at a time as there are processors.
func (r *round) tryAhead(steps []step) {
	var list []*step
	for i := range steps {
		s := &steps[i]
		if s.want == nil || s.want.made.mode() == l3af.Offload || r.isRefused(s) || r.n.awaited[s.target] ||
			!slices.ContainsFunc(r.n.specs(s.want), func(spec *agent.Spec) bool {
				state, _ := r.n.agents.State(spec)
				return r.toStart(state)
			}) {
			continue
		}
		s.want.made.built.loads.Add(1)
		list = append(list, s)
	}
	refused := make([]error, len(list))
	parallel(len(list), func(i int) {
		m := list[i].want.made
		defer m.built.loaded()
		load, err := m.load(r.composer, list[i].target)
		if err == nil {
			err = r.n.kernel.TestLoad(load)
		}
		refused[i] = err
	})
	r.tried = map[host.Target]error{}
	for i, s := range list {
		r.tried[s.target] = refused[i]
	}
}

// agentsFirst reports whether the agents that an attach needs are up. Until
// then the target is left as it is, while the others go on: its maps are made,
// so that the agents find them.
func (r *round) agentsFirst(s *step) bool {
	n, w := r.n, s.want
	switch {
	case len(w.made.agents) == 0 || r.isRefused(s):
		return true
	case n.awaited[s.target]:
		return false
	}
	up, err := r.agents(w, func() error {
		// No agent is started, or gives way to another, for a chain that the
		// kernel does not take.
		err, known := r.tried[s.target]
		if err != nil {
			return err
		}
		load, err := w.made.load(r.composer, s.target)
		if err == nil && !known && load.Mode != l3af.Offload { // the agent has failed since then
			err = n.kernel.TestLoad(load)
		}
		if err != nil {
			return err
		}
		if err := r.mapsFirst(w, load); err != nil {
			return err
		}
		// An agent finds the maps of the whole instance.
		for _, other := range r.sharing(w) {
			if load, err = other.made.load(r.composer, other.target); err == nil {
				err = r.mapsFirst(other, load)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", other.target, err)
			}
		}
		return nil
	})
	if err == nil {
		return up
	}
	if r.vanished(s.target) {
		n.clear(s.target)
		return false
	}
	err = fmt.Errorf("%s %s: %w", s.verb, s.target, err)
	r.step(l3af.Step{Verb: s.verb, Target: s.target.String(), From: s.from, To: w.made.id, Error: err.Error()})
	r.fail(s.target, err)
	return false
}

// mapsFirst makes the maps of what is to run at a target, for agents to find.
func (r *round) mapsFirst(w *want, load host.Load) error {
	delete(r.n.settled, w.target)
	if err := r.n.kernel.MakeMaps(load); err != nil {
		return err
	}
	return r.n.kernel.PinAhead(w.target, w.made.light, load.Pins)
}

// sharing are those that are still to come of what shares an instance with w.
func (r *round) sharing(w *want) []*want {
	var others []*want
	for i := range r.wants {
		o := &r.wants[i]
		if o == w || o.target == w.target || !o.present || o.made.err != nil || o.made.off() || r.have[o.target].ID == o.made.id || r.have[o.target].Err != nil {
			continue
		}
		if slices.ContainsFunc(o.made.users, func(u user) bool {
			return slices.ContainsFunc(w.made.users, func(v user) bool { return u.instance == v.instance })
		}) {
			others = append(others, o)
		}
	}
	return others
}

// find tells specs of a target which maps their agents find there now.
func (n *Node) find(w *want, specs []*agent.Spec) error {
	ids, err := n.kernel.MapIDs(w.target, w.made.light)
	if err != nil {
		return fmt.Errorf("maps for agents: %w", err)
	}
	for _, spec := range specs {
		var list []int
		for i, of := range w.made.light.Maps {
			if of.Pinned && !of.Tied() && slices.ContainsFunc(of.Users, func(user string) bool { return agentKey(w.target, user) == spec.Key }) {
				list = append(list, int(ids[i]))
			}
		}
		slices.Sort(list) // programs may change places
		spec.Maps = fmt.Sprint(list)
	}
	return nil
}

// agentsAgain starts agents anew whose program has other maps than they found.
func (r *round) agentsAgain(w *want) {
	if len(w.made.agents) == 0 {
		return
	}
	specs := r.n.specs(w)
	if err := r.n.find(w, specs); err != nil {
		r.trouble("read", w.target.String(), err)
		return
	}
	for _, spec := range specs {
		if r.n.agents.Again(spec) {
			r.n.pending[w.target] = starting{w.made.id, specs, true}
		}
	}
}

// leaveAgents ends the agents of programs that left. Where what is wanted does
// not run yet, those of what runs go on.
func (r *round) leaveAgents() {
	n := r.n
	wanted, left := map[string]bool{}, map[string]bool{}
	for i := range r.wants {
		w := &r.wants[i]
		_, pending := n.pending[w.target]
		left[w.target.String()] = w.unread != nil || w.made.err != nil || pending || r.broken[w.target] || n.awaited[w.target]
		for _, a := range w.made.agents {
			wanted[agentKey(w.target, a.program)] = true
		}
	}
	for t := range r.have {
		if _, ok := left[t.String()]; !ok {
			left[t.String()] = true // it is not gone yet
		}
	}
	n.agents.Keep(func(key string) bool {
		target, _ := splitKey(key)
		return wanted[key] || left[target]
	})
}

// Hurry has an apply answer that waits for agents, and those that come not wait
// for any: it is for a daemon that is about to end. The next one goes on with
// what they did not come to.
func (n *Node) Hurry() { n.hurry() }

// starting are agents that a target waits for.
type starting struct {
	id    string // of the chain that they are wanted for
	specs []*agent.Spec
	runs  bool // it does: nothing but the agents is not as it is wanted
}

// awaitAgents returns when no agent is being started any more that the last
// reconcile left, or nobody is to wait longer, which cut tells. n.mu is held, but not
// meanwhile: others look after what else there is, and leave the targets alone that
// are waited for.
func (n *Node) awaitAgents() (cut bool) {
	var specs []*agent.Spec
	n.awaited = map[host.Target]bool{}
	for t, s := range n.pending {
		n.awaited[t] = true
		specs = append(specs, s.specs...)
	}
	n.mu.Unlock()
	err := n.agents.Wait(n.hurried, specs)
	n.mu.Lock()
	n.awaited = nil
	return err != nil || n.closed
}

// unstarted are the targets that do not run what is wanted since agents are still
// being started.
func (n *Node) unstarted() []l3af.Step {
	var left []l3af.Step
	for t, s := range n.pending {
		if !s.runs {
			left = append(left, l3af.Step{Verb: verbAttach, Target: t.String(), To: s.id, Unstarted: true,
				Error: t.String() + ": its agents are still being started, and l3afd is ending: the next one goes on with that"})
		}
	}
	slices.SortFunc(left, func(a, b l3af.Step) int { return strings.Compare(a.Target, b.Target) })
	return left
}
