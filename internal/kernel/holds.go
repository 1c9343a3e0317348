package kernel

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/kconfig"
)

// A map that holds others is made behind them. What an adopted map holds stays
// as it is; only arrays of programs are made anew with each chain.

// first adds to a map's spec what it holds at first: the kernel's
// configuration, and the maps in s.
func (s *mapSet) first(m *chain.Map, spec *ebpf.MapSpec) error {
	if m.Name == chain.KconfigName {
		section, ok := spec.Value.(*btf.Datasec)
		if !ok {
			return errors.New("the map does not say which variables it holds")
		}
		data, err := kconfig.Resolve(section)
		if err != nil {
			return err
		}
		spec.Contents = []ebpf.MapKV{{Key: uint32(0), Value: data}}
	}
	for _, h := range m.Holds {
		if h.Program != nil {
			continue
		}
		inner := s.find(h.Ref)
		if inner == nil {
			return fmt.Errorf("holds the map %s, which the chain does not have", h.Ref)
		}
		spec.Contents = append(spec.Contents, ebpf.MapKV{Key: h.Key, Value: inner.m})
	}
	return nil
}

func (s *mapSet) find(ref string) *openMap {
	if s == nil {
		return nil
	}
	for i := range s.list {
		if s.list[i].Ref == ref {
			return &s.list[i]
		}
	}
	return nil
}

// fill loads the programs that tail calls of the chain's programs reach, and
// puts them into the arrays that were made.
func (s *mapSet) fill(load host.Load) error {
	chained := load.Chain.Program
	// One program may be in several slots.
	progs := map[*ebpf.ProgramSpec]*ebpf.Program{}
	defer func() {
		for _, p := range progs {
			p.Close()
		}
	}()
	for _, o := range s.list {
		if !o.made {
			continue
		}
		for _, h := range o.Holds {
			if h.Program == nil {
				continue
			}
			p := progs[h.Program]
			if p == nil {
				spec := h.Program.Copy()
				// The kernel wants all programs of an array to agree in these.
				spec.Type, spec.AttachType, spec.Flags = chained.Type, chained.AttachType, chained.Flags
				if err := s.bind(spec.Instructions); err != nil {
					return err
				}
				var err error
				if p, err = ebpf.NewProgram(spec); err != nil {
					if rejected := (*ebpf.VerifierError)(nil); errors.As(err, &rejected) {
						err = &verifierError{rejected}
					}
					return fmt.Errorf("%s: load %s: %w", title(o.Map), h.Program.Name, err)
				}
				progs[h.Program] = p
			}
			if err := o.m.Put(h.Key, p); err != nil {
				return fmt.Errorf("%s: put %s: %w", title(o.Map), h.Program.Name, err)
			}
		}
	}
	return nil
}

// inOrder lists the maps of a chain so that no map comes before one it holds.
func inOrder(c *chain.Chain) []*chain.Map {
	var plain, holding []*chain.Map
	for i := range c.Maps {
		if m := &c.Maps[i]; len(m.Holds) == 0 {
			plain = append(plain, m)
		} else {
			holding = append(holding, m)
		}
	}
	return append(plain, holding...)
}

// tiedPath is the directory of the pinned maps that are part of chains: those
// of one chain, by its ID, or of all where that is "".
func (k *Kernel) tiedPath(t host.Target, id string) string {
	return filepath.Join(k.path(t), "programs", escape(id))
}

// tidyTied removes the arrays of programs of all chains but keep. A CPU may run
// such a chain for the moment, whose tail calls must not fail.
func (k *Kernel) tidyTied(t host.Target, keep string) error {
	waited := false
	dir := k.tiedPath(t, "")
	ids, err := k.entries(dir)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id == escape(keep) {
			continue
		}
		if !waited {
			k.quiesce()
			waited = true
		}
		if err := removePins(filepath.Join(dir, id)); err != nil {
			return err
		}
	}
	return nil
}
