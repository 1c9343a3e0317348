package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"l3af/internal/chain"
	"l3af/internal/host"
)

// Maps that programs of one package instance share are pinned apart from all
// targets. An empty directory says that a target uses one of them:
//
//	DIR/instances/NAME/maps/MAP
//	DIR/instances/NAME/users/TARGET/MAP/
//
// TARGET is the path of the target's directory with commas, which no escaped
// name holds. It is made before the map is pinned and while the target has a
// directory; it goes before that does. So whatever ends between, a target that
// is there or a user that is none tells of what is left.

func (k *Kernel) instances() string { return filepath.Join(k.root, "instances") }

func (k *Kernel) instanceDir(instance string) string {
	return filepath.Join(k.instances(), escape(instance))
}

func (k *Kernel) sharedPath(instance, name string) string {
	return filepath.Join(k.instanceDir(instance), "maps", escape(name))
}

// user is the name of a target among the users of instances.
func (k *Kernel) user(t host.Target) string {
	return strings.ReplaceAll(strings.TrimPrefix(k.path(t), k.root+"/"), "/", ",")
}

// use marks the target as a user of the chain's shared maps. What it marked is
// taken back on an error.
func (k *Kernel) use(t host.Target, c *chain.Chain) (marked []string, err error) {
	for i := range c.Maps {
		m := &c.Maps[i]
		if m.Instance == "" || m.Tied() {
			continue
		}
		dir := filepath.Join(k.instanceDir(m.Instance), "users", k.user(t))
		if err = os.MkdirAll(dir, 0o700); err == nil {
			path := filepath.Join(dir, escape(m.Name))
			if err = os.Mkdir(path, 0o700); os.IsExist(err) {
				err = nil
			} else if err == nil {
				marked = append(marked, path)
			}
		}
		if err != nil {
			k.unuse(marked)
			return nil, fmt.Errorf("%s: %w", title(m), err)
		}
	}
	return marked, nil
}

// unuse takes marks of use back.
func (k *Kernel) unuse(marked []string) {
	for _, path := range marked {
		_ = os.Remove(path)
	}
	if err := k.sweep(); err != nil {
		k.log.Warn("remove shared maps", "error", err)
	}
}

// uses reports whether the target uses shared maps.
func (k *Kernel) uses(t host.Target) (bool, error) {
	names, err := k.subdirs(k.instances())
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(k.instances(), name, "users", k.user(t))); err == nil {
			return true, nil
		}
	}
	return false, err
}

// leave makes the target use no other shared maps than those of keep, none if
// that is nil, and removes what nobody uses then.
func (k *Kernel) leave(t host.Target, keep *chain.Chain) error {
	var kept []string
	if keep != nil {
		for _, m := range keep.Maps {
			if m.Instance != "" && !m.Tied() {
				kept = append(kept, filepath.Join(escape(m.Instance), escape(m.Name)))
			}
		}
	}
	left := false
	names, err := k.subdirs(k.instances())
	if err != nil {
		return err
	}
	for _, name := range names {
		dir := filepath.Join(k.instances(), name, "users", k.user(t))
		maps, err := k.entries(dir)
		if err != nil {
			return err
		}
		for _, used := range maps {
			if slices.Contains(kept, filepath.Join(name, used)) {
				continue
			}
			if err := removePins(filepath.Join(dir, used)); err != nil {
				return err
			}
			left = true
		}
	}
	if !left {
		return nil
	}
	return k.sweep()
}

// sweep removes the shared maps that no target uses, users that are no target,
// and directories that are empty then.
func (k *Kernel) sweep() error {
	names, err := k.subdirs(k.instances())
	if err != nil {
		return err
	}
	for _, name := range names {
		dir := filepath.Join(k.instances(), name)
		users, pins := filepath.Join(dir, "users"), filepath.Join(dir, "maps")
		used := map[string]bool{}
		all, err := k.entries(users)
		if err != nil {
			return err
		}
		for _, user := range all {
			at := filepath.Join(users, user)
			target := filepath.Join(k.root, strings.ReplaceAll(user, ",", "/"))
			maps, err := k.entries(at)
			if err != nil {
				return err
			}
			if info, err := os.Lstat(target); err != nil || !info.IsDir() || len(maps) == 0 {
				if err := removePins(at); err != nil {
					return err
				}
				continue
			}
			for _, m := range maps {
				used[m] = true
			}
		}
		shared, err := k.entries(pins)
		if err != nil {
			return err
		}
		for _, m := range shared {
			if used[m] {
				continue
			}
			if err := removePins(filepath.Join(pins, m)); err != nil {
				return err
			}
		}
		_ = os.Remove(users) // fails when not empty
		_ = os.Remove(pins)
		k.prune(dir)
	}
	return nil
}
