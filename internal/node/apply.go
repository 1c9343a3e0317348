package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/bind"
	"l3af/internal/host"
)

// Apply makes s the state of the node: a new revision, unless s and the
// packages it names are what the current one is. Until the packages are there
// an end of ctx ends it; then it returns when everything that can be done is
// done, whether or not ctx has ended by then. Only [Node.Hurry] and [Node.Close]
// cut that short, and it says what they left. Nothing is changed on an
// [*l3af.InvalidError] or [*l3af.ConflictError].
//
// ifRevision is the revision that must be the current one; negative: any.
func (n *Node) Apply(ctx context.Context, s *l3af.State, by string, ifRevision int) (*l3af.Applied, error) {
	return n.change(ctx, by, ifRevision, nil, func() (*l3af.State, opener, error) {
		return s, n.opener(ctx), nil
	})
}

// Edit is [Node.Apply] for a state that was made of revision ifRevision by
// changing a part of it: packages that the revision names stay what they are,
// wherever they came from, but those that fresh reports. What the kernel
// refuses to load is a mistake of the state: nothing is changed then.
func (n *Node) Edit(ctx context.Context, s *l3af.State, by string, ifRevision int, fresh func(ref string) bool) (*l3af.Applied, error) {
	return n.change(ctx, by, ifRevision, n.loads, func() (*l3af.State, opener, error) {
		return s, n.kept(ctx, fresh), nil
	})
}

// Entries lists the programs of an object, with the package as an
// [Node.Edit] would take it. errors.Is(err, fs.ErrNotExist): there is none.
func (n *Node) Entries(ctx context.Context, ref, object string, fresh bool) ([]bind.Entry, error) {
	pkg, err := n.kept(ctx, func(string) bool { return fresh })(ref)
	if err != nil {
		return nil, err
	}
	return bind.Entries(pkg, object)
}

// kept opens packages of the current revision as they were when it was applied.
func (n *Node) kept(ctx context.Context, fresh func(ref string) bool) opener {
	anew := n.opener(ctx)
	rev := n.Current()
	if rev == nil {
		return anew
	}
	kept := n.stored(rev)
	return func(ref string) (*artifact.Package, error) {
		if _, ok := rev.Packages[ref]; ok && !fresh(ref) {
			if pkg, err := kept(ref); err == nil {
				return pkg, nil
			}
		}
		return anew(ref)
	}
}

// Rollback makes an old state the state of the node again, as a new revision
// with the packages of the old one. to 0 is the revision before the current.
func (n *Node) Rollback(ctx context.Context, to int, by string, ifRevision int) (*l3af.Applied, error) {
	return n.change(ctx, by, ifRevision, nil, func() (*l3af.State, opener, error) {
		var old *l3af.Revision
		var err error
		if to == 0 {
			old, err = n.revs.before()
		} else {
			old, err = n.revs.find(to)
		}
		if err != nil {
			return nil, nil, err
		}
		return &old.State, n.stored(old), nil
	})
}

// stored opens the packages of a revision as they were when it was applied.
func (n *Node) stored(rev *l3af.Revision) opener {
	return func(ref string) (*artifact.Package, error) {
		digest, ok := rev.Packages[ref]
		if !ok {
			return nil, fmt.Errorf("revision %d does not say which package %s is", rev.Number, ref)
		}
		return n.store.Get(digest)
	}
}

