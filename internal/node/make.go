package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/bind"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// made is what one chain or probe of the document became, wherever it is to run.
type made struct {
	path  string      // chains[2]
	chain *l3af.Chain // one of the two is set
	probe *l3af.Probe

	err      error // why nothing below is known
	id       string
	light    *chain.Chain // all but the program and the types
	contents []host.Contents
	own      []host.Contents // as the document says it here
	users    []user          // of package instances
	monitors []bind.Monitor  // by program, in the document's order
	agents   []agentOf       // in the document's order
	reset    []string        // members whose maps start anew when their shape changes
	renew    []string        // see renew
	// keep is what stays at the target: light, and the maps and counts of the
	// programs that are disabled. Its ID is "" when all are.
	keep *chain.Chain
	// stays tells one keep from another.
	stays string
	// built is what is loaded; nil when all is disabled.
	built *composed
}

// mode is how XDP is to run; "" for other hooks.
func (m *made) mode() l3af.Mode {
	switch {
	case m.chain == nil || m.chain.Hook != l3af.XDP:
		return ""
	case m.chain.Mode == "":
		return l3af.Auto
	}
	return m.chain.Mode
}

// off reports whether the document says that nothing of m runs.
func (m *made) off() bool { return m.err == nil && m.id == "" }

// running are the programs of a chain that are not disabled.
func (m *made) running() []*l3af.Program {
	var list []*l3af.Program
	for i := range m.chain.Programs {
		if p := &m.chain.Programs[i]; !p.Disabled {
			list = append(list, p)
		}
	}
	return list
}

// key tells whether two documents speak of the same thing.
func (m *made) key() host.Target {
	if m.probe != nil {
		return host.Target{Probe: m.probe.Name}
	}
	return host.Target{Hook: l3af.Hook{Netns: m.chain.Netns, Interface: m.chain.Interface, Kind: m.chain.Hook}}
}

// opener opens packages wherever they are.
func (n *Node) opener(ctx context.Context) opener {
	return func(ref string) (*artifact.Package, error) { return n.opts.Open(ctx, ref) }
}

// build composes all of a state. What cannot be composed has its error.
func build(s *l3af.State, open opener) []*made {
	var all []*made
	for i := range s.Chains {
		all = append(all, &made{path: fmt.Sprintf("chains[%d]", i), chain: &s.Chains[i]})
	}
	for i := range s.Probes {
		all = append(all, &made{path: fmt.Sprintf("probes[%d]", i), probe: &s.Probes[i]})
	}
	c := newComposer(open)
	parallel(len(all), func(i int) { all[i].build(c) })
	share(all)
	return all
}

// Check finds what is wrong with the packages and values of a state that may
// have other mistakes as well.
func (n *Node) Check(ctx context.Context, s *l3af.State) []l3af.Mistake {
	var all []l3af.Mistake
	compose := newComposer(n.opener(ctx))
	for i := range s.Chains {
		c := &s.Chains[i]
		for j := range c.Programs {
			if c.Programs[j].Package == "" || !slices.Contains(l3af.HookKinds(), c.Hook) {
				continue // told already, and nothing to look at
			}
			_, _, mistakes := compose.program(c.Hook, c.Programs[j], fmt.Sprintf("chains[%d].programs[%d]", i, j))
			all = append(all, mistakes...)
		}
	}
	for i := range s.Probes {
		if s.Probes[i].Package != "" {
			_, _, mistakes := compose.probe(s.Probes[i], fmt.Sprintf("probes[%d]", i))
			all = append(all, mistakes...)
		}
	}
	return append(all, n.pinPaths(s)...)
}

// build composes what m is of.
func (m *made) build(c *composer) *made {
	var mistakes []l3af.Mistake
	var disabled []*chain.Chain
	var err error
	if m.probe != nil {
		disabled, mistakes, err = m.buildProbe(c)
	} else {
		disabled, mistakes, err = m.buildChain(c)
	}
	if len(mistakes) > 0 {
		err = &l3af.InvalidError{Mistakes: mistakes}
	}
	if m.err = err; err != nil {
		return m
	}
	m.light = &chain.Chain{Program: &ebpf.ProgramSpec{}}
	if m.built != nil {
		m.light = m.built.light
	}
	keep := *m.light
	m.id, m.stays = keep.ID, keep.ID
	for _, c := range disabled {
		keep.Programs = append(slices.Clip(keep.Programs), c.Programs...)
		for i := range c.Maps {
			if of := &c.Maps[i]; of.Member != "" && of.Pinned && !of.Tied() {
				keep.Maps = append(slices.Clip(keep.Maps), *of)
				m.stays += " " + of.Ref
			}
		}
		m.stays += " " + c.Programs[0].Name
	}
	m.keep = &keep
	m.stays += pinsText(m.pins())
	return m
}

