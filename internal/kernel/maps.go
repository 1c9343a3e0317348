package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"l3af/internal/chain"
	"l3af/internal/host"
)

// mapSet is the open maps of a chain.
type mapSet struct {
	list   []openMap
	pinned []string // paths that this call pinned
}

type openMap struct {
	*chain.Map
	m    *ebpf.Map
	path string // "" for read-only data
	made bool   // by this call
	// outside: where else the map may be found that is to be adopted.
	outside []string
	found   bool // there, and not pinned at path
	// pins are what was at path and outside before it was opened; nil: nothing.
	pins []os.FileInfo
	// aside: where a map that starts anew waits to take the place of the one
	// pinned at path; "" for others.
	aside string
	want  *host.Contents
}

// title names a map in messages.
func title(m *chain.Map) string {
	switch {
	case m.Member == "":
		return "counters"
	case m.Instance != "":
		return "map " + m.Name + " of instance " + m.Instance
	}
	return "map " + m.Member + "/" + m.Name
}

// openMaps opens the pinned maps of a chain and makes the ones that are not
// there, not yet pinned, with the contents they are wanted to have. Nothing
// that others see changes.
func (k *Kernel) openMaps(load host.Load) (*mapSet, error) {
	s := &mapSet{}
	wanted, err := byMap(load.Chain, load.Contents)
	if err != nil {
		return nil, err
	}
	outside, err := outsidePins(load.Chain, load.Pins)
	if err != nil {
		return nil, err
	}
	for _, m := range inOrder(load.Chain) {
		o := openMap{Map: m, want: wanted[m]}
		if m.ByName && !m.Tied() && !k.apart {
			for _, p := range outside {
				if p.Map == m && k.findable(p.path) {
					o.outside = append(o.outside, p.path)
				}
			}
		}
		if m.Pinned {
			o.path = k.mapPath(load.Target, load.Chain.ID, m)
			if slices.Contains(load.Reset, m.Member) {
				o.aside = k.asidePath(load.Target, load.Chain.ID, o.path)
			}
		}
		if err := o.open(s); err != nil {
			s.Close()
			return nil, fmt.Errorf("%s: %w", title(m), err)
		}
		s.list = append(s.list, o)
		if o.made && o.want != nil {
			if _, err := writeContents(o.m, o.want); err != nil {
				s.Close()
				return nil, fmt.Errorf("%s: %w", title(m), err)
			}
		}
	}
	if err := s.fill(load); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// byMap finds the map that each contents are for.
func byMap(c *chain.Chain, contents []host.Contents) (map[*chain.Map]*host.Contents, error) {
	wanted := map[*chain.Map]*host.Contents{}
	for i := range contents {
		want := &contents[i]
		found := find(c, want.Member, want.Instance, want.Map)
		switch {
		case found == nil:
			return nil, fmt.Errorf("map %s/%s: contents for a map that the chain does not have", want.Member, want.Map)
		case !found.Pinned:
			return nil, fmt.Errorf("%s: contents for read-only data", title(found))
		case wanted[found] != nil:
			return nil, fmt.Errorf("%s: contents twice", title(found))
		}
		wanted[found] = want
	}
	return wanted, nil
}

// find is a map of a chain by whose it is and its name; nil if there is none.
func find(c *chain.Chain, member, instance, name string) *chain.Map {
	for i := range c.Maps {
		m := &c.Maps[i]
		if m.Member == "" || m.Name != name || m.Instance != "" && m.Instance != instance {
			continue
		}
		// A shared map is here as that of one of the members.
		if m.Instance != "" || m.Member == member {
			return m
		}
	}
	return nil
}

// open adopts the map pinned at o.path, or makes one: where nothing is pinned,
// and where another map is and o.aside says that it may be replaced.
func (o *openMap) open(s *mapSet) error {
	if o.Spec == nil {
		return errors.New("no specification")
	}
	spec := o.Spec.Copy()
	spec.Pinning = ebpf.PinNone // where maps are pinned is our business
	o.pins = o.look()
	if o.path != "" {
		m, err := adopt(o.path, spec)
		changed := (*changedError)(nil)
		switch {
		case err == nil:
			if o.aside != "" && o.join(m, spec) {
				return nil
			}
			o.m, o.aside = m, ""
			return nil
		case errors.As(err, &changed) && o.aside != "":
		case errors.Is(err, fs.ErrNotExist):
			o.aside = ""
		default:
			return err
		}
	}
	for _, path := range o.outside {
		// What else may be there is told when the map is to be pinned there.
		if m, err := adopt(path, spec); err == nil {
			o.m, o.found = m, true
			return nil
		}
	}
	if err := s.first(o.Map, spec); err != nil {
		return err
	}
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	if o.path == "" {
		if err := freeze(m); err != nil {
			m.Close()
			return err
		}
	}
	o.m, o.made = m, true
	return nil
}

// join opens the map that others have where own is to be found as well: it
// takes the place of own, which may start anew.
func (o *openMap) join(own *ebpf.Map, spec *ebpf.MapSpec) bool {
	for _, path := range o.outside {
		m, err := adopt(path, spec)
		if err != nil {
			continue
		}
		if !sameMap(m, own) {
			own.Close()
			o.m, o.found = m, true
			return true
		}
		m.Close()
	}
	return false
}

func sameMap(a, b *ebpf.Map) bool {
	x, err := a.Info()
	if err != nil {
		return true
	}
	y, err := b.Info()
	if err != nil {
		return true
	}
	i, _ := x.ID()
	j, _ := y.ID()
	return i == j
}

// freeze makes read-only data constant, so that the verifier knows its values.
func freeze(m *ebpf.Map) error {
	if m.Flags()&unix.BPF_F_RDONLY_PROG == 0 {
		return nil
	}
	// EPERM: it is frozen, and so cannot be written (map_freeze in
	// kernel/bpf/syscall.c).
	if err := m.Freeze(); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	return nil
}

// look tells what is where the map may be pinned.
func (o *openMap) look() []os.FileInfo {
	pins := make([]os.FileInfo, 0, 1+len(o.outside))
	for _, path := range append([]string{o.path}, o.outside...) {
		var pin os.FileInfo
		if path != "" {
			pin, _ = os.Lstat(path)
		}
		pins = append(pins, pin)
	}
	return pins
}

// stale reports whether other maps are pinned by now than the open ones.
func (s *mapSet) stale() bool {
	return slices.ContainsFunc(s.list, func(o openMap) bool {
		return !slices.EqualFunc(o.pins, o.look(), func(was, is os.FileInfo) bool {
			return was == nil && is == nil || was != nil && is != nil && os.SameFile(was, is)
		})
	})
}

// bind makes the instructions refer to the maps. A map that no instruction
// refers to is no error: its pin keeps it.
func (s *mapSet) bind(insns asm.Instructions) error {
	open := make(map[string]*openMap, len(s.list))
	for i := range s.list {
		open[s.list[i].Ref] = &s.list[i]
	}
	for i := range insns {
		ins := &insns[i]
		if !ins.IsLoadFromMap() {
			continue
		}
		if o := open[ins.Reference()]; o != nil {
			if err := ins.AssociateMap(o.m); err != nil {
				return fmt.Errorf("%s: %w", title(o.Map), err)
			}
		}
	}
	return nil
}

// write gives the adopted maps the contents they are wanted to have.
func (s *mapSet) write() error {
	for _, o := range s.list {
		if o.made || o.want == nil {
			continue
		}
		if _, err := writeContents(o.m, o.want); err != nil {
			return fmt.Errorf("%s: %w", title(o.Map), err)
		}
	}
	return nil
}

// pin pins the maps that were made or found outside.
func (s *mapSet) pin() error {
	for _, o := range s.list {
		if !o.made && !o.found || o.path == "" {
			continue
		}
		path := o.path
		if o.aside != "" {
			path = o.aside
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("%s: pin: %w", title(o.Map), err)
		}
		if err := alsoPin(o.m, path); err != nil {
			return fmt.Errorf("%s: pin: %w", title(o.Map), err)
		}
		s.pinned = append(s.pinned, path)
	}
	return nil
}

// unpin takes pin back.
func (s *mapSet) unpin() {
	for _, path := range s.pinned {
		_ = os.Remove(path)
	}
	s.pinned = nil
}

func (s *mapSet) Close() {
	for _, o := range s.list {
		o.m.Close()
	}
}
