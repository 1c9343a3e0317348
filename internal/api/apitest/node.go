// Package apitest has a node for tests of the API and of its client, which
// keeps revisions and touches nothing.
package apitest

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"l3af"
	"l3af/internal/bind"
)

// Node implements api.Node in memory. The fields may be set before it is used.
type Node struct {
	Report l3af.Status      // what Status says, but the revision
	Err    error            // what every call fails with, when it can fail
	Panic  bool             // Status panics
	Busy   bool             // another apply is under way
	Fails  string           // a target, such as xdp/eth0, that fails whatever runs there
	Open   func(ref string) // called when a package is opened; nil: nothing is
	// Starting, when set, has the agents of all targets that are applied take their
	// time: an apply sends to it when it waits for them, until Hurry.
	Starting chan struct{}

	mu      sync.Mutex
	revs    []l3af.Revision // newest first
	happen  []l3af.Event
	more    chan struct{} // closed when something happens
	Streams sync.WaitGroup

	once    sync.Once
	hurried chan struct{}
}

func (n *Node) hurry() chan struct{} {
	n.once.Do(func() { n.hurried = make(chan struct{}) })
	return n.hurried
}

// Hurry ends the waiting for agents.
func (n *Node) Hurry() { close(n.hurry()) }

// Apply makes a new revision unless s is the current one.
func (n *Node) Apply(_ context.Context, s *l3af.State, by string, ifRevision int) (*l3af.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.apply(s, by, ifRevision)
}

func (n *Node) apply(s *l3af.State, by string, ifRevision int) (*l3af.Applied, error) {
	current := len(n.revs)
	switch {
	case n.Err != nil:
		return nil, n.Err
	case n.Busy:
		return nil, &l3af.ConflictError{Current: current, Busy: true}
	case ifRevision >= 0 && ifRevision != current:
		return nil, &l3af.ConflictError{Current: current}
	case current > 0 && reflect.DeepEqual(n.revs[0].State, *s):
		return &l3af.Applied{Revision: current}, nil
	}
	a := n.steps(s)
	for _, step := range a.Steps {
		if step.Target == n.Fails {
			step.Error = "load: refused"
			a.Failed = append(a.Failed, step)
		}
	}
	if n.Starting != nil {
		select {
		case n.Starting <- struct{}{}:
			<-n.hurry()
		case <-n.hurry():
		}
		for _, step := range a.Steps {
			step.Error, step.Unstarted = step.Target+": its agents are still being started", true
			a.Failed = append(a.Failed, step)
		}
		a.Steps = nil
	}
	a.Revision++
	n.revs = slices.Insert(n.revs, 0, l3af.Revision{Number: a.Revision, Time: time.Now().UTC(), By: by, State: *s})
	n.event(l3af.Event{Time: time.Now().UTC(), Kind: "applied", Message: "applied by " + by, Revision: a.Revision})
	return a, nil
}

func (n *Node) steps(s *l3af.State) *l3af.Applied {
	a := &l3af.Applied{Revision: len(n.revs), Changed: true}
	for _, c := range s.Chains {
		a.Steps = append(a.Steps, l3af.Step{Verb: "attach", Target: l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}.String(), To: "3f2a9c41d0"})
	}
	return a
}

// Edit is Apply.
func (n *Node) Edit(ctx context.Context, s *l3af.State, by string, ifRevision int, _ func(string) bool) (*l3af.Applied, error) {
	return n.Apply(ctx, s, by, ifRevision)
}

// Entries gives every object one program; a package whose reference has
// "missing" in it does not exist.
func (n *Node) Entries(_ context.Context, ref, object string, _ bool) ([]bind.Entry, error) {
	if n.Open != nil {
		n.Open(ref)
	}
	if strings.Contains(ref, "missing") {
		return nil, fmt.Errorf("open package %s: %w", ref, fs.ErrNotExist)
	}
	return []bind.Entry{{Name: "prog"}}, nil
}

// Plan says what Apply would do.
func (n *Node) Plan(_ context.Context, s *l3af.State) (*l3af.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.steps(s), n.Err
}

// Check is [api.Node]: a package named missing does not exist.
func (n *Node) Check(_ context.Context, s *l3af.State) []l3af.Mistake {
	var all []l3af.Mistake
	for i, c := range s.Chains {
		for j, p := range c.Programs {
			if p.Package == "missing" {
				all = append(all, l3af.Mistake{Path: fmt.Sprintf("chains[%d].programs[%d].package", i, j), Message: "does not exist"})
			}
		}
	}
	return all
}

// Rollback applies an old revision.
func (n *Node) Rollback(_ context.Context, to int, by string, ifRevision int) (*l3af.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if to == 0 {
		to = len(n.revs) - 1
	}
	if to < 1 || to > len(n.revs) {
		return nil, fmt.Errorf("revision %d: %w", to, l3af.ErrNotFound)
	}
	s := n.revs[len(n.revs)-to].State
	return n.apply(&s, by, ifRevision)
}

// Status gives the report.
func (n *Node) Status(context.Context) (*l3af.Status, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.Panic {
		panic("a bug")
	}
	st := n.Report
	st.Revision = len(n.revs)
	return &st, n.Err
}

// Current is the newest revision.
func (n *Node) Current() *l3af.Revision {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.revs) == 0 {
		return nil
	}
	r := n.revs[0]
	return &r
}

// Revisions gives all, newest first.
func (n *Node) Revisions() iter.Seq2[*l3af.Revision, error] {
	n.mu.Lock()
	defer n.mu.Unlock()
	revs, err := slices.Clone(n.revs), n.Err
	return func(yield func(*l3af.Revision, error) bool) {
		if err != nil {
			yield(nil, err)
			return
		}
		for i := range revs {
			if !yield(&revs[i], nil) {
				return
			}
		}
	}
}

// Revision gives one.
func (n *Node) Revision(number int) (*l3af.Revision, error) {
	for rev, err := range n.Revisions() {
		if err != nil || rev.Number == number {
			return rev, err
		}
	}
	return nil, fmt.Errorf("revision %d: %w", number, l3af.ErrNotFound)
}

// Event makes something happen.
func (n *Node) Event(e l3af.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.event(e)
}

func (n *Node) event(e l3af.Event) {
	e.ID = fmt.Sprintf("%p-%d", n, len(n.happen))
	n.happen = append(n.happen, e)
	if n.more != nil {
		close(n.more)
		n.more = nil
	}
}

// Events sends all there were, behind one of them, and then all there are.
func (n *Node) Events(ctx context.Context, after string) <-chan l3af.Event {
	ch := make(chan l3af.Event)
	n.mu.Lock()
	seen := slices.IndexFunc(n.happen, func(e l3af.Event) bool { return e.ID == after })
	n.mu.Unlock()
	n.Streams.Add(1)
	go func() {
		defer n.Streams.Done()
		defer close(ch)
		for i := seen + 1; ; {
			n.mu.Lock()
			var more chan struct{}
			if i == len(n.happen) {
				if n.more == nil {
					n.more = make(chan struct{})
				}
				more = n.more
			}
			var e l3af.Event
			if more == nil {
				e = n.happen[i]
				i++
			}
			n.mu.Unlock()
			if more != nil {
				select {
				case <-more:
					continue
				case <-ctx.Done():
					return
				}
			}
			select {
			case ch <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch
}