// buildChain composes the programs of a chain that run, and each of those that
// are disabled by itself.
func (m *made) buildChain(c *composer) (disabled []*chain.Chain, mistakes []l3af.Mistake, err error) {
	var programs []bound
	m.own, m.monitors, m.agents = nil, nil, nil
	for j := range m.chain.Programs {
		p, path := &m.chain.Programs[j], fmt.Sprintf("%s.programs[%d]", m.path, j)
		pkg, one, wrong := c.program(m.chain.Hook, *p, path)
		mistakes = append(mistakes, wrong...)
		switch {
		case one == nil || len(wrong) > 0:
		case p.Disabled:
			alone, err := chain.Compose(m.chain.Hook, []chain.Member{one.Member})
			if err != nil {
				mistakes = append(mistakes, m.refused(err)...)
				continue
			}
			disabled = append(disabled, alone.Light())
		default:
			programs = append(programs, bound{*p, pkg.Digest, one.Member})
			m.takes(p.Settings, path, pkg, one)
		}
	}
	if len(mistakes) > 0 || len(programs) == 0 {
		return disabled, mistakes, nil
	}
	m.built, err = c.chain(m.chain.Hook, programs)
	return disabled, m.refused(err), err
}

func (m *made) buildProbe(c *composer) (disabled []*chain.Chain, mistakes []l3af.Mistake, err error) {
	pkg, bound, mistakes := c.probe(*m.probe, m.path)
	if len(mistakes) > 0 {
		return nil, mistakes, nil
	}
	compose := func() (*chain.Chain, error) { return chain.Single(bound.Attach, bound.Member) }
	if m.probe.Disabled {
		alone, err := compose()
		if err != nil {
			return nil, m.refused(err), err
		}
		return []*chain.Chain{alone.Light()}, nil, nil
	}
	m.takes(m.probe.Settings, m.path, pkg, bound)
	m.built, err = c.keep(compose)
	return nil, m.refused(err), err
}

// takes keeps what is wanted of the maps of a program.
func (m *made) takes(s l3af.Settings, path string, pkg *artifact.Package, bound *bind.Bound) {
	name := bound.Member.Name
	m.own = append(m.own, bound.Contents...)
	m.contents, m.monitors = m.own, append(m.monitors, bound.Monitors...)
	if s.Instance != "" {
		m.users = append(m.users, user{member: name, path: path, instance: s.Instance, digest: pkg.Digest})
	}
	if s.OnMapChange == l3af.ResetMapChange {
		m.reset = append(m.reset, name)
	}
	if s.Agent != nil {
		m.agents = append(m.agents, agentOf{name, s.Agent, pkg.Digest})
	}
}

// refused makes mistakes of the document of what the composer refuses.
func (m *made) refused(err error) []l3af.Mistake {
	if err == nil {
		return nil
	}
	mistake := l3af.Mistake{Path: m.path, Message: err.Error()}
	if e := (*chain.RefusedError)(nil); errors.As(err, &e) {
		mistake.Message = e.Reason
		if m.chain != nil && e.Member != "" {
			mistake.Path = m.programPath(e.Member)
		}
	}
	return []l3af.Mistake{mistake}
}

// programPath is the place in the document of a program of a chain.
func (m *made) programPath(name string) string {
	return fmt.Sprintf("%s.programs[%d]", m.path, slices.IndexFunc(m.chain.Programs, func(p l3af.Program) bool { return p.Name == name }))
}

// full is the whole of what m was composed to. c composes it again where that
// is needed.
func (m *made) full(c *composer) (*chain.Chain, error) {
	full, err := m.built.full(func() (*composed, error) {
		again := (&made{path: m.path, chain: m.chain, probe: m.probe}).build(c)
		return again.built, again.err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.path, err)
	}
	return full, nil
}

// shares reports whether m's programs may share maps with those of others.
func (m *made) shares() bool {
	pins := m.pins()
	return len(m.users) > 0 || slices.ContainsFunc(m.light.Maps, func(of chain.Map) bool { return of.ByName && pins[of.Member] != "" })
}

// load is what the target is to run.
func (m *made) load(c *composer, t host.Target) (host.Load, error) {
	full, err := m.full(c)
	return host.Load{Target: t, Mode: m.mode(), Chain: full, Contents: m.contents, Pins: m.pins(), Reset: m.reset, Renew: m.renew}, err
}

// mend tries again to compose what could not be composed before, as when a
// package was missing and is there now. Who looks at what there was meanwhile
// sees none of it change.
func (n *Node) mend() {
	mended := slices.Clone(n.made)
	changed := false
	c := newComposer(n.stored(n.revs.current))
	for i, m := range mended {
		if m.err != nil {
			mended[i] = (&made{path: m.path, chain: m.chain, probe: m.probe}).build(c)
			changed = changed || mended[i].err == nil
		}
	}
	if changed {
		for i, m := range mended {
			one := *m
			mended[i] = &one
		}
		share(mended)
		n.view.Lock()
		n.made = mended
		n.view.Unlock()
	}
}