// change makes what prepare gives the state, unless check, which may be nil,
// has something against it.
func (n *Node) change(ctx context.Context, by string, ifRevision int, check func(*drafted) error, prepare func() (*l3af.State, opener, error)) (*l3af.Applied, error) {
	if !n.applying.TryLock() {
		n.view.RLock()
		defer n.view.RUnlock()
		return nil, &l3af.ConflictError{Current: n.revs.latest, Busy: true}
	}
	defer n.applying.Unlock()
	n.view.RLock()
	latest, closed := n.revs.latest, n.closed
	n.view.RUnlock()
	if closed {
		return nil, errClosed
	}
	if ifRevision >= 0 && ifRevision != latest {
		return nil, &l3af.ConflictError{Current: latest}
	}
	// Packages may take their time to come: the machine is looked after meanwhile.
	s, open, err := prepare()
	if err != nil {
		return nil, err
	}
	d, err := n.draft(s, open)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed
	}
	if check != nil {
		if err := check(d); err != nil {
			return nil, err
		}
	}
	applied := &l3af.Applied{}
	// Also for the current state: a package that was lost is there again.
	for _, ref := range slices.Sorted(maps.Keys(d.packages)) {
		n.disk.at("before store package")
		if err := n.store.Put(d.packages[ref]); err != nil {
			return nil, err
		}
		n.disk.at("after store package")
	}
	if !n.isCurrent(d) {
		rev := &l3af.Revision{Time: time.Now().UTC(), By: by, State: *d.state, Packages: d.digests}
		if err := n.put(rev, d.made); err != nil {
			return nil, err
		}
		applied.Changed = true
		n.log.Info("applied", "revision", rev.Number, "by", by)
		n.events.publish(l3af.Event{Kind: eventApplied, Message: "applied by " + by, Revision: rev.Number})
		n.prune()
	}
	clear(n.refused)
	applied.Steps = append([]l3af.Step{}, n.reconcile(context.WithoutCancel(ctx), true)...)
	for len(n.pending) > 0 {
		cut := n.awaitAgents()
		if !n.closed {
			applied.Steps = append(applied.Steps, n.reconcile(context.WithoutCancel(ctx), false)...)
		}
		if cut {
			left := slices.DeleteFunc(n.unstarted(), func(s l3af.Step) bool { // it is known already
				return slices.ContainsFunc(n.last, func(f l3af.Step) bool { return f.Target == s.Target })
			})
			applied.Revision, applied.Failed = n.revs.latest, slices.Concat(n.last, left)
			return applied, nil
		}
	}
	applied.Revision, applied.Failed = n.revs.latest, n.last
	return applied, nil
}

// put makes rev the current revision, and made what it means.
func (n *Node) put(rev *l3af.Revision, made []*made) error {
	n.view.Lock()
	defer n.view.Unlock()
	if err := n.revs.put(rev); err != nil {
		return err
	}
	n.made, n.present = made, nil
	return nil
}

// prune removes old revisions and the packages that no kept one names.
func (n *Node) prune() {
	digests, err := n.revs.prune()
	if err == nil {
		n.disk.at("before keep packages")
		err = n.store.Keep(digests)
		n.disk.at("after keep packages")
	}
	if err != nil {
		n.log.Error("old revisions stay", "error", err)
	}
}

// drafted is a state that is found good.
type drafted struct {
	state    *l3af.State
	made     []*made
	packages map[string]*artifact.Package // by reference
	digests  map[string]string
}

// draft checks a state and composes all of it. It finds every mistake at once
// and changes nothing.
func (n *Node) draft(s *l3af.State, open opener) (*drafted, error) {
	if s == nil {
		return nil, errors.New("no state")
	}
	// A copy in normal form: the caller may change his state later.
	tree, err := s.Tree()
	if err != nil {
		return nil, err
	}
	d := &drafted{packages: map[string]*artifact.Package{}, digests: map[string]string{}}
	if d.state, err = l3af.ParseState(tree); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	d.made = build(d.state, func(ref string) (*artifact.Package, error) {
		pkg, err := open(ref)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			d.packages[ref], d.digests[ref] = pkg, pkg.Digest
		}
		return pkg, err
	})
	mistakes := n.pinPaths(d.state)
	for _, m := range d.made {
		if e := (*l3af.InvalidError)(nil); errors.As(m.err, &e) {
			mistakes = append(mistakes, e.Mistakes...)
		} else if m.err != nil {
			mistakes = append(mistakes, l3af.Mistake{Path: m.path, Message: m.err.Error()})
		}
	}
	if len(mistakes) > 0 {
		return nil, &l3af.InvalidError{Mistakes: mistakes}
	}
	return d, nil
}

// loads checks that the kernel takes all that a draft would change.
func (n *Node) loads(d *drafted) error {
	attached, err := n.kernel.Attached()
	if err != nil {
		return fmt.Errorf("read what is attached: %w", err)
	}
	var mistakes []l3af.Mistake
	for m, err := range n.try(plan(expand(d.made, n.interfaces()), attached, func(host.Target) bool { return false })) {
		if err != nil {
			mistakes = append(mistakes, l3af.Mistake{Path: m.path, Message: err.Error()})
		}
	}
	if len(mistakes) > 0 {
		return (&l3af.InvalidError{}).With(mistakes)
	}
	return nil
}

