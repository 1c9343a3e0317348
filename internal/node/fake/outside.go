package fake

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"l3af/internal/chain"
	"l3af/internal/host"
)

// Bpffs is where the fake has its own directory, l3af, and others may have
// theirs.
const Bpffs = "/sys/fs/bpf"

// CheckPinPath implements node.Kernel.
func (k *Kernel) CheckPinPath(dir string) error {
	if !strings.HasPrefix(dir+"/", Bpffs+"/") {
		return fmt.Errorf("%s is not on bpffs", dir)
	}
	if strings.HasPrefix(dir+"/", Bpffs+"/l3af/") {
		return fmt.Errorf("%s is inside the directory of l3afd", dir)
	}
	return nil
}

func outsidePaths(m chain.Map, pins host.Pins) (paths []string) {
	for _, user := range m.Users {
		if dir := pins[user]; dir != "" && m.Pinned && m.Name != ".bss" {
			paths = append(paths, dir+"/"+strings.ReplaceAll(m.Name, ".", "_"))
		}
	}
	return paths
}

// pinOutside pins the maps of a chain where pins says as well, those that wait
// for it first.
func (k *Kernel) pinOutside(t host.Target, c *chain.Chain, pins host.Pins, renew ...string) (made int, err error) {
	for _, m := range c.Maps {
		for _, path := range outsidePaths(m, pins) {
			name, _ := nameOf(m)
			k.mu.Lock()
			s := k.target(t)
			own := s.aside[c.ID][name]
			anew := own != nil && slices.Contains(renew, path) && k.findable(path)
			if own == nil {
				own = k.place(t, name)[name]
			}
			there, others := k.outside[path], k.outsideUsers(path, t)
			named, mine := s.outside[path]
			mine = mine && named == m.ByName
			k.gone(t)
			k.mu.Unlock()
			switch {
			case own == nil:
				return made, fmt.Errorf("map %s: %w", name, os.ErrNotExist)
			case there == own && mine:
				continue
			case there != nil && there != own && others && m.Name[0] == '.':
				if mine {
					k.change("unmark pin "+path, func() { delete(k.target(t).outside, path) })
				}
				continue
			case there != nil && there != own && others && !anew:
				return made, fmt.Errorf("pin %s: %w", path, host.ErrTaken)
			}
			if !mine {
				k.change("mark pin "+path, func() { k.target(t).outside[path] = m.ByName })
			}
			if there != own {
				k.change("pin "+path, func() { k.outside[path] = own })
				made++
			}
		}
	}
	return made, nil
}

// undoOutside makes what a target has pinned outside be what it is now.
func (k *Kernel) undoOutside(t host.Target) func() {
	k.mu.Lock()
	marks, pins := maps.Clone(k.target(t).outside), maps.Clone(k.outside)
	k.gone(t)
	k.mu.Unlock()
	return func() {
		k.change("take pins of "+t.String()+" back", func() {
			s := k.target(t)
			for path := range s.outside {
				if was := pins[path]; was != nil {
					k.outside[path] = was
				} else if !k.outsideUsers(path, t) {
					delete(k.outside, path)
				}
			}
			s.outside = marks
			k.gone(t)
		})
	}
}

// PinAhead implements node.Kernel.
func (k *Kernel) PinAhead(t host.Target, c *chain.Chain, pins host.Pins) error {
	if err := k.before("PinAhead", t); err != nil {
		return err
	}
	for _, m := range c.Maps {
		for _, path := range outsidePaths(m, pins) {
			name, _ := nameOf(m)
			k.mu.Lock()
			own, there := k.place(t, name)[name], k.outside[path]
			k.gone(t)
			k.mu.Unlock()
			if own != nil && there == nil {
				k.change("mark pin "+path, func() { k.target(t).outside[path] = m.ByName })
				k.change("pin "+path, func() { k.outside[path] = own })
			}
		}
	}
	return nil
}

// outsideUsers reports whether another target has a path. k.mu is held.
func (k *Kernel) outsideUsers(path string, but host.Target) bool {
	for t, s := range k.targets {
		if _, ok := s.outside[path]; ok && t != but {
			return true
		}
	}
	return false
}

// findable reports whether a map outside is there for objects that ask for it
// by its name. k.mu is held.
func (k *Kernel) findable(path string) bool {
	for _, s := range k.targets {
		if s.outside[path] {
			return true
		}
	}
	return !k.outsideUsers(path, host.Target{})
}

// leaveOutside removes the pins of a target outside that are not wanted.
func (k *Kernel) leaveOutside(t host.Target, wanted map[string]bool) (removed int) {
	k.mu.Lock()
	var paths []string
	if s := k.targets[t]; s != nil {
		paths = slices.Sorted(maps.Keys(s.outside))
	}
	k.mu.Unlock()
	for _, path := range paths {
		if wanted[path] {
			continue
		}
		k.mu.Lock()
		others := k.outsideUsers(path, t)
		k.mu.Unlock()
		if !others {
			k.change("unpin "+path, func() { delete(k.outside, path) })
		}
		removed++
		k.change("unmark pin "+path, func() {
			delete(k.targets[t].outside, path)
			k.gone(t)
		})
	}
	return removed
}

// Pin implements node.Kernel.
func (k *Kernel) Pin(t host.Target, c *chain.Chain, pins host.Pins) (int, error) {
	if err := k.before("Pin", t); err != nil {
		return 0, err
	}
	made, first := k.pinOutside(t, c, pins)
	wanted := map[string]bool{}
	for _, m := range c.Maps {
		for _, path := range outsidePaths(m, pins) {
			wanted[path] = true
		}
	}
	return made + k.leaveOutside(t, wanted), first
}

// Outside lists the paths outside where maps are pinned, sorted.
func (k *Kernel) Outside() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.outside))
}

// Unpin does what anybody may do: it removes a pin outside.
func (k *Kernel) Unpin(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.outside, path)
}

// Lose does what anybody may do: it removes the pin of a map.
func (k *Kernel) Lose(t host.Target, member, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.targets[t].maps, mapName(member, name))
}
