package node

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"l3af"
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

// agree makes programs agree that share a map because its object pins it by its
// name and they name one directory: what one wants in it is what all want, and
// the defaults of a package do not stand against it.
func agree(all []*made) {
	type said struct {
		entries []host.Entry
		by      string // path in the document
	}
	known := map[string]said{}
	for _, m := range all {
		if m.err != nil {
			continue
		}
		var wrong []l3af.Mistake
		for _, c := range m.own {
			path := m.sharedOutside(c)
			if path == "" || !c.Full || c.Default {
				continue
			}
			by := m.path
			if m.chain != nil {
				by = m.programPath(c.Member)
			}
			if first, ok := known[path]; !ok {
				known[path] = said{c.Entries, by}
			} else if !sameEntries(first.entries, c.Entries) {
				wrong = append(wrong, l3af.Mistake{Path: by + ".maps." + c.Map, Hint: "write the same, or leave it out",
					Message: fmt.Sprintf("is not what %s wants in the map, which they share (%s)", first.by, path)})
			}
		}
		if len(wrong) > 0 {
			m.err = &l3af.InvalidError{Mistakes: wrong}
		}
	}
	for _, m := range all {
		for i, c := range m.contents {
			path := m.sharedOutside(c)
			if _, ok := known[path]; ok && path != "" && c.Default {
				m.contents = slices.Clone(m.contents)
				m.contents[i].Full, m.contents[i].Entries = false, nil
			}
		}
	}
}

// sharedOutside is where the map of contents is found that the object pins by
// its name; "" for others.
func (m *made) sharedOutside(c host.Contents) string {
	dir := m.pins()[c.Member]
	if dir == "" {
		return ""
	}
	for i := range m.light.Maps {
		if of := &m.light.Maps[i]; slices.Contains(of.Users, c.Member) && of.Name == c.Map && of.ByName {
			return dir + "/" + c.Map
		}
	}
	return ""
}
