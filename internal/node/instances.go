package node

import (
	"bytes"
	"fmt"
	"slices"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// user is a program or probe that names a package instance.
type user struct {
	member   string
	path     string // chains[2].programs[0]
	instance string
	digest   string // of its package
}

// instance is what the users of a package instance agree on.
type instance struct {
	first  user
	maps   map[string]sharedMap
	wanted map[string]*wanted // by map
}

type sharedMap struct {
	of chain.Map
	by string // path of a user
}

// wanted is what the document says of a shared map, and where.
type wanted struct {
	full    []host.Entry
	fullBy  string // path of the user; "": none
	patches map[int]patch
	present [][]byte // keys that one of them wants to be there
}

type patch struct {
	host.Patch
	by string
}

// share makes the users of package instances agree: they are of one package,
// their maps are the same, and so is what the document wants in them. Who does
// not agree with one before it has a mistake. What one says holds for all:
// the defaults of the package do not stand against it.
func share(all []*made) {
	instances := map[string]*instance{}
	for _, m := range all {
		if m.err != nil {
			continue
		}
		if wrong := m.join(instances); len(wrong) > 0 {
			m.err = &l3af.InvalidError{Mistakes: wrong}
		}
	}
	for _, m := range all {
		if m.err == nil {
			m.contents = merge(m.own, instances)
		}
	}
	agree(all)
	renew(all)
}

func (m *made) join(instances map[string]*instance) (wrong []l3af.Mistake) {
	fail := func(path, hint, format string, args ...any) {
		wrong = append(wrong, l3af.Mistake{Path: path, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	paths := map[string]string{}
	for _, u := range m.users {
		paths[u.member] = u.path
		in := instances[u.instance]
		if in == nil {
			instances[u.instance] = &instance{first: u, maps: map[string]sharedMap{}, wanted: map[string]*wanted{}}
		} else if in.first.digest != u.digest {
			fail(u.path+".instance", "give it another name", "instance %s is of another package at %s", u.instance, in.first.path)
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	shared := m.light.Maps
	if m.built != nil && m.built.shared != nil {
		shared = m.built.shared // they know their types
	}
	for _, of := range shared {
		if of.Instance == "" {
			continue
		}
		in := instances[of.Instance]
		if in == nil { // of the data sections of one of several objects
			in = &instance{maps: map[string]sharedMap{}, wanted: map[string]*wanted{}}
			instances[of.Instance] = in
		}
		have, ok := in.maps[of.Name]
		if !ok {
			in.maps[of.Name] = sharedMap{of, paths[of.Member]}
		} else if d := chain.SameShape(have.of.Spec, of.Spec); d != "" {
			fail(paths[of.Member]+".instance", "", "its map %s is not that of %s, which has the same instance: %s", of.Name, have.by, d)
		}
	}
	for _, c := range m.own {
		if c.Instance == "" {
			continue
		}
		in, by := instances[c.Instance], paths[c.Member]
		w := in.wanted[c.Map]
		if w == nil {
			w = &wanted{patches: map[int]patch{}}
			in.wanted[c.Map] = w
		}
		w.present = union(w.present, c.Present)
		if c.Full && !c.Default {
			if w.fullBy == "" {
				w.full, w.fullBy = c.Entries, by
			} else if !sameEntries(w.full, c.Entries) {
				fail(by+".maps."+c.Map, "write the same, or leave it out", "is not what %s wants in the map, which they share (instance %s)", w.fullBy, c.Instance)
			}
		}
		for _, p := range c.Patches {
			if p.Default {
				continue
			}
			if have, ok := w.patches[p.Offset]; !ok {
				w.patches[p.Offset] = patch{p, by}
			} else if !bytes.Equal(have.Data, p.Data) {
				fail(by+".config."+p.Variable, "write the same, or leave it out", "is not what %s wants of the variable, which they share (instance %s)", have.by, c.Instance)
			}
		}
	}
	return wrong
}

// merge gives the contents of a chain's own maps as they are, and each of the
// shared ones once, as its instance wants it.
func merge(own []host.Contents, instances map[string]*instance) []host.Contents {
	var out []host.Contents
	for _, c := range own {
		if c.Instance == "" {
			out = append(out, c)
			continue
		}
		w := instances[c.Instance].wanted[c.Map]
		if c.Full && c.Default && w.fullBy != "" {
			c.Entries, c.Default = w.full, false
		}
		c.Present, c.Patches = w.present, slices.Clone(c.Patches)
		for i, p := range c.Patches {
			if said, ok := w.patches[p.Offset]; ok {
				c.Patches[i] = said.Patch
			}
		}
		i := slices.IndexFunc(out, func(o host.Contents) bool { return o.Instance == c.Instance && o.Map == c.Map })
		if i < 0 {
			out = append(out, c)
			continue
		}
		if c.Full && !out[i].Full {
			out[i].Full, out[i].Entries, out[i].Default = true, c.Entries, c.Default
		}
		for _, p := range c.Patches {
			if !slices.ContainsFunc(out[i].Patches, func(o host.Patch) bool { return o.Offset == p.Offset }) {
				out[i].Patches = append(out[i].Patches, p)
			}
		}
	}
	return out
}

// union adds the keys that are not there to a list of its own.
func union(keys, more [][]byte) [][]byte {
	for _, k := range more {
		if !slices.ContainsFunc(keys, func(o []byte) bool { return bytes.Equal(o, k) }) {
			keys = append(slices.Clip(keys), k)
		}
	}
	return keys
}

// sameEntries compares entries in any order.
func sameEntries(a, b []host.Entry) bool {
	if len(a) != len(b) {
		return false
	}
	have := make(map[string][][]byte, len(a))
	for _, e := range a {
		have[string(e.Key)] = e.Values
	}
	for _, e := range b {
		values, ok := have[string(e.Key)]
		if !ok || !slices.EqualFunc(values, e.Values, bytes.Equal) {
			return false
		}
	}
	return true
}
