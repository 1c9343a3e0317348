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

func mapName(member, name string) string { return member + "/" + name }

// nameOf is the name of a map, and whether it is shared.
func nameOf(m chain.Map) (string, bool) {
	if m.Instance != "" {
		return "@" + mapName(m.Instance, m.Name), true
	}
	return mapName(m.Member, m.Name), false
}

// place is where a map is pinned. k.mu is held.
func (k *Kernel) place(t host.Target, name string) map[string]*table {
	if strings.HasPrefix(name, "@") {
		return k.shared
	}
	return k.target(t).maps
}

func shapeOf(m chain.Map) string {
	return fmt.Sprintf("%d %d %d", m.Spec.KeySize, m.Spec.ValueSize, m.Spec.MaxEntries)
}

// pinMap makes a map, or adopts the one that is there. One of another shape is
// refused, or a new one waits aside for the switch.
func (k *Kernel) pinMap(load host.Load, m chain.Map) error {
	t := load.Target
	name, shared := nameOf(m)
	shape := shapeOf(m)
	k.mu.Lock()
	used := k.target(t).uses[name]
	old := k.place(t, name)[name]
	k.gone(t)
	k.mu.Unlock()
	if shared && !used {
		k.change("use map "+name, func() { k.target(t).uses[name] = true })
	}
	fresh := &table{id: k.nextID(), shape: shape, size: m.Spec.ValueSize, entries: map[string]string{}, patches: map[int]string{}}
	reset, joins := slices.Contains(load.Reset, m.Member), false
	if m.ByName && (old == nil || reset) {
		for _, path := range outsidePaths(m, load.Pins) {
			k.mu.Lock()
			if found := k.outside[path]; found != nil && found.shape == shape && k.findable(path) {
				fresh, joins = found, true
			}
			k.mu.Unlock()
		}
	}
	switch {
	case old == nil:
		k.change("pin map "+name, func() { k.place(t, name)[name] = fresh })
	case old.shape != shape && !reset:
		return fmt.Errorf("map %s: the pinned map has another shape", name)
	case old.shape != shape || joins && fresh != old:
		k.change("pin map "+name+" aside", func() {
			s := k.target(t)
			if s.aside[load.Chain.ID] == nil {
				s.aside[load.Chain.ID] = map[string]*table{}
			}
			s.aside[load.Chain.ID][name] = fresh
		})
	}
	return nil
}

// recover gives maps that wait aside their places if their chain runs, and
// removes them if it does not.
func (k *Kernel) recover(t host.Target) {
	k.mu.Lock()
	s := k.targets[t]
	running := ""
	if s != nil && s.link != nil && k.runs(t, s.link) {
		running = s.link.program.chain
	}
	var names []string
	if s != nil {
		names = slices.Sorted(maps.Keys(s.aside[running]))
	}
	none := s == nil || len(s.aside) == 0
	k.mu.Unlock()
	if none {
		return
	}
	for _, name := range names {
		k.change("put map "+name+" in place", func() {
			k.place(t, name)[name] = s.aside[running][name]
			delete(s.aside[running], name)
		})
	}
	k.change("remove maps aside", func() {
		clear(s.aside)
		k.gone(t)
	})
}

// leave makes the target use no other shared maps than those of keep, and
// removes what nobody uses.
func (k *Kernel) leave(t host.Target, keep *chain.Chain) {
	kept := map[string]bool{}
	if keep != nil {
		for _, m := range keep.Maps {
			name, _ := nameOf(m)
			kept[name] = true
		}
	}
	k.mu.Lock()
	var names []string
	if s := k.targets[t]; s != nil {
		names = slices.Sorted(maps.Keys(s.uses))
	}
	k.mu.Unlock()
	for _, name := range names {
		if !kept[name] {
			// What a crash between the two leaves, a start puts in order.
			k.change("use map "+name+" no more", func() {
				delete(k.targets[t].uses, name)
				k.gone(t)
				for _, s := range k.targets {
					if s.uses[name] {
						return
					}
				}
				delete(k.shared, name)
			})
		}
	}
}

