package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// reconcile takes the steps from what the kernel has to what the current
// revision wants. What fails is remembered, does not hold up the rest, and is
// tried again next time. Without contents, maps of what runs well are not
// looked into. n.mu is held.
func (n *Node) reconcile(ctx context.Context, contents bool) []l3af.Step {
	if n.revs.damage != nil || n.revs.current == nil {
		return nil // what runs, runs on
	}
	start := time.Now()
	n.mend()
	r := &round{n: n, ctx: ctx, contents: contents, interfaces: n.interfaces(), composer: newComposer(n.stored(n.revs.current))}
	r.run()
	r.end()
	failures := len(r.failed()) + len(r.troubles)
	if n.opts.Observe != nil {
		n.opts.Observe(Reconciled{Duration: time.Since(start), Steps: len(r.steps), Failures: failures})
	}
	return r.steps
}

// round is one reconcile.
type round struct {
	n          *Node
	ctx        context.Context // ends the round between two steps
	contents   bool            // look into the maps of what runs well
	interfaces func(netns string) ([]host.Interface, error)
	composer   *composer
	tried      map[host.Target]error // see tryAhead
	ahead      *ahead
	wants      []want
	have       map[host.Target]host.Attached
	steps      []l3af.Step
	broken     map[host.Target]bool // failed in this round
	settling   []*want              // see settle
	waiting    []func()             // see again
	late       bool                 // they have their turn
	troubles   []l3af.Step          // what went wrong and is no target's state
}

func (r *round) run() {
	n := r.n
	r.broken = map[host.Target]bool{}
	n.pending = map[host.Target]starting{}
	attached, err := n.kernel.Attached()
	if err != nil {
		r.trouble("read", "node", fmt.Errorf("read what is attached: %w", err))
		return
	}
	r.have = make(map[host.Target]host.Attached, len(attached))
	for _, h := range attached {
		r.have[h.Target] = h
	}
	r.wants = expand(n.made, r.interfaces)
	r.watchInterfaces()

	r.pinAhead()
	steps := plan(r.wants, attached, r.forget)
	r.tryAhead(steps)
	replaced := map[host.Target]bool{} // what happens there is not keep's
	steps = slices.DeleteFunc(steps, func(s step) bool {
		if s.want == nil || r.agentsFirst(&s) {
			return false
		}
		replaced[s.target] = true
		return true
	})
	r.ahead = r.prepare(steps)
	defer r.ahead.stop()
	for i := range steps {
		s := &steps[i]
		if r.ctx.Err() != nil {
			return
		}
		if s.verb == verbDetach {
			replaced[s.target] = !r.detach(s)
		} else {
			replaced[s.target] = true
			r.attach(s)
		}
	}
	live := map[string]bool{}
	for target := range r.have {
		live[target.String()] = true
	}
	for i := range r.wants {
		w := &r.wants[i]
		live[w.target.String()] = true
		if r.ctx.Err() != nil {
			return
		}
		switch {
		case w.unread != nil:
			r.fail(w.target, fmt.Errorf("list interfaces: %w", w.unread))
		case w.made.err != nil:
			r.fail(w.target, w.made.err)
		case r.have[w.target].Err != nil:
			r.fail(w.target, r.have[w.target].Err)
		case !w.present:
			n.clear(w.target)
		case !replaced[w.target]:
			r.keep(w)
		}
	}
	r.again()
	r.fold()
	r.leaveAgents()
	if err := n.totals.retainOnly(live); err != nil {
		r.trouble("write", "counters", err)
	}
	for _, m := range n.made {
		if m.built != nil {
			m.built.release()
		}
	}
}

// refusal is a change of XDP mode that failed. The machine is not asked again
// before the next apply, because nothing runs while it tries.
type refusal struct {
	id   string // of the chain
	mode l3af.Mode
	err  error
}

