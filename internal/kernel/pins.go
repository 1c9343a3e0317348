package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

const (
	linkPin = "link"
	// newLinkPin is the name of a link until it takes the place of the old one.
	newLinkPin = "link-new"
)

// escape makes any name one path component: bpffs refuses names with a dot
// (bpf_lookup in kernel/bpf/inode.c), and no name may have a slash. Bytes
// outside [A-Za-z0-9_:@-] become %XX.
func escape(name string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// unescape is the inverse of escape. It refuses what escape does not give.
func unescape(s string) (string, bool) {
	digit := func(c byte) int { return strings.IndexByte("0123456789ABCDEF", c) }
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if plain(c) {
			b = append(b, c)
			continue
		}
		if c != '%' || i+2 >= len(s) {
			return "", false
		}
		hi, lo := digit(s[i+1]), digit(s[i+2])
		if c = byte(hi<<4 | lo); hi < 0 || lo < 0 || plain(c) {
			return "", false
		}
		b = append(b, c)
		i += 2
	}
	return string(b), true
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_:@-", c) >= 0
}

// path is the directory of a target's pins.
func (k *Kernel) path(t host.Target) string {
	if t.Probe != "" {
		return filepath.Join(k.root, "probes", escape(t.Probe))
	}
	at := t.Hook.Interface
	if t.Hook.Netns != "" {
		at = t.Hook.Netns + ":" + at
	}
	return filepath.Join(k.root, "hooks", escape(at), string(t.Hook.Kind))
}

func (k *Kernel) linkPath(t host.Target) string { return filepath.Join(k.path(t), linkPin) }

func (k *Kernel) counterPath(t host.Target, id string) string {
	return filepath.Join(k.path(t), "counters", escape(id))
}

func (k *Kernel) mapPath(t host.Target, id string, m *chain.Map) string {
	if m.Member == "" {
		return k.counterPath(t, id)
	}
	if m.Tied() {
		return filepath.Join(k.tiedPath(t, id), escape(m.Member), escape(m.Name))
	}
	if m.Instance != "" {
		return k.sharedPath(m.Instance, m.Name)
	}
	return filepath.Join(k.path(t), "maps", escape(m.Member), escape(m.Name))
}

// targets lists every target that has a directory. What else is there is not
// ours and passed over.
func (k *Kernel) targets() (list []host.Target, err error) {
	add := func(t host.Target, dir string) {
		// Another spelling of a target's directory is not ours.
		if t != (host.Target{}) && checkTarget(t) == nil && k.path(t) == dir {
			list = append(list, t)
		} else {
			k.log.Debug("not ours", "path", dir)
		}
	}
	hooks := filepath.Join(k.root, "hooks")
	places, err := k.subdirs(hooks)
	if err != nil {
		return nil, err
	}
	for _, at := range places {
		name, _ := unescape(at)
		kinds, err := k.subdirs(filepath.Join(hooks, at))
		if err != nil {
			return nil, err
		}
		for _, kind := range kinds {
			add(host.Target{Hook: hookAt(name, l3af.HookKind(kind))}, filepath.Join(hooks, at, kind))
		}
	}
	probes := filepath.Join(k.root, "probes")
	names, err := k.subdirs(probes)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		probe, _ := unescape(name)
		add(host.Target{Probe: probe}, filepath.Join(probes, name))
	}
	return list, nil
}

// Place is what a pin of ours is, by where it is.
type Place struct {
	Target   host.Target // the zero value: what it is for has no target
	Chain    string      // ID, of what belongs to one chain
	Program  string      // of a map that the program of this name has
	Map      string      // its name in the object; [chain.CountersName] for what a chain counted
	Instance string      // of a map that programs share
}

// PlaceOf says what a pin is by its path below the directory of pins. What is
// not where we pin things is not ours.
func PlaceOf(path string) (Place, bool) {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		var ok bool
		if parts[i], ok = unescape(p); !ok {
			return Place{}, false
		}
	}
	switch {
	case len(parts) == 4 && parts[0] == "instances" && parts[2] == "maps":
		return Place{Instance: parts[1], Map: parts[3]}, true
	case len(parts) > 3 && parts[0] == "hooks":
		p := Place{Target: host.Target{Hook: hookAt(parts[1], l3af.HookKind(parts[2]))}}
		return p, checkTarget(p.Target) == nil && p.under(parts[3:])
	case len(parts) > 2 && parts[0] == "probes":
		p := Place{Target: host.Target{Probe: parts[1]}}
		return p, p.under(parts[2:])
	}
	return Place{}, false
}

