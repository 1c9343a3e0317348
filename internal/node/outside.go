package node

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// pins are the directories outside where the maps of m's programs are found as
// well. Those of programs that do not run are not.
func (m *made) pins() host.Pins {
	pins := host.Pins{}
	add := func(name string, s l3af.Settings) {
		if s.PinPath != "" && !s.Disabled {
			pins[name] = s.PinPath
		}
	}
	if m.probe != nil {
		add(m.probe.Name, m.probe.Settings)
		return pins
	}
	for i := range m.chain.Programs {
		add(m.chain.Programs[i].Name, m.chain.Programs[i].Settings)
	}
	return pins
}

// pinsText tells one set of pins from another.
func pinsText(pins host.Pins) (text string) {
	for _, name := range slices.Sorted(maps.Keys(pins)) {
		text += fmt.Sprintf(" %s=%s", name, pins[name])
	}
	return text
}

// pinPaths finds what is wrong with the directories outside that a state names.
func (n *Node) pinPaths(s *l3af.State) (wrong []l3af.Mistake) {
	check := func(at string, s l3af.Settings) {
		if !path.IsAbs(s.PinPath) {
			return // nothing to check, or told already
		}
		if err := n.kernel.CheckPinPath(s.PinPath); err != nil {
			wrong = append(wrong, l3af.Mistake{Path: at + ".pinPath", Message: err.Error(), Hint: "a directory below the mount point of bpffs, such as /sys/fs/bpf/eth0"})
		}
	}
	for i := range s.Chains {
		for j := range s.Chains[i].Programs {
			check(fmt.Sprintf("chains[%d].programs[%d]", i, j), s.Chains[i].Programs[j].Settings)
		}
	}
	for i := range s.Probes {
		check(fmt.Sprintf("probes[%d]", i), s.Probes[i].Settings)
	}
	return wrong
}

// pinAhead makes maps be found outside that are there already, before programs
// come that share them.
func (r *round) pinAhead() {
	for i := range r.wants {
		w := &r.wants[i]
		if !w.present || w.made.err != nil || w.made.off() || r.n.settled[w.target] == w.made.stays || r.ctx.Err() != nil {
			continue
		}
		pins := w.made.pins()
		if len(pins) == 0 {
			continue
		}
		if err := r.n.kernel.PinAhead(w.target, w.made.light, pins); err != nil {
			// Told when the chain itself is looked after.
			r.n.log.Debug("pin ahead", "target", w.target.String(), "error", err)
		}
	}
}

// leave takes what a target has pinned outside and is to have no more, because
// others may be waiting for the place.
func (r *round) leave(w *want) {
	if _, err := r.n.kernel.Pin(w.target, w.made.light, w.made.pins()); err != nil {
		r.n.log.Debug("leave pins", "target", w.target.String(), "error", err)
	}
}

// again gives those another turn whose pins were in the way of one another:
// by now those that were to go are gone.
func (r *round) again() {
	r.late = true
	for _, f := range r.waiting {
		if r.ctx.Err() == nil {
			f()
		}
	}
}

// agree makes programs agree that share a map because they name one directory
// and their objects pin it by its name, and those that share it with them in an
// instance: what one wants in it is what all want, and the defaults of a
// package do not stand against it.
func agree(all []*made) {
	type said struct {
		entries []host.Entry
		by      string // path in the document; "": nobody says entries
		present [][]byte
	}
	// One map may be known by several names: of them one stands for all.
	first := map[string]string{}
	known := map[string]*said{}
	find := func(name string) string {
		for first[name] != "" {
			name = first[name]
		}
		return name
	}
	each(all, func(_ *made, _ *host.Contents, names []string) {
		for _, name := range names[1:] {
			if a, b := find(names[0]), find(name); a != b {
				first[b] = a
			}
		}
	})
	each(all, func(m *made, c *host.Contents, names []string) {
		root := find(names[0])
		if known[root] == nil {
			known[root] = &said{}
		}
		now := known[root]
		now.present = union(now.present, c.Present)
		if !c.Full || c.Default {
			return
		}
		by := m.path
		if m.chain != nil {
			by = m.programPath(c.Member)
		}
		if now.by == "" {
			now.entries, now.by = c.Entries, by
		} else if !sameEntries(now.entries, c.Entries) {
			m.err = &l3af.InvalidError{Mistakes: []l3af.Mistake{{Path: by + ".maps." + c.Map, Hint: "write the same, or leave it out",
				Message: fmt.Sprintf("is not what %s wants in the map, which they share (%s)", now.by, names[len(names)-1])}}}
		}
	})
	each(all, func(_ *made, c *host.Contents, names []string) {
		now := known[find(names[0])]
		if now == nil {
			return // its user has a mistake
		}
		c.Present = union(c.Present, now.present)
		if c.Default && now.by != "" {
			c.Full, c.Entries = false, nil
		}
	})
	for _, m := range all {
		if m.err != nil {
			continue
		}
		if wrong := m.crowded(); len(wrong) > 0 {
			m.err = &l3af.InvalidError{Mistakes: wrong}
		}
	}
}