// isRefused reports whether a step would be that again.
func (r *round) isRefused(s *step) bool {
	no := r.n.refused[s.target]
	return s.from != "" && no.id == s.want.made.id && no.mode == s.want.made.mode()
}

// attach takes an attach or a replace step.
func (r *round) attach(s *step) {
	n, w := r.n, s.want
	if r.isRefused(s) {
		r.fail(s.target, n.refused[s.target].err)
		return
	}
	delete(n.refused, s.target)
	result, err := r.switchOver(s)
	if errors.Is(err, host.ErrTaken) && !r.late {
		r.waiting = append(r.waiting, func() { r.attach(&step{verb: s.verb, target: s.target, from: s.from, want: w}) })
		r.leave(w)
		return
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w", s.verb, s.target, err)
	}
	if errors.As(err, new(*host.ModeError)) {
		err = fmt.Errorf("%w (tried again at the next apply: each try lets packets pass unseen for a moment)", err)
		n.refused[s.target] = refusal{w.made.id, w.made.mode(), err}
	}
	delete(n.settled, s.target)
	if err != nil && r.vanished(s.target) {
		r.step(l3af.Step{Verb: s.verb, Target: s.target.String(), From: s.from, To: w.made.id, Error: err.Error()})
		n.clear(s.target)
		return
	}
	r.step(l3af.Step{Verb: s.verb, Target: s.target.String(), From: s.from, To: w.made.id, Error: text(err)})
	if err != nil {
		r.fail(s.target, err)
		return
	}
	n.clear(s.target)
	n.note(s.target, result.Note)
	n.taken(s.target, result.Chain)
	r.settle(w)
	r.agentsAgain(w) // they were started before, and maps may have given way to others
}

// switchOver makes a target run what is wanted there: what was prepared ahead,
// if that is still good.
func (r *round) switchOver(s *step) (host.Result, error) {
	// The step is not cut short with the round: it ends by itself.
	ctx := context.WithoutCancel(r.ctx)
	p, err := r.ahead.take(s)
	if err != nil {
		return host.Result{}, err
	}
	if p != nil {
		defer p.Close()
		result, err := p.Attach(ctx)
		if !errors.Is(err, host.ErrStale) {
			return result, err
		}
	}
	if err := r.n.totals.dropFolded(s.target); err != nil {
		return host.Result{}, err
	}
	load, err := s.want.made.load(r.composer, s.target)
	if err != nil {
		return host.Result{}, err
	}
	return r.n.kernel.Attach(ctx, load)
}

// keep looks after a target that runs the right chain.
func (r *round) keep(w *want) {
	n := r.n
	_, agents := r.agents(w, nil)
	if !r.contents && n.settled[w.target] == w.made.stays && n.failed[w.target] == nil && agents == nil {
		return
	}
	if w.made.off() {
		n.clear(w.target)
		r.settle(w)
		return
	}
	changed, err := n.kernel.Write(w.target, w.made.light, w.made.contents)
	if err == nil {
		var pinned int
		pinned, err = n.kernel.Pin(w.target, w.made.light, w.made.pins())
		changed += pinned
	}
	if err != nil && r.vanished(w.target) {
		n.clear(w.target)
		return
	}
	if errors.Is(err, host.ErrTaken) && !r.late {
		r.waiting = append(r.waiting, func() { r.keep(w) })
		return
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, host.ErrTaken) && len(w.made.reset) > 0 {
		// Somebody removed the pin of a map: a new one takes its place. Or others
		// have theirs where this one is to be: it may start anew as that one.
		r.attach(&step{verb: verbReplace, target: w.target, from: w.made.id, want: w})
		return
	}
	if changed > 0 || err != nil {
		if err != nil {
			err = fmt.Errorf("write %s: %w", w.target, err)
		}
		if changed > 0 || !n.failedAlready(w.target, err) {
			r.step(l3af.Step{Verb: verbWrite, Target: w.target.String(), To: w.made.id, Error: text(err)})
		}
	}
	if err == nil {
		err = agents
	}
	if err != nil {
		r.fail(w.target, err)
		return
	}
	n.clear(w.target)
	r.settle(w)
	r.agentsAgain(w) // should an earlier daemon have ended before it saw to them
}