// write writes to the maps of a chain, those that wait for it first.
func (k *Kernel) write(t host.Target, id string, contents []host.Contents) (changed int, err error) {
	for _, c := range contents {
		name, _ := nameOf(chain.Map{Member: c.Member, Name: c.Map, Instance: c.Instance})
		want, patches := map[string]string{}, map[int]string{}
		for _, e := range c.Entries {
			want[string(e.Key)] = string(slices.Concat(e.Values...))
		}
		for _, p := range c.Patches {
			patches[p.Offset] = string(p.Data)
		}
		k.mu.Lock()
		have := k.target(t).aside[id][name]
		if have == nil {
			have = k.place(t, name)[name]
		}
		k.gone(t)
		k.mu.Unlock()
		if have == nil {
			return changed, fmt.Errorf("map %s: %w", name, os.ErrNotExist)
		}
		n := 0
		next := maps.Clone(have.entries)
		if c.Full {
			next = want
		}
		for _, k := range c.Present {
			if value, ok := have.entries[string(k)]; ok && next[string(k)] == "" {
				next[string(k)] = value
			} else if next[string(k)] == "" {
				next[string(k)] = string(make([]byte, have.size))
			}
		}
		n = differences(have.entries, next)
		for at, data := range patches {
			if have.patches[at] != data {
				n++
			}
		}
		if n == 0 {
			continue
		}
		changed += n
		k.change("write map "+name, func() {
			have.entries = next
			maps.Copy(have.patches, patches)
		})
	}
	return changed, nil
}

func differences(have, want map[string]string) (n int) {
	for key, v := range want {
		if old, ok := have[key]; !ok || old != v {
			n++
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			n++
		}
	}
	return n
}

// Read implements node.Kernel.
func (k *Kernel) Read(t host.Target, _ *chain.Chain, keys []host.MapKey) ([][][]byte, error) {
	if err := k.before("Read", t); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	values := make([][][]byte, len(keys))
	for i, key := range keys {
		name, _ := nameOf(chain.Map{Member: key.Member, Name: key.Map, Instance: key.Instance})
		m := k.place(t, name)[name]
		k.gone(t)
		if m == nil {
			continue
		}
		if v, ok := m.entries[string(key.Key)]; ok {
			values[i] = [][]byte{[]byte(v)}
		}
	}
	return values, nil
}

// MapIDs implements node.Kernel.
func (k *Kernel) MapIDs(t host.Target, c *chain.Chain) ([]uint32, error) {
	if err := k.before("MapIDs", t); err != nil {
		return nil, err
	}
	k.recover(t)
	k.mu.Lock()
	defer k.mu.Unlock()
	ids := make([]uint32, len(c.Maps))
	for i, m := range c.Maps {
		name, _ := nameOf(m)
		if of := k.place(t, name)[name]; of != nil && m.Pinned {
			ids[i] = of.id
		}
		k.gone(t)
	}
	return ids, nil
}

// SetEntry does what a program does: it writes to an entry of its map.
func (k *Kernel) SetEntry(t host.Target, member, name string, key, value []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.targets[t].maps[mapName(member, name)].entries[string(key)] = string(value)
}

// Write implements node.Kernel.
func (k *Kernel) Write(t host.Target, c *chain.Chain, contents []host.Contents) (int, error) {
	if err := k.before("Write", t); err != nil {
		return 0, err
	}
	k.mu.Lock()
	s := k.targets[t]
	running := s != nil && s.link != nil && k.runs(t, s.link) && s.link.program.chain == c.ID
	k.mu.Unlock()
	if !running {
		return 0, fmt.Errorf("chain %s does not run", c.ID)
	}
	k.recover(t)
	return k.write(t, c.ID, contents)
}
