package fake

import (
	"context"
	"errors"
	"fmt"
	"os"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// prepared is a load that was found good.
type prepared struct {
	k    *Kernel
	load host.Load
}

func (p *prepared) Attach(ctx context.Context) (host.Result, error) { return p.k.Attach(ctx, p.load) }

func (p *prepared) Close() { p.k.held.Add(-1) }

// Held is how many prepared loads were not let go.
func (k *Kernel) Held() int { return int(k.held.Load()) }

// Prepare implements node.Kernel.
func (k *Kernel) Prepare(ctx context.Context, load host.Load) (host.Prepared, error) {
	if err := k.before("Prepare", load.Target); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(load.Chain.Program.Instructions) == 0 {
		return nil, errors.New("no program")
	}
	if _, err := k.index(load.Target); err != nil {
		return nil, err
	}
	if err := k.refused(load.Chain); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	k.held.Add(1)
	return &prepared{k, load}, nil
}

// Attach implements node.Kernel.
func (k *Kernel) Attach(ctx context.Context, load host.Load) (host.Result, error) {
	t, c := load.Target, load.Chain
	fail := func(err error) (host.Result, error) {
		return host.Result{}, err
	}
	if err := k.before("Attach", t); err != nil {
		return fail(err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if len(c.Program.Instructions) == 0 {
		return fail(errors.New("no program"))
	}
	index, err := k.index(t)
	if err != nil {
		return fail(err)
	}
	k.recover(t)
	// Pins of an attach that fails may be left.
	var adopted *counter
	for _, m := range c.Maps {
		switch {
		case m.Member == "":
			k.mu.Lock()
			adopted = k.target(t).counters[c.ID]
			k.gone(t)
			k.mu.Unlock()
			if adopted == nil {
				k.change("pin counters "+c.ID, func() {
					adopted = newCounter(k.newID(), c)
					k.target(t).counters[c.ID] = adopted
				})
			}
		case m.Pinned:
			if err := k.pinMap(load, m); err != nil {
				return fail(err)
			}
		}
	}
	if err := k.refused(c); err != nil {
		return fail(fmt.Errorf("load: %w", err))
	}
	undo := k.undoOutside(t)
	fail = func(err error) (host.Result, error) {
		undo()
		return host.Result{}, err
	}
	if _, err := k.pinOutside(t, c, load.Pins, load.Renew...); err != nil {
		return fail(err)
	}
	p := &program{chain: c.ID, segments: len(c.Specs()), counter: adopted}
	p.id = k.nextID()
	if _, err := k.write(t, c.ID, load.Contents); err != nil {
		return fail(err)
	}
	result, err := k.mode(load)
	if err != nil {
		return fail(err)
	}
	err = k.switchTo(t, p, index, result.Mode)
	k.recover(t)
	return result, err
}

// switchTo makes the target run a program: one step, unless the XDP mode is
// another one. An interface that was renamed hands its link on.
func (k *Kernel) switchTo(t host.Target, p *program, index int, mode l3af.Mode) error {
	k.mu.Lock()
	old := k.target(t).link
	if old != nil && t.Probe == "" && (old.index != index || old.netns != t.Hook.Netns) {
		old = nil
	}
	var from *target
	for other, s := range k.targets {
		if old == nil && t.Probe == "" && other != t && other.Hook.Kind == t.Hook.Kind && s.link != nil &&
			s.link.netns == t.Hook.Netns && s.link.index == index && !k.runs(other, s.link) {
			from = s
		}
	}
	k.mu.Unlock()
	if from != nil {
		k.change("hand a link on to "+t.String(), func() {
			old = from.link
			k.target(t).link, from.link = old, nil
		})
	}
	if old != nil && old.mode == mode && t.Probe == "" {
		k.change("update link of "+t.String(), func() { old.program = p })
		return nil
	}
	if old != nil && t.Probe == "" {
		k.change("remove old link of "+t.String(), func() { k.target(t).link = nil })
	}
	k.change("make link of "+t.String(), func() {
		k.target(t).link = &link{id: k.newID(), netns: t.Hook.Netns, index: index, mode: mode, program: p}
	})
	return nil
}

func (k *Kernel) index(t host.Target) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t.Probe != "" {
		return 0, nil
	}
	index, ok := k.netns[t.Hook.Netns][t.Hook.Interface]
	if !ok {
		return 0, fmt.Errorf("interface %s: %w", t.Hook.Interface, os.ErrNotExist)
	}
	return index, nil
}

func (k *Kernel) mode(load host.Load) (host.Result, error) {
	native := !k.OnlyGeneric[load.Target.Hook.Interface]
	switch m := load.Mode; {
	case load.Target.Hook.Kind != l3af.XDP:
		return host.Result{}, nil
	case (m == l3af.Auto || m == "") && k.running(load.Target) == l3af.Generic:
		return host.Result{Mode: l3af.Generic, Note: "it ran in generic mode before"}, nil
	case m == l3af.Generic:
		return host.Result{Mode: m}, nil
	case native && m != l3af.Offload:
		return host.Result{Mode: l3af.Native}, nil
	case m == l3af.Auto || m == "":
		return host.Result{Mode: l3af.Generic, Note: "the driver has no XDP"}, nil
	case m == l3af.Native && k.running(load.Target) != "":
		return host.Result{}, &host.ModeError{Err: fmt.Errorf("%s: operation not supported", m)}
	default:
		return host.Result{}, fmt.Errorf("%s: operation not supported", m)
	}
}

// running is the mode of the link that runs at a target.
func (k *Kernel) running(t host.Target) l3af.Mode {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.targets[t]; s != nil && s.link != nil && k.runs(t, s.link) {
		return s.link.mode
	}
	return ""
}

func (k *Kernel) refused(c *chain.Chain) error {
	for _, p := range c.Programs {
		if err := k.Refuse[p.Name]; err != nil {
			return err
		}
	}
	return nil
}

// Detach implements node.Kernel.
func (k *Kernel) Detach(t host.Target) error {
	if err := k.before("Detach", t); err != nil {
		return err
	}
	k.mu.Lock()
	none := k.targets[t] == nil || k.targets[t].link == nil
	k.mu.Unlock()
	if none {
		return nil
	}
	k.change("remove link of "+t.String(), func() {
		k.target(t).link = nil
		k.gone(t)
	})
	return nil
}

// TestLoad implements node.Kernel.
func (k *Kernel) TestLoad(load host.Load) error {
	if err := k.before("TestLoad", load.Target); err != nil {
		return err
	}
	if len(load.Chain.Program.Instructions) == 0 {
		return errors.New("no program")
	}
	return k.refused(load.Chain)
}
