package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/chain"
	"l3af/internal/host"
)

// CheckPinPath says why maps cannot be pinned below a directory; nil if they
// can. It need not be there.
func (k *Kernel) CheckPinPath(dir string) error {
	for _, name := range strings.Split(dir, "/") {
		if len(name) > unix.NAME_MAX {
			return fmt.Errorf("a name has %d bytes at most: %s", unix.NAME_MAX, name)
		}
	}
	exists, err := ancestor(dir)
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(exists)
	if err != nil {
		return err
	}
	if on, err := mounted(real, unix.BPF_FS_MAGIC); err != nil {
		return err
	} else if !on {
		return fmt.Errorf("%s is not on bpffs", dir)
	}
	rest := strings.Trim(strings.TrimPrefix(dir, exists), "/")
	if at := filepath.Join(real, rest); at == k.root || strings.HasPrefix(at, k.root+"/") {
		return fmt.Errorf("%s is inside the directory of l3afd (%s)", dir, k.root)
	}
	for _, name := range strings.Split(rest, "/") {
		if strings.Contains(name, ".") {
			return fmt.Errorf("bpffs takes no name with a dot: %s", name)
		}
	}
	return nil
}

// outsidePin is a map that is wanted at a path outside.
type outsidePin struct {
	*chain.Map
	path  string
	renew bool // in place of the one that all share there
}

// outsidePins lists where the maps of a chain are wanted outside: those of each
// member that pins names, by the object's names, with _ for what bpffs refuses.
// Zeroed data (.bss) is nobody's business but the program's.
// Two maps of one chain that want the same path are an error.
func outsidePins(c *chain.Chain, pins host.Pins) ([]outsidePin, error) {
	var list []outsidePin
	for i := range c.Maps {
		m := &c.Maps[i]
		if m.Name == ".bss" {
			continue
		}
		for _, user := range m.Users {
			dir := pins[user]
			if dir == "" {
				continue
			}
			p := outsidePin{Map: m, path: filepath.Join(dir, outsideName(m.Name))}
			i := slices.IndexFunc(list, func(o outsidePin) bool { return o.path == p.path })
			switch {
			case i < 0:
				list = append(list, p)
			case list[i].Map != m && !p.section():
				return nil, fmt.Errorf("%s: pin %s: %s is to be there as well", title(m), p.path, title(list[i].Map))
			}
		}
	}
	return list, nil
}

func outsideName(name string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && plain(byte(r)) {
			return r
		}
		return '_'
	}, name)
}

// section says whether a map is a data section. Nobody looks for one by its
// name: of several that want one path, the first has it.
func (p *outsidePin) section() bool { return strings.HasPrefix(p.Name, ".") }

// outsideChange is what pinOutside changed.
type outsideChange struct {
	k        *Kernel
	target   host.Target
	before   []string             // what the target had pinned
	replaced map[string]*ebpf.Map // by path
}

// pinOutside pins the maps of a set where the load says, in place of those of the
// chain before. The change can be taken back, also where it failed.
func (k *Kernel) pinOutside(maps *mapSet, load host.Load) (*outsideChange, error) {
	t := load.Target
	change := &outsideChange{k: k, target: t, replaced: map[string]*ebpf.Map{}}
	list, err := outsidePins(load.Chain, load.Pins)
	if err == nil {
		change.before, err = k.marks(t, pinMarks)
	}
	if err != nil {
		return change, err
	}
	for _, p := range list {
		was, _ := ebpf.LoadPinnedMap(p.path, nil)
		o := maps.find(p.Ref)
		p.renew = o.aside != "" && o.made && slices.Contains(load.Renew, p.path)
		changed, err := k.place(t, o.m, p)
		if changed && was != nil {
			change.replaced[p.path] = was
		} else {
			was.Close()
		}
		if err != nil {
			return change, fmt.Errorf("%s: %w", title(p.Map), err)
		}
	}
	return change, nil
}

// undo makes what is pinned outside be what it was.
func (c *outsideChange) undo() {
	var errs []error
	for path, m := range c.replaced {
		errs = append(errs, c.k.replacePin(c.target, m, path))
	}
	_, err := c.k.leaveOutside(c.target, func(path string) bool { return slices.Contains(c.before, path) })
	if err := errors.Join(append(errs, err)...); err != nil {
		c.k.log.Warn("take pins back", "target", c.target.String(), "error", err)
	}
}