// each calls f with the contents of maps that may be shared, and the names that
// these maps are known by: in their instance, and outside.
func each(all []*made, f func(m *made, c *host.Contents, names []string)) {
	for _, m := range all {
		if m.err != nil {
			continue
		}
		m.contents = slices.Clone(m.contents)
		for i := range m.contents {
			c := &m.contents[i]
			var names []string
			if c.Instance != "" {
				names = append(names, c.Instance+"\x00"+c.Map)
			}
			names = append(names, m.sharedOutside(c)...)
			if len(names) > 0 {
				f(m, c, names)
			}
		}
	}
}

// crowded finds the programs of a chain that want different maps at one path.
func (m *made) crowded() (wrong []l3af.Mistake) {
	if m.chain == nil {
		return nil
	}
	taken := map[string]*chain.Map{}
	pins := m.pins()
	for i := range m.light.Maps {
		of := &m.light.Maps[i]
		for _, user := range of.Users {
			at := pins[user] + "/" + of.Name
			if pins[user] == "" || strings.HasPrefix(of.Name, ".") {
				continue
			}
			if first := taken[at]; first == nil {
				taken[at] = of
			} else if first != of {
				wrong = append(wrong, l3af.Mistake{Path: m.programPath(user) + ".pinPath", Hint: "give it a directory of its own",
					Message: fmt.Sprintf("the map %s of %s is pinned there as well", of.Name, m.programPath(first.Member))})
			}
		}
	}
	return wrong
}

// sharedOutside is where the map of contents is found outside by those whose
// objects ask for it by its name.
func (m *made) sharedOutside(c *host.Contents) (paths []string) {
	pins := m.pins()
	for i := range m.light.Maps {
		of := &m.light.Maps[i]
		if of.Name != c.Map || !of.ByName || of.Instance != c.Instance || of.Instance == "" && of.Member != c.Member {
			continue
		}
		for _, user := range of.Users {
			if dir := pins[user]; dir != "" {
				paths = append(paths, dir+"/"+c.Map)
			}
		}
	}
	return paths
}

// renew finds where objects pin a map by its name that may start anew for all
// who share it there.
func renew(all []*made) {
	type sharing struct {
		of  *chain.Map
		all bool
	}
	known := map[string]*sharing{}
	each := func(f func(m *made, of *chain.Map, at string)) {
		for _, m := range all {
			if m.err != nil {
				continue
			}
			pins := m.pins()
			for i := range m.light.Maps {
				of := &m.light.Maps[i]
				for _, user := range of.Users {
					if of.ByName && pins[user] != "" {
						f(m, of, path.Join(pins[user], of.Name))
					}
				}
			}
		}
	}
	each(func(m *made, of *chain.Map, at string) {
		if known[at] == nil {
			known[at] = &sharing{of, true}
		}
		s := known[at]
		s.all = s.all && slices.Contains(m.reset, of.Member) && chain.SameShape(s.of.Spec, of.Spec) == ""
	})
	for _, m := range all {
		m.renew = nil
	}
	each(func(m *made, _ *chain.Map, at string) {
		if known[at].all {
			m.renew = append(m.renew, at)
		}
	})
}
