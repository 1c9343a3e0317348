package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// pinned is a link of ours that runs at a target now.
type pinned struct {
	link link.Link
	info *link.Info
	mode l3af.Mode // XDP: what it runs as
}

func (p *pinned) Close() error { return p.link.Close() }

// openLink opens a pinned link of any kind. The error is [os.ErrNotExist]
// where there is nothing.
func openLink(path string) (link.Link, *link.Info, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return nil, nil, err
	}
	info, err := l.Info()
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, info, nil
}

// openRunning opens the link pinned at path if it runs where the target says:
// on dev, the interface that the hook names now. It is nil otherwise: no pin,
// a dead one whose interface is gone, or one that runs elsewhere because its
// interface was renamed or moved. The thread is in the hook's namespace.
func (k *Kernel) openRunning(path string, t host.Target, dev *device) (*pinned, error) {
	l, info, err := openLink(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil && notOurs(err):
		k.log.Debug("not a link", "path", path, "error", err)
		return nil, nil
	case err != nil:
		return nil, err
	}
	p := &pinned{link: l, info: info}
	runs, err := p.runsAt(t, dev)
	if err != nil || !runs {
		l.Close()
		return nil, err
	}
	return p, nil
}

// runsAt asks the hook or event itself whether the link runs there: an
// interface index alone may mean another interface, in another namespace.
func (p *pinned) runsAt(t host.Target, dev *device) (bool, error) {
	switch {
	case t.Probe != "":
		return p.info.Type == link.PerfEventType || p.info.Type == link.RawTracepointType, nil
	case dev == nil:
		return false, nil
	case t.Hook.Kind == l3af.XDP:
		x := p.info.XDP()
		if x == nil || int(x.Ifindex) != dev.index {
			return false, nil
		}
		for mode, id := range dev.xdp {
			if id == uint32(p.info.Program) {
				p.mode = mode
				return true, nil
			}
		}
		return false, nil
	default:
		x := p.info.TCX()
		if x == nil || int(x.Ifindex) != dev.index || ebpf.AttachType(x.AttachType) != tcxAttachType(t.Hook.Kind) {
			return false, nil
		}
		ids, err := tcxLinks(t.Hook.Kind, dev)
		if errors.Is(err, unix.ENODEV) {
			return false, nil // it went meanwhile
		} else if err != nil {
			return false, err
		}
		for _, id := range ids {
			if id == p.info.ID {
				return true, nil
			}
		}
		return false, nil
	}
}

// switchPin makes l the target's link: pinned under a name of its own, then
// renamed over the old one, which is atomic. A crash between leaves both, and
// recover finishes it.
func (k *Kernel) switchPin(t host.Target, l link.Link) error {
	fresh := filepath.Join(k.path(t), newLinkPin)
	if err := removePins(fresh); err != nil {
		return err
	}
	if err := l.Pin(fresh); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	if err := os.Rename(fresh, k.linkPath(t)); err != nil {
		_ = os.Remove(fresh)
		return fmt.Errorf("pin link: %w", err)
	}
	return nil
}

// recover finishes what a crash left half done.
func (k *Kernel) recover(t host.Target) error {
	if err := k.recoverLink(t); err != nil {
		return err
	}
	if err := k.recoverMaps(t); err != nil {
		return err
	}
	if err := removePins(filepath.Join(k.outsideDir(t), freshPin)); err != nil {
		return err
	}
	return k.tidySegments(t)
}

// recoverLink finishes what a crash inside switchPin left: a new link that was
// pinned but had not taken the old one's place.
func (k *Kernel) recoverLink(t host.Target) error {
	fresh := filepath.Join(k.path(t), newLinkPin)
	if _, err := os.Lstat(fresh); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return k.at(t, func(dev *device) error {
		k.log.Info("finishing an interrupted attach", "target", t.String())
		// An interface has place for one XDP link, and TCX and probes should
		// not run two: the one that runs stays.
		old, err := k.openRunning(k.linkPath(t), t, dev)
		if err != nil {
			return err
		}
		if old != nil {
			old.Close()
			return k.unlink(fresh)
		}
		l, err := k.openRunning(fresh, t, dev)
		if err != nil {
			return err
		}
		if l == nil {
			return k.unlink(fresh)
		}
		defer l.Close()
		return os.Rename(fresh, k.linkPath(t))
	})
}

// unlink detaches the link pinned at path and removes the pin. Nothing there
// is no error.
func (k *Kernel) unlink(path string) error {
	l, _, err := openLink(path)
	if err == nil {
		// Removing the last reference detaches too, but some time later.
		if err := l.Detach(); err != nil && !errors.Is(err, link.ErrNotSupported) && !errors.Is(err, unix.ENOLINK) {
			k.log.Debug("detach link", "path", path, "error", err)
		}
		defer l.Close()
		k.switched.Add(1)
	}
	return removePins(path)
}

// at runs f in the target's network namespace with the interface its hook
// names now; nil when there is none, or no namespace, or for a probe.
func (k *Kernel) at(t host.Target, f func(*device) error) error {
	if t.Probe != "" {
		return f(nil)
	}
	err := within(t.Hook.Netns, func() error {
		dev, err := findDevice(t.Hook.Interface)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := f(dev); err != nil {
			return done{err}
		}
		return nil
	})
	if d := (done{}); errors.As(err, &d) {
		return d.error
	}
	if errors.Is(err, fs.ErrNotExist) {
		return f(nil)
	}
	return err
}

// done marks an error of the function that at runs, apart from at's own.
type done struct{ error }

// Attached reads back every target that has a pin of ours, in any state.
func (k *Kernel) Attached() ([]host.Attached, error) {
	targets, err := k.targets()
	if err != nil {
		return nil, err
	}
	var list []host.Attached
	for _, t := range targets {
		a := host.Attached{Target: t}
		err := k.at(t, func(dev *device) error {
			p, err := k.openRunning(k.linkPath(t), t, dev)
			if err != nil || p == nil {
				return err
			}
			defer p.Close()
			name, err := programName(p.info.Program)
			if err != nil {
				return err
			}
			id, ours := chainID(name)
			if !ours {
				k.log.Debug("not ours", "target", t.String(), "program", name)
				return nil
			}
			a.ID, a.Mode, a.ProgramID, a.LinkID = id, p.mode, uint32(p.info.Program), uint32(p.info.ID)
			if t.Probe == "" {
				a.Segments, err = k.countSegments(t, id)
			}
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			// Replaced or removed while we looked: as if it did not run.
			k.log.Debug("read back", "target", t.String(), "error", err)
		} else if err != nil {
			a.Err = fmt.Errorf("read back %s: %w", t, err)
		}
		list = append(list, a)
	}
	return list, nil
}

// chainID is the ID in the name of a program of ours.
func chainID(name string) (string, bool) {
	id, ours := strings.CutPrefix(name, chain.NamePrefix)
	return id, ours && id != ""
}

// programName reads the kernel's name of a program (15 bytes at most), and
// nothing else of what can be megabytes of its description.
func programName(id ebpf.ProgramID) (string, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", fmt.Errorf("program %d: %w", id, err)
	}
	defer p.Close()
	const name = 64 // in struct bpf_prog_info
	info, err := objectInfo(p)
	if err != nil {
		return "", fmt.Errorf("program %d: %w", id, err)
	}
	if got := binary.NativeEndian.Uint32(info[4:]); got != uint32(id) {
		return "", fmt.Errorf("program %d: the kernel describes %d", id, got)
	}
	return unix.ByteSliceToString(info[name:]), nil
}