func (c *outsideChange) Close() {
	for _, m := range c.replaced {
		m.Close()
	}
}

// Pin makes the maps of the chain that the target runs be pinned where pins
// says, removes all that the target has pinned elsewhere outside, and returns
// how many pins it made and removed. The error is [fs.ErrNotExist] where a map cannot be
// found any more: attaching the chain makes it anew.
func (k *Kernel) Pin(t host.Target, c *chain.Chain, pins host.Pins) (int, error) {
	if err := checkTarget(t); err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	changed := 0
	wanted := map[string]bool{}
	list, err := outsidePins(c, pins)
	if err != nil {
		return 0, err
	}
	var first error
	for _, p := range list {
		wanted[p.path] = true
		n, err := k.mendPin(t, c, p)
		changed += n
		if err != nil && first == nil {
			first = fmt.Errorf("%s: %w", title(p.Map), err)
		}
	}
	// Also after an error: others may be waiting for what this target leaves.
	removed, err := k.leaveOutside(t, func(path string) bool { return wanted[path] })
	if first == nil {
		first = err
	}
	return changed + removed, first
}

// PinAhead pins where pins says, and where nothing is yet, what the target has
// already of the maps of a chain that it is to run. Who shares them finds them
// there.
func (k *Kernel) PinAhead(t host.Target, c *chain.Chain, pins host.Pins) error {
	if err := checkTarget(t); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	list, err := outsidePins(c, pins)
	if err != nil {
		return err
	}
	for _, p := range list {
		if _, err := os.Lstat(p.path); err == nil || !p.Pinned || p.Tied() {
			continue
		}
		if _, err := k.mendPin(t, c, p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", title(p.Map), err)
		}
	}
	return nil
}

func (k *Kernel) mendPin(t host.Target, c *chain.Chain, p outsidePin) (int, error) {
	if !p.Pinned { // read-only data: only its program holds it
		_, err := os.Lstat(p.path)
		return 0, err
	}
	m, err := ebpf.LoadPinnedMap(k.mapPath(t, c.ID, p.Map), nil)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	changed, err := k.place(t, m, p)
	if changed {
		return 1, err
	}
	return 0, err
}

// place pins a map outside and reports whether it was not there. A pin that
// the target alone had there is replaced; anything else that is there is an
// error that says whose it is.
func (k *Kernel) place(t host.Target, m *ebpf.Map, p outsidePin) (bool, error) {
	info, err := m.Info()
	if err != nil {
		return false, err
	}
	id, _ := info.ID()
	have, err := mapID(p.path)
	switch {
	case err == nil && have == id:
		if !k.marked(t, pinMarks, p.path) || p.ByName && !k.marked(t, nameMarks, p.path) {
			err = errors.Join(k.makeDirs(t, filepath.Dir(p.path)), k.markPin(t, p))
		}
		return false, err
	case errors.Is(err, fs.ErrNotExist):
		if err := k.makeDirs(t, filepath.Dir(p.path)); err != nil {
			return false, err
		}
		if err := k.markPin(t, p); err != nil {
			return false, err
		}
		if err := alsoPin(m, p.path); err != nil {
			return false, fmt.Errorf("pin %s: %v", p.path, err)
		}
		return true, nil
	case err != nil && notOurs(err):
		return false, fmt.Errorf("pin %s: there is something else than a map", p.path)
	case err != nil:
		return false, fmt.Errorf("pin %s: %w", p.path, err)
	}
	others, err := k.others(t, pinMarks, p.path)
	switch {
	case err != nil:
		return false, err
	case len(others) > 0 && p.section():
		return false, removePins(k.markPath(t, pinMarks, p.path))
	case len(others) > 0 && p.renew && !slices.ContainsFunc(others, func(o host.Target) bool { return !k.marked(o, nameMarks, p.path) }):
	case len(others) > 0:
		return false, fmt.Errorf("pin %s: %w, of %s", p.path, host.ErrTaken, others[0])
	case !k.marked(t, pinMarks, p.path):
		return false, fmt.Errorf("pin %s: map %d is there, which is not of l3afd (remove it if nobody needs it)", p.path, have)
	}
	if err := errors.Join(k.makeDirs(t, filepath.Dir(p.path)), k.markPin(t, p)); err != nil {
		return false, err
	}
	return true, k.replacePin(t, m, p.path)
}