// under reads what is below the directory of a target.
func (p *Place) under(parts []string) bool {
	switch {
	case len(parts) == 1:
		return parts[0] == linkPin || parts[0] == newLinkPin
	case len(parts) == 2 && parts[0] == "counters":
		p.Chain, p.Map = parts[1], chain.CountersName
	case len(parts) == 2 && parts[0] == segmentsDir:
		p.Chain, p.Map = parts[1], segmentsDir
	case len(parts) == 3 && parts[0] == "maps":
		p.Program, p.Map = parts[1], parts[2]
	case len(parts) == 4 && parts[0] == "programs":
		p.Chain, p.Program, p.Map = parts[1], parts[2], parts[3]
	default:
		return false
	}
	return true
}

// hookAt is the inverse of how a hook's directory is named. No interface has a
// colon in its name; namespaces may.
func hookAt(at string, kind l3af.HookKind) l3af.Hook {
	h := l3af.Hook{Interface: at, Kind: kind}
	if i := strings.LastIndexByte(at, ':'); i >= 0 {
		h.Netns, h.Interface = at[:i], at[i+1:]
	}
	return h
}

// subdirs lists the directories in dir; none when it is not there.
func (k *Kernel) subdirs(dir string) ([]string, error) {
	names, err := k.entries(dir)
	return slices.DeleteFunc(names, func(name string) bool {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err == nil && !info.IsDir() {
			k.log.Debug("not ours", "path", filepath.Join(dir, name))
		}
		return err != nil || !info.IsDir()
	}), err
}

// entries lists what is in dir; nothing when it is not a directory.
func (k *Kernel) entries(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("read bpffs: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// notOurs reports whether opening a pin failed because of what it is: a pin of
// another kind gives an error without a number, a directory EACCES. Others,
// such as EMFILE, say nothing about it.
func notOurs(err error) bool {
	number := syscall.Errno(0)
	return !errors.As(err, &number) || number == unix.EACCES
}

// checkTarget refuses a target that has no place under bpffs.
func checkTarget(t host.Target) error {
	if t.Probe != "" {
		if t.Hook != (l3af.Hook{}) {
			return errors.New("a target is a hook or a probe, not both")
		}
		return nil
	}
	if !slices.Contains(l3af.HookKinds(), t.Hook.Kind) {
		return fmt.Errorf("unknown hook %q", t.Hook.Kind)
	}
	if t.Hook.Netns != "" {
		if _, err := netnsPath(t.Hook.Netns); err != nil {
			return err
		}
	}
	return checkInterface(t.Hook.Interface)
}

// removePins removes a file or a tree of pins. Nothing there is no error.
func removePins(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("unpin: %w", err)
	}
	return nil
}

// prune removes dir and the directories above it that are empty, up to the
// root.
func (k *Kernel) prune(dir string) {
	for dir != k.root && strings.HasPrefix(dir, k.root+"/") {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
		dir = filepath.Dir(dir)
	}
}

// pruneTarget removes the empty directories of a target.
func (k *Kernel) pruneTarget(t host.Target) {
	maps := filepath.Join(k.path(t), "maps")
	members, _ := k.subdirs(maps)
	for _, member := range members {
		_ = os.Remove(filepath.Join(maps, member)) // fails when not empty
	}
	_ = os.Remove(maps)
	tied := k.tiedPath(t, "")
	ids, _ := k.subdirs(tied)
	for _, id := range ids {
		members, _ := k.subdirs(filepath.Join(tied, id))
		for _, member := range members {
			_ = os.Remove(filepath.Join(tied, id, member))
		}
		_ = os.Remove(filepath.Join(tied, id))
	}
	_ = os.Remove(tied)
	_ = os.Remove(filepath.Join(k.path(t), "counters"))
	_ = os.Remove(filepath.Join(k.path(t), segmentsDir))
	// A target's directory stays as long as its marks of use.
	if uses, err := k.uses(t); err == nil && !uses {
		k.prune(k.path(t))
	}
}