// settle removes the pins of programs that left. The counts of replaced chains
// are folded at the end of the round, those of all targets at once. After a
// crash or a failure it is done anew.
func (r *round) settle(w *want) {
	if settled, ok := r.n.settled[w.target]; ok && settled == w.made.stays {
		return
	}
	// What replaced programs had pinned outside goes as well.
	_, err := r.n.kernel.Pin(w.target, w.made.light, w.made.pins())
	if err == nil {
		if err = r.n.kernel.Tidy(w.target, w.made.keep); err != nil {
			err = fmt.Errorf("tidy %s: %w", w.target, err)
		}
	}
	if err != nil {
		r.trouble("tidy", w.target.String(), err)
		return
	}
	r.settling = append(r.settling, w)
}

// fold folds the counts of the targets that settle.
func (r *round) fold() {
	if len(r.settling) == 0 {
		return
	}
	all := make([]settling, len(r.settling))
	for i, w := range r.settling {
		all[i] = settling{w.target, w.made.keep}
	}
	for i, err := range r.n.totals.fold(all) {
		w := r.settling[i]
		if err != nil {
			r.trouble("tidy", w.target.String(), err)
			continue
		}
		r.n.settled[w.target] = w.made.stays
	}
}

// detach takes a detach step and reports whether it is done.
func (r *round) detach(s *step) bool {
	n := r.n
	err := n.kernel.Detach(s.target)
	if err == nil && s.remove {
		err = n.totals.remove(s.target)
	}
	if err != nil {
		err = fmt.Errorf("detach %s: %w", s.target, err)
		if s.from != "" && !s.remove { // its chain is disabled
			r.fail(s.target, err)
		} else {
			r.trouble(verbDetach, s.target.String(), err)
		}
	}
	if s.remove || s.from != "" {
		delete(n.settled, s.target)
		r.step(l3af.Step{Verb: verbDetach, Target: s.target.String(), From: s.from, Error: text(err)})
	}
	if err == nil && s.remove {
		delete(r.have, s.target)
		delete(n.gone, s.target)
		n.clear(s.target)
	}
	return err == nil
}

// vanished reports whether a hook's interface is gone by now.
func (r *round) vanished(t host.Target) bool {
	if t.Probe != "" {
		return false
	}
	there, err := r.n.kernel.Interfaces(t.Hook.Netns)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return !slices.ContainsFunc(there, func(i host.Interface) bool { return i.Name == t.Hook.Interface })
}

// forget reports whether the interface of a hook that a glob names has been
// gone for keepGone.
func (r *round) forget(t host.Target) bool {
	since, ok := r.n.gone[t]
	if !ok {
		r.n.gone[t] = time.Now()
	}
	return ok && time.Since(since) >= keepGone
}

func (r *round) step(s l3af.Step) {
	r.steps = append(r.steps, s)
	n := r.n
	if s.Error != "" {
		return // fail tells
	}
	ids := make([]string, 0, 2)
	for _, id := range []string{s.From, s.To} {
		if id != "" {
			ids = append(ids, id)
		}
	}
	n.log.Info(s.Verb, "target", s.Target, "from", s.From, "to", s.To)
	n.events.publish(l3af.Event{Kind: eventStep, Target: s.Target, Message: strings.TrimSpace(s.Verb + " " + strings.Join(ids, " to ")), Revision: n.revs.latest})
}

