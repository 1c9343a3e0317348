package kernel

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"

	"l3af/internal/chain"
	"l3af/internal/host"
)

// MapIDs gives the IDs of the maps of a chain that are pinned at the target's
// own place, by their index in c.Maps: 0 for one that is not there, or not
// pinned. While the kernel is up it gives no ID twice.
func (k *Kernel) MapIDs(t host.Target, c *chain.Chain) ([]uint32, error) {
	if err := checkTarget(t); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.recoverMaps(t); err != nil {
		return nil, err
	}
	ids := make([]uint32, len(c.Maps))
	for i := range c.Maps {
		m := &c.Maps[i]
		if !m.Pinned {
			continue
		}
		id, err := mapID(k.mapPath(t, c.ID, m))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !notOurs(err) {
			return nil, fmt.Errorf("%s: open pin: %w", title(m), err)
		}
		ids[i] = uint32(id)
	}
	return ids, nil
}

// Read gives the values of entries of the maps of a target's chain: one, or of
// a per-CPU map one for each possible CPU. They are nil where there is no such
// map or entry. It waits for no change that is under way.
func (k *Kernel) Read(t host.Target, c *chain.Chain, keys []host.MapKey) ([][][]byte, error) {
	if err := checkTarget(t); err != nil {
		return nil, err
	}
	open := map[*chain.Map]*ebpf.Map{}
	defer func() {
		for _, m := range open {
			m.Close()
		}
	}()
	values := make([][][]byte, len(keys))
	for i, key := range keys {
		of := find(c, key.Member, key.Instance, key.Map)
		if of == nil || !of.Pinned {
			continue
		}
		m, ok := open[of]
		if !ok {
			var err error
			m, err = ebpf.LoadPinnedMap(k.mapPath(t, c.ID, of), &ebpf.LoadPinOptions{ReadOnly: true})
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !notOurs(err) {
				return nil, fmt.Errorf("%s: open pin: %w", title(of), err)
			}
			open[of] = m // nil: nothing there; its Close does nothing
		}
		if m == nil || int(m.KeySize()) != len(key.Key) {
			continue
		}
		value, err := m.LookupBytes(key.Key)
		if err != nil {
			return nil, fmt.Errorf("%s: entry %x: %w", title(of), key.Key, err)
		}
		if value != nil {
			values[i] = perCPU(m, value)
		}
	}
	return values, nil
}

// perCPU takes what LookupBytes gives apart: of a per-CPU map the values of all
// possible CPUs, each padded to 8 bytes.
func perCPU(m *ebpf.Map, value []byte) [][]byte {
	size := int(m.ValueSize())
	stride := (size + 7) &^ 7
	switch m.Type() {
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash:
	default:
		return [][]byte{value}
	}
	var values [][]byte
	for at := 0; at+size <= len(value); at += stride {
		values = append(values, value[at:at+size])
	}
	return values
}
