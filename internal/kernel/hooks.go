package kernel

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/host"
)

// attachHook makes prog run on dev. Where a link of ours runs already, one
// atomic update of it does that, but for a change of XDP mode. The thread is
// in the hook's namespace.
func (k *Kernel) attachHook(t host.Target, dev *device, want l3af.Mode, prog *ebpf.Program) (host.Result, error) {
	cur, err := k.openRunning(k.linkPath(t), t, dev)
	if err != nil {
		return host.Result{}, err
	}
	if cur == nil {
		if cur, err = k.inherit(t, dev); err != nil {
			return host.Result{}, err
		}
	}
	if cur != nil {
		defer cur.Close()
		if t.Hook.Kind == l3af.XDP && want != l3af.Auto && cur.mode != want || want == l3af.Auto && cur.mode == l3af.Offload {
			return k.changeMode(t, dev, cur, want, prog)
		}
		if err := cur.link.Update(prog); err != nil {
			return host.Result{}, err
		}
		res := host.Result{Mode: cur.mode}
		if want == l3af.Auto && cur.mode == l3af.Generic {
			res.Note = "it ran in generic mode before, and changing the mode would let packets pass unseen"
		}
		return res, nil
	}
	var l link.Link
	var res host.Result
	if t.Hook.Kind == l3af.XDP {
		l, res, err = attachXDP(t, dev, want, prog)
	} else {
		l, err = attachTCX(t, dev, prog)
	}
	if err != nil {
		return host.Result{}, k.explainBusy(t, dev, err)
	}
	defer l.Close()
	if err := k.makeRoom(t, dev, 0); err != nil {
		_ = l.Detach()
		return host.Result{}, err
	}
	if err := k.switchPin(t, l); err != nil {
		_ = l.Detach()
		return host.Result{}, err
	}
	return res, nil
}

// changeMode replaces an XDP link by one of another mode. The kernel has no
// place for both, so for a moment packets pass unseen; when the new mode is
// refused, the old program runs again in the old, and the error is a
// [*host.ModeError].
func (k *Kernel) changeMode(t host.Target, dev *device, cur *pinned, want l3af.Mode, prog *ebpf.Program) (host.Result, error) {
	old, err := ebpf.NewProgramFromID(cur.info.Program)
	if err != nil {
		return host.Result{}, fmt.Errorf("hold the running program: %w", err)
	}
	defer old.Close()
	if err := cur.link.Detach(); err != nil {
		return host.Result{}, fmt.Errorf("leave %s mode: %w", cur.mode, err)
	}
	l, res, err := attachXDP(t, dev, want, prog)
	if err == nil {
		defer l.Close()
		if err = k.switchPin(t, l); err == nil {
			return res, nil
		}
		_ = l.Detach()
	}
	back, _, errBack := attachXDP(t, dev, cur.mode, old)
	if errBack == nil {
		defer back.Close()
		errBack = k.switchPin(t, back)
	}
	if errBack != nil {
		err = errors.Join(err, fmt.Errorf("run on in %s mode: %w", cur.mode, errBack))
	}
	return host.Result{}, &host.ModeError{Err: err}
}

// inherit finds a link of ours that runs on dev under a name that dev no
// longer has, and makes it the target's: an interface that was renamed keeps
// its program until the new one takes over. Nil when there is none.
func (k *Kernel) inherit(t host.Target, dev *device) (*pinned, error) {
	if any, err := runsAny(t.Hook.Kind, dev); err != nil || !any {
		return nil, err
	}
	targets, err := k.targets()
	if err != nil {
		return nil, err
	}
	for _, other := range targets {
		if other == t || other.Probe != "" || other.Hook.Kind != t.Hook.Kind {
			continue
		}
		p, err := k.openRunning(k.linkPath(other), t, dev)
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		same := false
		err = k.at(other, func(d *device) error {
			same, err = p.runsAt(other, d)
			return err
		})
		if err == nil && same {
			err = fmt.Errorf("%s is the same interface: %w", other, unix.EBUSY)
		}
		if err == nil {
			k.log.Info("interface has a new name", "from", other.String(), "to", t.String())
			err = k.moveSegments(t, other)
		}
		if err == nil {
			err = k.moveSegments(other, t)
		}
		if err == nil {
			err = exchange(k.linkPath(other), k.linkPath(t))
		}
		if err != nil {
			p.Close()
			return nil, err
		}
		return p, nil
	}
	return nil, nil
}

// runsAny reports whether there is any link at a hook.
func runsAny(kind l3af.HookKind, dev *device) (bool, error) {
	if kind == l3af.XDP {
		return len(dev.xdp) > 0, nil
	}
	ids, err := tcxLinks(kind, dev)
	return len(ids) > 0, err
}

// exchange moves a pin. What is in its way takes its place: that may run on
// an interface that was renamed as well, and be inherited next.
func exchange(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	// There is nothing in the way, or the kernel (before 5.16) cannot.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		err = os.Rename(from, to)
	}
	return err
}

// makeRoom moves a link that is pinned at the target but runs on an interface
// that has another name now: it is pinned under that name and runs until the
// chain of that name takes over. depth bounds what moves along.
func (k *Kernel) makeRoom(t host.Target, dev *device, depth int) error {
	l, info, err := openLink(k.linkPath(t))
	if err != nil {
		return nil // there is none
	}
	defer l.Close()
	index := 0
	if x := info.XDP(); x != nil {
		index = int(x.Ifindex)
	} else if x := info.TCX(); x != nil {
		index = int(x.Ifindex)
	}
	if index == 0 || index == dev.index || depth > 8 {
		return nil
	}
	all, err := devices("")
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.index != index {
			continue
		}
		to := host.Target{Hook: l3af.Hook{Netns: t.Hook.Netns, Interface: d.name, Kind: t.Hook.Kind}}
		// Not where its index is that of another interface, elsewhere.
		if runs, err := (&pinned{link: l, info: info}).runsAt(to, &d); err != nil || !runs {
			return err
		}
		if err := k.makeRoom(to, &d, depth+1); err != nil {
			return err
		}
		k.log.Info("interface has a new name", "from", t.String(), "to", to.String())
		if err := os.MkdirAll(k.path(to), 0o700); err != nil {
			return fmt.Errorf("make directory for pins: %w", err)
		}
		if err := k.moveSegments(t, to); err != nil {
			return err
		}
		return os.Rename(k.linkPath(t), k.linkPath(to))
	}
	return nil
}

// explainBusy says who is in the way.
func (k *Kernel) explainBusy(t host.Target, dev *device, err error) error {
	if t.Hook.Kind != l3af.XDP || !busy(err) {
		return err
	}
	now, findErr := findDevice(dev.name)
	if findErr != nil {
		return err
	}
	for mode, id := range now.xdp {
		name, nameErr := programName(ebpf.ProgramID(id))
		if nameErr != nil || name == "" {
			name = "without a name"
		}
		return fmt.Errorf("program %d (%s) of somebody else runs on %s in %s mode: %w (look with `bpftool net`; remove it first)",
			id, name, dev.name, mode, unix.EBUSY)
	}
	return err
}

// busy reports whether an XDP attach failed for another program on the
// interface, in the same mode (EBUSY) or in another (EEXIST).
func busy(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) }