// findable reports whether a map that is pinned outside, or may be, is there for
// whoever asks for it by its name: because objects of ours did, or because it
// is not ours.
func (k *Kernel) findable(path string) bool {
	if _, err := os.Lstat(path); err != nil {
		return true
	}
	named, err := k.others(host.Target{}, nameMarks, path)
	if err != nil || len(named) > 0 {
		return err == nil
	}
	ours, err := k.others(host.Target{}, pinMarks, path)
	return err == nil && len(ours) == 0
}

// replacePin makes a pin outside be another map's, in one step where the path
// is on our bpffs.
func (k *Kernel) replacePin(t host.Target, m *ebpf.Map, path string) error {
	fresh := filepath.Join(k.outsideDir(t), freshPin)
	err := removePins(fresh)
	if err == nil {
		err = alsoPin(m, fresh)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if errors.Is(err, unix.EXDEV) { // path is on another bpffs
		_ = os.Remove(fresh)
		if err = os.Remove(path); err == nil {
			err = alsoPin(m, path)
		}
	}
	if err != nil {
		return fmt.Errorf("pin %s: %v", path, err)
	}
	return nil
}

// alsoPin pins a map without moving the pin that it has.
func alsoPin(m *ebpf.Map, path string) error {
	m, err := m.Clone()
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Pin(path)
}

// makeDirs makes the directories that lead to a pin outside, and marks those
// that are ours. Those of another target are ours as well: who leaves last
// removes them.
func (k *Kernel) makeDirs(t host.Target, dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() && k.marked(t, dirMarks, dir) {
		return nil // and so are those above
	}
	exists, err := ancestor(dir)
	if err != nil {
		return err
	}
	for at := exists; at != "/"; at = filepath.Dir(at) {
		if k.marked(t, dirMarks, at) {
			continue
		}
		others, err := k.others(t, dirMarks, at)
		if err != nil {
			return err
		}
		if len(others) == 0 {
			break // nor are those above
		}
		if err := k.mark(t, dirMarks, at); err != nil {
			return err
		}
	}
	at := exists
	for _, name := range strings.Split(strings.Trim(strings.TrimPrefix(dir, exists), "/"), "/") {
		if name == "" {
			continue
		}
		at = filepath.Join(at, name)
		if err := k.mark(t, dirMarks, at); err != nil {
			return err
		}
		if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make directory for pins: %v", err)
		}
	}
	return nil
}

// leaveOutside removes the pins of a target outside that do not stay, and
// directories that we made and that are empty then, and returns how many pins
// that were. What other targets have as well is theirs.
func (k *Kernel) leaveOutside(t host.Target, stays func(path string) bool) (int, error) {
	if err := removePins(filepath.Join(k.outsideDir(t), freshPin)); err != nil {
		return 0, err
	}
	paths, err := k.marks(t, pinMarks)
	if err != nil {
		return 0, err
	}
	removed := 0
	kept := map[string]bool{}
	for _, path := range paths {
		if stays(path) {
			for at := filepath.Dir(path); !kept[at]; at = filepath.Dir(at) {
				kept[at] = true
			}
			continue
		}
		if err := removePins(k.markPath(t, nameMarks, path)); err != nil {
			return removed, err
		}
		if err := k.unmark(t, pinMarks, path); err != nil {
			return removed, err
		}
		removed++
	}
	dirs, err := k.marks(t, dirMarks)
	if err != nil {
		return removed, err
	}
	slices.Sort(dirs)
	for _, dir := range slices.Backward(dirs) { // the deepest first
		if kept[dir] {
			continue
		}
		if err := k.unmark(t, dirMarks, dir); err != nil {
			return removed, err
		}
	}
	for _, dir := range []string{pinMarks, nameMarks, dirMarks, ""} {
		_ = os.Remove(filepath.Join(k.outsideDir(t), dir)) // fails when not empty
	}
	return removed, nil
}