// isCurrent reports whether a draft is what the current revision is.
func (n *Node) isCurrent(d *drafted) bool {
	rev := n.revs.current
	if rev == nil || !maps.Equal(rev.Packages, d.digests) {
		return false
	}
	now, err := json.Marshal(rev.State)
	if err != nil {
		return false
	}
	next, err := json.Marshal(d.state)
	return err == nil && bytes.Equal(now, next)
}

// Plan tells the steps that applying s would take, without taking any. What
// would be loaded is loaded for a try: a step's Error says why the kernel
// refuses it. It tells of a write where the document wants other contents,
// which may turn out to be there already; and not of agents that start anew once
// more because a map does.
func (n *Node) Plan(ctx context.Context, s *l3af.State) (*l3af.Applied, error) {
	d, err := n.draft(s, n.opener(ctx))
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed
	}
	attached, err := n.kernel.Attached()
	if err != nil {
		return nil, fmt.Errorf("read what is attached: %w", err)
	}
	wants := expand(d.made, n.interfaces())
	steps := plan(wants, attached, func(host.Target) bool { return false })
	p := &l3af.Applied{Revision: n.revs.latest, Changed: !n.isCurrent(d), Steps: []l3af.Step{}}
	tried := n.try(steps)
	changes := map[host.Target]bool{}
	for _, s := range steps {
		if s.verb == verbDetach && !s.remove && s.from == "" {
			continue
		}
		step := l3af.Step{Verb: s.verb, Target: s.target.String(), From: s.from}
		if s.want != nil {
			changes[s.target] = true
			m := s.want.made
			step.To, step.Error = m.id, text(tried[m])
			p.Tried = append(p.Tried, l3af.Tried{Target: step.Target, ID: m.id, Programs: m.programs()})
		}
		p.Steps = append(p.Steps, step)
		if step.Error != "" {
			p.Failed = append(p.Failed, step)
		}
	}
	has := map[host.Target]host.Attached{}
	for _, h := range attached {
		has[h.Target] = h
	}
	now := map[host.Target]*made{}
	for _, m := range n.made {
		now[m.key()] = m
	}
	for _, w := range wants {
		old, have := now[w.made.key()], has[w.target]
		if w.unread != nil {
			p.Failed = append(p.Failed, l3af.Step{Verb: verbAttach, Target: w.target.String(), To: w.made.id,
				Error: fmt.Sprintf("list interfaces: %v", w.unread)})
		} else if have.Err != nil {
			p.Failed = append(p.Failed, l3af.Step{Verb: verbAttach, Target: w.target.String(), To: w.made.id, Error: have.Err.Error()})
		} else if w.present && !changes[w.target] && old != nil && old.id == w.made.id &&
			(!alreadyWanted(old.contents, w.made.contents) || !maps.Equal(old.pins(), w.made.pins())) {
			p.Steps = append(p.Steps, l3af.Step{Verb: verbWrite, Target: w.target.String(), To: w.made.id})
		}
	}
	p.Agents, err = n.planAgents(wants, func(w *want) bool {
		return w.unread == nil && has[w.target].Err == nil && tried[w.made] == nil
	})
	return p, err
}

// try loads what the steps would, each chain of the document at the first of
// its targets, and tells why the kernel refuses it.
func (n *Node) try(steps []step) map[*made]error {
	tried := map[*made]error{}
	var first []*step
	for i := range steps {
		if s := &steps[i]; s.want != nil {
			if _, again := tried[s.want.made]; !again {
				tried[s.want.made] = nil
				first = append(first, s)
				s.want.made.built.loads.Add(1)
			}
		}
	}
	refused := make([]error, len(first))
	parallel(len(first), func(i int) {
		m := first[i].want.made
		defer m.built.loaded()
		load, err := m.load(nil, first[i].target)
		if err == nil {
			err = n.kernel.TestLoad(load)
		}
		refused[i] = err
	})
	for i, s := range first {
		tried[s.want.made] = refused[i]
	}
	return tried
}

// alreadyWanted reports whether the contents of every map were wanted before.
// Maps that nothing is wanted of any more keep what they have.
func alreadyWanted(before, now []host.Contents) bool {
	for _, c := range now {
		if !slices.ContainsFunc(before, func(b host.Contents) bool { return reflect.DeepEqual(b, c) }) {
			return false
		}
	}
	return true
}
