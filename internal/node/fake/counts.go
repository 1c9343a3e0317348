package fake

import (
	"maps"
	"slices"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

func newCounter(id uint32, c *chain.Chain) *counter {
	n := &counter{id: id}
	for _, p := range c.Programs {
		n.programs = append(n.programs, chain.Count{Name: p.Name, Verdicts: map[l3af.Verdict]uint64{}})
	}
	return n
}

// Counts implements node.Kernel.
func (k *Kernel) Counts(t host.Target, _ bool) ([]host.Counts, error) {
	if err := k.before("Counts", t); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.targets[t]
	if s == nil {
		return nil, nil
	}
	var list []host.Counts
	for _, id := range slices.Sorted(maps.Keys(s.counters)) {
		c := host.Counts{ID: id, MapID: s.counters[id].id}
		for _, p := range s.counters[id].programs {
			p.Verdicts = maps.Clone(p.Verdicts)
			c.Programs = append(c.Programs, p)
		}
		list = append(list, c)
	}
	return list, nil
}

// DropCounts implements node.Kernel.
func (k *Kernel) DropCounts(t host.Target, chainID string) error {
	if err := k.before("DropCounts", t); err != nil {
		return err
	}
	k.change("drop counters "+chainID, func() {
		delete(k.target(t).counters, chainID)
		k.gone(t)
	})
	return nil
}