// fail remembers why a target does not run as wanted. It is told once.
func (r *round) fail(t host.Target, err error) {
	n := r.n
	r.broken[t] = true
	if n.failedAlready(t, err) {
		return
	}
	n.view.Lock()
	n.failed[t] = err
	n.view.Unlock()
	n.log.Error("failed", "target", t.String(), "error", err)
	n.events.publish(l3af.Event{Kind: eventFailed, Target: t.String(), Message: err.Error(), Revision: n.revs.latest})
}

func (r *round) trouble(verb, of string, err error) {
	r.troubles = append(r.troubles, l3af.Step{Verb: verb, Target: of, Error: err.Error()})
}

// failed gives the targets that do not run as wanted, in the document's order.
func (r *round) failed() []l3af.Step {
	var failed []l3af.Step
	for i := range r.wants {
		if t := r.wants[i].target; r.broken[t] {
			failed = append(failed, l3af.Step{Verb: verbAttach, Target: t.String(), To: r.wants[i].made.id, Error: r.n.failed[t].Error()})
		}
	}
	return failed
}

// end tells what concerns the node and forgets failures of targets that are
// not wanted any more.
func (r *round) end() {
	n := r.n
	troubles := make([]string, 0, len(r.troubles))
	for _, t := range r.troubles {
		troubles = append(troubles, t.Error)
		if !slices.Contains(n.troubles, t.Error) {
			n.log.Error(t.Error)
			n.events.publish(l3af.Event{Kind: eventLog, Target: t.Target, Message: t.Error, Revision: n.revs.latest})
		}
	}
	n.view.Lock()
	defer n.view.Unlock()
	n.troubles, n.last = troubles, slices.Concat(r.failed(), r.troubles)
	if r.have == nil || r.ctx.Err() != nil {
		return // the round ended early and knows of no target
	}
	wanted, watched := map[host.Target]bool{}, map[host.Target]*made{}
	for i := range r.wants {
		w := &r.wants[i]
		wanted[w.target] = true
		if w.present && w.made.err == nil && len(w.made.monitors) > 0 {
			watched[w.target] = w.made
		}
	}
	n.monitors.watch(watched)
	maps.DeleteFunc(n.failed, func(t host.Target, _ error) bool { return !wanted[t] })
	maps.DeleteFunc(n.notes, func(t host.Target, _ string) bool { return !wanted[t] })
	maps.DeleteFunc(n.took, func(t host.Target, _ *chain.Chain) bool { return !wanted[t] })
	maps.DeleteFunc(n.refused, func(t host.Target, _ refusal) bool { return !wanted[t] })
	maps.DeleteFunc(n.gone, func(t host.Target, _ time.Time) bool { return wanted[t] })
}

// watchInterfaces tells when an interface the document names comes or goes.
func (r *round) watchInterfaces() {
	n := r.n
	now := map[host.Target]bool{}
	for _, w := range r.wants {
		if w.made.chain != nil && w.present {
			now[w.target] = true
		}
	}
	if n.present != nil {
		tell := func(t host.Target, what string) {
			n.log.Info(what, "target", t.String())
			n.events.publish(l3af.Event{Kind: eventInterface, Target: t.String(), Message: what, Revision: n.revs.latest})
		}
		for t := range now {
			if !n.present[t] {
				tell(t, "the interface is there")
			}
		}
		for t := range n.present {
			if !now[t] && claim(r.wants, t) != "" {
				tell(t, "the interface is gone")
			}
		}
	}
	n.present = now
}

// interfaces lists the interfaces of each namespace at most once. A namespace
// that does not exist has none.
func (n *Node) interfaces() func(netns string) ([]host.Interface, error) {
	type answer struct {
		list []host.Interface
		err  error
	}
	known := map[string]answer{}
	return func(netns string) ([]host.Interface, error) {
		a, ok := known[netns]
		if !ok {
			a.list, a.err = n.kernel.Interfaces(netns)
			if errors.Is(a.err, fs.ErrNotExist) {
				a.list, a.err = nil, nil
			}
			known[netns] = a
		}
		return a.list, a.err
	}
}
