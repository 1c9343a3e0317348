package kernel

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// Attach makes the target run load.Chain. Maps are made, or adopted with what
// is in them, and get their wanted contents. A map whose shape changed is
// refused, or a new one takes its place with the switch if load.Reset says so.
// The program is loaded and verified; then one atomic update of the target's
// link switches it over. A link is made and pinned where none runs: at first, after the interface was
// made anew, and for a change of XDP mode, the one change with a gap.
//
// On error what ran runs on and nothing new is left. The error is
// [os.ErrNotExist] when the interface or its namespace is not there; it holds
// the whole log of the verifier when that rejects the program.
func (k *Kernel) Attach(ctx context.Context, load host.Load) (host.Result, error) {
	if err := check(load); err != nil {
		return host.Result{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.recover(load.Target); err != nil {
		return host.Result{}, err
	}
	p, err := k.prepare(ctx, load)
	if err != nil {
		return host.Result{}, err
	}
	defer p.Close()
	return p.attach(ctx)
}

// Prepare does all of an attach that takes long and that nobody sees: it opens
// the maps, and loads and verifies the program. It may run for several targets
// at a time. Errors are those of [Kernel.Attach].
func (k *Kernel) Prepare(ctx context.Context, load host.Load) (host.Prepared, error) {
	if err := check(load); err != nil {
		return nil, err
	}
	k.mu.Lock()
	err := k.recover(load.Target)
	k.mu.Unlock()
	if err != nil {
		return nil, err
	}
	p, err := k.prepare(ctx, load)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// prepared is a load that has only to be switched to.
type prepared struct {
	k     *Kernel
	load  host.Load
	maps  *mapSet
	progs *programs
	index int // of the device it is offloaded to, else 0
}

func (p *prepared) Close() {
	p.maps.Close()
	p.progs.Close()
}

func (k *Kernel) prepare(ctx context.Context, load host.Load) (p *prepared, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	defer k.loaded()
	err = within(load.Target.Hook.Netns, func() error {
		p, err = k.prepareHere(ctx, load)
		return err
	})
	return p, err
}

// prepareHere is prepare on a thread that is in the hook's namespace.
func (k *Kernel) prepareHere(ctx context.Context, load host.Load) (_ *prepared, err error) {
	p := &prepared{k: k, load: load}
	var dev *device
	if load.Target.Probe == "" {
		if dev, err = findDevice(load.Target.Hook.Interface); err != nil {
			return nil, err
		}
	}
	if load.Mode == l3af.Offload {
		p.index = dev.index
	}
	if p.maps, err = k.openMaps(load); err != nil {
		return nil, err
	}
	if p.progs, err = k.loadPrograms(ctx, load, p.maps, p.index); err != nil {
		p.maps.Close()
		if load.Mode == l3af.Offload {
			err = fmt.Errorf("offload: the kernel refuses the program for %s (%s must be able to run it; the modes native and generic run it on the CPU): %w",
				dev.name, dev.driver(), err)
		}
		return nil, err
	}
	return p, nil
}

// Attach implements [host.Prepared].
func (p *prepared) Attach(ctx context.Context) (host.Result, error) {
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	return p.attach(ctx)
}

func (p *prepared) attach(ctx context.Context) (res host.Result, err error) {
	if err := ctx.Err(); err != nil {
		return res, err
	}
	err = within(p.load.Target.Hook.Netns, func() error {
		res, err = p.attachHere()
		return err
	})
	if err != nil {
		return host.Result{}, err
	}
	return res, nil
}

// attachHere is attach on a thread that is in the hook's namespace.
func (p *prepared) attachHere() (res host.Result, err error) {
	k, load, maps, progs := p.k, p.load, p.maps, p.progs
	t := load.Target
	if err := k.recover(t); err != nil {
		return res, err
	}
	var dev *device
	if t.Probe == "" {
		if dev, err = findDevice(t.Hook.Interface); err != nil {
			return res, err
		}
	}
	if maps.stale() || p.index != 0 && p.index != dev.index {
		return res, host.ErrStale
	}
	mode := load.Mode
	if mode == "" {
		mode = l3af.Auto
	}

	// From here on others see what we do.
	segments := ""
	var marked []string
	defer func() {
		if err != nil {
			maps.unpin()
			_ = os.RemoveAll(k.asideDir(t))
			k.unuse(marked)
			if segments != "" {
				_ = os.Remove(segments)
			}
			k.pruneTarget(t)
		}
	}()
	if err := maps.write(); err != nil {
		return res, err
	}
	if err := os.MkdirAll(k.path(t), 0o700); err != nil {
		return res, fmt.Errorf("make directory for pins: %w", err)
	}
	if marked, err = k.use(t, load.Chain); err != nil {
		return res, err
	}
	if err := maps.pin(); err != nil {
		return res, err
	}
	outside, err := k.pinOutside(maps, load)
	defer func() {
		if err != nil {
			outside.undo()
		}
		outside.Close()
	}()
	if err != nil {
		return res, err
	}
	if segments, err = k.pinSegments(t, progs); err != nil {
		return res, err
	}
	if t.Probe != "" {
		err = k.attachProbe(t, load.Chain.Attach, progs.list[0])
	} else {
		res, err = k.attachHook(t, dev, mode, progs.list[0])
		err = explainRange(load.Chain, err)
	}
	k.switched.Add(1)
	if err != nil {
		return res, err
	}
	if t.Probe == "" && progs.chain != load.Chain {
		res.Chain = progs.chain
	}
	if strings.Contains(res.Note, tooLarge) {
		res.Note += explainFrags(load.Chain)
	}
	// The chain runs: what fails now, recover tries again.
	if err := k.takePlaces(t, load.Chain.ID); err != nil {
		k.log.Warn("give maps that start anew their places", "target", t.String(), "error", err)
	}
	if err := k.tidySegments(t); err != nil {
		// The new chain runs; what the old one left is removed later.
		k.log.Warn("remove the segments of the replaced chain", "target", t.String(), "error", err)
	}
	return res, nil
}

// MakeMaps makes the maps of a load that are not there, pins them at the
// target's own place, and writes their contents, so that other processes find
// them before the chain runs. Maps that start anew, and those that are made for
// each chain, come with [Kernel.Attach]; so do pins outside.
func (k *Kernel) MakeMaps(load host.Load) error {
	if err := check(load); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return within(load.Target.Hook.Netns, func() error { return k.makeMaps(load) })
}

func (k *Kernel) makeMaps(load host.Load) (err error) {
	t := load.Target
	if err := k.recover(t); err != nil {
		return err
	}
	maps, err := k.openMaps(load)
	if err != nil {
		return err
	}
	defer maps.Close()
	for i := range maps.list {
		if o := &maps.list[i]; o.Member == "" || o.Tied() || o.aside != "" {
			o.path, o.want = "", nil // not now
		}
	}
	var marked []string
	defer func() {
		if err != nil {
			maps.unpin()
			k.unuse(marked)
			k.pruneTarget(t)
		}
	}()
	if err := maps.write(); err != nil {
		return err
	}
	if err := os.MkdirAll(k.path(t), 0o700); err != nil {
		return fmt.Errorf("make directory for pins: %w", err)
	}
	if marked, err = k.use(t, load.Chain); err != nil {
		return err
	}
	return maps.pin()
}

// TestLoad is Attach without any effect: maps and program are made, verified
// and closed.
func (k *Kernel) TestLoad(load host.Load) error {
	if err := check(load); err != nil {
		return err
	}
	defer k.loaded()
	test := func() error {
		maps, err := k.openMaps(load)
		if err != nil {
			return err
		}
		defer maps.Close()
		p, err := k.loadPrograms(context.Background(), load, maps, 0)
		if err != nil {
			return err
		}
		p.Close()
		return nil
	}
	return k.at(load.Target, func(*device) error { return test() })
}

// Write makes the target's maps hold what the document wants and returns how
// many entries it changed. The target must run the chain: its maps are there.
func (k *Kernel) Write(t host.Target, c *chain.Chain, contents []host.Contents) (int, error) {
	if err := check(host.Load{Target: t, Chain: c}); err != nil {
		return 0, err
	}
	wanted, err := byMap(c, contents)
	if err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.recoverMaps(t); err != nil {
		return 0, err
	}
	changed := 0
	write := func() error {
		for i := range c.Maps {
			m := &c.Maps[i]
			if wanted[m] == nil {
				continue
			}
			n, err := k.writeMap(t, c, m, wanted[m])
			changed += n
			if err != nil {
				return fmt.Errorf("%s: %w", title(m), err)
			}
		}
		return nil
	}
	return changed, within(t.Hook.Netns, write)
}

func (k *Kernel) writeMap(t host.Target, c *chain.Chain, m *chain.Map, want *host.Contents) (int, error) {
	path := k.mapPath(t, c.ID, m)
	if _, err := os.Lstat(path); err != nil {
		return 0, err
	}
	o := openMap{Map: m, path: path}
	if err := o.open(nil); err != nil {
		return 0, err
	}
	defer o.m.Close()
	return writeContents(o.m, want)
}

// Detach takes the target's link away; traffic flows on without the chain. No
// link is no error.
func (k *Kernel) Detach(t host.Target) error {
	if err := checkTarget(t); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.detach(t)
}

func (k *Kernel) detach(t host.Target) error {
	for _, name := range []string{newLinkPin, linkPin} {
		if err := k.unlink(filepath.Join(k.path(t), name)); err != nil {
			return err
		}
	}
	if err := k.tidySegments(t); err != nil {
		return err
	}
	k.pruneTarget(t)
	return nil
}

// Tidy removes every pin of the target that does not belong to keep, and
// directories that are empty then. Counters stay: [Kernel.DropCounts] removes
// them. With keep nil everything goes, link and counters included.
func (k *Kernel) Tidy(t host.Target, keep *chain.Chain) error {
	if err := checkTarget(t); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if keep == nil {
		if err := k.detach(t); err != nil {
			return err
		}
		// While the maps are there: whoever pins them anew meets their old pins.
		if _, err := k.leaveOutside(t, func(string) bool { return false }); err != nil {
			return err
		}
		if err := k.leave(t, nil); err != nil {
			return err
		}
		if err := removePins(k.path(t)); err != nil {
			return err
		}
		k.prune(filepath.Dir(k.path(t)))
		return nil
	}
	if err := k.recover(t); err != nil {
		return err
	}
	if err := k.tidyTied(t, keep.ID); err != nil {
		return err
	}
	var kept []string
	for i := range keep.Maps {
		if keep.Maps[i].Pinned {
			kept = append(kept, k.mapPath(t, keep.ID, &keep.Maps[i]))
		}
	}
	maps := filepath.Join(k.path(t), "maps")
	members, err := k.entries(maps)
	if err != nil {
		return err
	}
	for _, member := range members {
		names, err := k.entries(filepath.Join(maps, member))
		if err != nil {
			return err
		}
		for _, name := range names {
			path := filepath.Join(maps, member, name)
			if slices.Contains(kept, path) {
				continue
			}
			if err := removePins(path); err != nil {
				return err
			}
		}
	}
	if err := k.leave(t, keep); err != nil {
		return err
	}
	k.pruneTarget(t)
	return nil
}
