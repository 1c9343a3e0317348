package node

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// Current is the current revision; nil before the first apply, and when the
// latest revision is damaged. It must not be changed.
func (n *Node) Current() *l3af.Revision {
	n.view.RLock()
	defer n.view.RUnlock()
	return n.revs.current
}

// Revisions reads the kept revisions, newest first. Those that are damaged are
// left out; an error ends it.
func (n *Node) Revisions() iter.Seq2[*l3af.Revision, error] { return n.revs.all() }

// Revision reads one kept revision, or fails with [l3af.ErrNotFound].
func (n *Node) Revision(number int) (*l3af.Revision, error) { return n.revs.find(number) }

// Status reads back from the kernel what runs, in the order of the document.
func (n *Node) Status(context.Context) (*l3af.Status, error) {
	n.view.RLock()
	v := view{n: n, failed: maps.Clone(n.failed), notes: maps.Clone(n.notes), took: maps.Clone(n.took), have: map[host.Target]host.Attached{}}
	all, damage := n.made, n.revs.damage
	s := &l3af.Status{Revision: n.revs.latest, Chains: []l3af.ChainStatus{}, Probes: []l3af.ProbeStatus{}}
	s.Errors = slices.Concat([]string{}, n.damage, n.troubles)
	n.view.RUnlock()

	attached, err := n.kernel.Attached()
	if err != nil {
		return nil, fmt.Errorf("read what is attached: %w", err)
	}
	for _, h := range attached {
		v.have[h.Target] = h
	}
	if damage != nil {
		s.Errors = append(s.Errors, damage.Error()+"; nothing is changed until a state is applied")
		all = nil
	}
	wants := expand(all, n.interfaces())
	if damage != nil {
		wants = asAttached(attached)
	}
	for i := range wants {
		w := &wants[i]
		if w.target.Probe != "" {
			s.Probes = append(s.Probes, v.probe(w))
			continue
		}
		c, err := v.chain(w)
		if err != nil {
			s.Errors = append(s.Errors, err.Error())
		}
		s.Chains = append(s.Chains, c)
	}
	return s, nil
}

// asAttached stands in for what is wanted where nothing is known of it.
func asAttached(attached []host.Attached) []want {
	var wants []want
	for _, h := range attached {
		if h.ID == "" {
			continue
		}
		m := &made{id: h.ID}
		if h.Target.Probe != "" {
			m.probe = &l3af.Probe{Name: h.Target.Probe}
		} else {
			m.chain = &l3af.Chain{Interface: h.Target.Hook.Interface, Netns: h.Target.Hook.Netns, Hook: h.Target.Hook.Kind}
		}
		wants = append(wants, want{made: m, target: h.Target, present: true})
	}
	slices.SortFunc(wants, func(a, b want) int { return a.target.Hook.Compare(b.target.Hook) })
	return wants
}

// view is what Status knows of the node and its machine.
type view struct {
	n      *Node
	have   map[host.Target]host.Attached
	failed map[host.Target]error
	notes  map[host.Target]string
	took   map[host.Target]*chain.Chain
}

// state tells how it stands with a target that has (or has not) a program.
func (v *view) state(w *want) (state, why string) {
	err := v.failed[w.target]
	if err == nil && w.unread != nil {
		err = fmt.Errorf("list interfaces: %w", w.unread)
	}
	if err == nil {
		err = w.made.err
	}
	have := v.have[w.target]
	if have.Err != nil {
		err = have.Err
	}
	switch {
	case err != nil && (w.present || w.unread != nil):
		return l3af.Failed, err.Error()
	case w.made.off() && have.ID == "":
		return l3af.Disabled, ""
	case !w.present:
		return l3af.Waiting, "" // for its interface
	case have.ID == "":
		return l3af.Waiting, "it is not attached yet"
	}
	return l3af.Running, ""
}

func (v *view) chain(w *want) (l3af.ChainStatus, error) {
	c := l3af.ChainStatus{
		Interface: w.target.Hook.Interface, Netns: w.target.Hook.Netns, Hook: w.target.Hook.Kind,
		Programs: []l3af.ProgramStatus{},
	}
	c.State, c.Error = v.state(w)
	have, known := v.have[w.target]
	if have.ID != "" {
		c.ID, c.ProgramID, c.LinkID, c.Mode, c.Segments = have.ID, have.ProgramID, have.LinkID, have.Mode, max(1, have.Segments)
		if have.Mode == l3af.Generic && w.made.mode() == l3af.Auto {
			c.ModeNote = v.notes[w.target]
		}
	}
	var counts counted
	var err error
	if known {
		counts, err = v.n.totals.show(w.target)
	}
	listed := map[string]bool{}
	add := func(p l3af.ProgramStatus) {
		listed[p.Name] = true
		sum := counts.sums[p.Name]
		p.Packets, p.Verdicts = sum.Packets, sum.Verdicts
		if p.Verdicts == nil {
			p.Verdicts = map[l3af.Verdict]uint64{}
		}
		c.Programs = append(c.Programs, p)
	}
	linked := v.linked(w, have)
	i := -1 // among the programs that run
	for _, doc := range w.made.chain.Programs {
		p := l3af.ProgramStatus{Name: doc.Name, Package: doc.Package}
		if doc.Disabled {
			p.State = l3af.Disabled
			add(p)
			continue
		}
		i++
		p.Agent = v.n.agents.Status(agentKey(w.target, doc.Name))
		if w.made.light != nil && have.ID == w.made.id {
			p.Monitor = v.n.monitors.status(w.target, w.made, doc.Name)
			p.Proceed, p.Maps = w.made.light.Programs[i].Proceed, mapsOf(w.made.light, doc.Name)
		}
		if linked != nil {
			p.Linkage, p.Why = linked[i].Linkage, linked[i].Why
			if c.Segments > 1 {
				p.Segment = linked[i].Segment
			}
		}
		add(p)
	}
	// What ran before a change that failed runs on.
	for _, live := range counts.live {
		for _, p := range live.Programs {
			if live.ID == have.ID && !listed[p.Name] {
				add(l3af.ProgramStatus{Name: p.Name})
			}
		}
	}
	return c, err
}

// linked tells how the programs of a target's chain are linked; nil where that
// is not known: another chain runs, or one that an earlier daemon had to link
// otherwise than it was composed.
func (v *view) linked(w *want, have host.Attached) []chain.Linked {
	for _, c := range []*chain.Chain{v.took[w.target], w.made.light} {
		if c != nil && c.ID == have.ID && c.ID == w.made.id && len(c.Specs()) == max(1, have.Segments) {
			return c.Programs
		}
	}
	return nil
}

func (v *view) probe(w *want) l3af.ProbeStatus {
	p := l3af.ProbeStatus{Name: w.target.Probe, Attach: w.made.probe.Attach}
	if w.made.light != nil {
		p.Attach = w.made.light.Attach
	}
	p.State, p.Error = v.state(w)
	p.Agent = v.n.agents.Status(agentKey(w.target, w.target.Probe))
	if have := v.have[w.target]; have.ID != "" {
		p.ID, p.ProgramID, p.LinkID = have.ID, have.ProgramID, have.LinkID
		p.Monitor = v.n.monitors.status(w.target, w.made, w.target.Probe)
	}
	return p
}
