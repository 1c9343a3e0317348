package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/host"
)

// writeContents makes a map hold what is wanted and returns how many entries
// it changed: none the second time. Entries that are right are left alone.
func writeContents(m *ebpf.Map, want *host.Contents) (int, error) {
	changed, err := 0, error(nil)
	if want.Full {
		var w *writer
		if w, err = newWriter(m, want.Entries, want.Present); err == nil && w.array {
			changed, err = w.writeArray()
		} else if err == nil {
			changed, err = w.writeKeys()
		}
	} else {
		changed, err = writePatches(m, want.Patches)
	}
	if err != nil {
		return changed, err
	}
	made, err := makeEntries(m, want.Present)
	return changed + made, err
}

// makeEntries makes an entry, all zero, for each of the keys that has none,
// and returns how many it made. What a program makes meanwhile stays. Where
// programs have filled the map, one is not made: what it is for, to be looked
// at, is no reason to hold up a change.
func makeEntries(m *ebpf.Map, keys [][]byte) (int, error) {
	if len(keys) == 0 {
		return 0, nil
	}
	w, err := newWriter(m, nil, nil)
	if err != nil || w.array {
		return 0, err // every index has a value
	}
	none, err := w.value([][]byte{make([]byte, m.ValueSize())})
	if err != nil {
		return 0, err
	}
	made := 0
	for _, key := range keys {
		if _, err := w.key(key); err != nil {
			return made, err
		}
		if have, err := m.LookupBytes(key); err != nil {
			return made, err
		} else if have != nil {
			continue
		}
		err := w.update(key, none, ebpf.UpdateNoExist)
		// No place: E2BIG, of a trie ENOSPC.
		if errors.Is(err, ebpf.ErrKeyExist) || errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
			continue
		} else if err != nil {
			return made, fmt.Errorf("entry %x: %w", key, err)
		}
		made++
	}
	return made, nil
}

// writer makes a map hold wanted entries and nothing else.
type writer struct {
	m      *ebpf.Map
	perCPU bool
	array  bool            // every index has a value, none can be deleted
	slots  bool            // every index is a key, whether it has a value or not
	stay   map[string]bool // keys that may have an entry though none is wanted
	order  []string
	want   map[string][]byte // in the layout of LookupBytes
}

func newWriter(m *ebpf.Map, entries []host.Entry, stay [][]byte) (*writer, error) {
	w := &writer{m: m, want: make(map[string][]byte, len(entries)), stay: make(map[string]bool, len(stay))}
	switch m.Type() {
	case ebpf.Array:
		w.array = true
	case ebpf.PerCPUArray:
		w.array, w.perCPU = true, true
	case ebpf.PerCPUHash, ebpf.LRUCPUHash:
		w.perCPU = true
	case ebpf.DevMap, ebpf.CPUMap:
		w.slots = true
	case ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie, ebpf.DevMapHash:
	default:
		return nil, fmt.Errorf("a map of type %s cannot be given contents", m.Type())
	}
	for i, e := range entries {
		key, err := w.key(e.Key)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		value, err := w.value(e.Values)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if w.slots && zero(value) {
			continue // as if it were not there
		}
		if _, again := w.want[key]; !again {
			w.order = append(w.order, key)
		}
		w.want[key] = value
	}
	for _, k := range stay {
		key, err := w.key(k)
		if err != nil {
			return nil, err
		}
		w.stay[key] = true
	}
	if n := len(w.want); uint32(n) > m.MaxEntries() {
		return nil, fmt.Errorf("%d entries do not fit: the map has place for %d", n, m.MaxEntries())
	}
	return w, nil
}

// key checks a key and makes it the only one of its meaning.
func (w *writer) key(key []byte) (string, error) {
	if len(key) != int(w.m.KeySize()) {
		return "", fmt.Errorf("the key has %d bytes, the map's have %d", len(key), w.m.KeySize())
	}
	switch w.m.Type() {
	case ebpf.Array, ebpf.PerCPUArray, ebpf.DevMap, ebpf.CPUMap:
		if i := binary.NativeEndian.Uint32(key); i >= w.m.MaxEntries() {
			return "", fmt.Errorf("index %d is out of range: the map has %d entries", i, w.m.MaxEntries())
		}
	case ebpf.LPMTrie:
		return canonicalPrefix(key)
	}
	return string(key), nil
}

// canonicalPrefix clears the bits behind the prefix: the trie ignores them, so
// keys that differ there are one (struct bpf_lpm_trie_key in linux/bpf.h).
func canonicalPrefix(key []byte) (string, error) {
	if len(key) < 4 {
		return "", errors.New("the key has no place for a prefix length")
	}
	n := binary.NativeEndian.Uint32(key)
	data := slices.Clone(key)[4:]
	if n > uint32(len(data))*8 {
		return "", fmt.Errorf("prefix length %d is more than the key's %d bits", n, len(data)*8)
	}
	for i := range data {
		switch bits := int(n) - i*8; {
		case bits <= 0:
			data[i] = 0
		case bits < 8:
			data[i] &= 0xff << (8 - bits)
		}
	}
	return string(key[:4]) + string(data), nil
}

// value lays wanted values out as the kernel gives them: those of a per-CPU
// map follow one another, each padded to 8 bytes.
func (w *writer) value(values [][]byte) ([]byte, error) {
	size := int(w.m.ValueSize())
	for _, v := range values {
		if len(v) != size {
			return nil, fmt.Errorf("the value has %d bytes, the map's have %d", len(v), size)
		}
	}
	if !w.perCPU {
		if len(values) != 1 {
			return nil, fmt.Errorf("%d values for one entry", len(values))
		}
		if program := devValue(w.m.Type()); program && size > 4 && !zero(values[0][4:]) {
			return nil, fmt.Errorf("a program in an entry of a %s cannot be written", w.m.Type())
		}
		return slices.Clone(values[0]), nil
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	if len(values) != 1 && len(values) != cpus {
		return nil, fmt.Errorf("%d values for one entry of a per-CPU map: want 1, or one for each of %d possible CPUs", len(values), cpus)
	}
	stride := (size + 7) &^ 7
	all := make([]byte, cpus*stride)
	for cpu := range cpus {
		copy(all[cpu*stride:], values[cpu%len(values)])
	}
	return all, nil
}

// devValue reports whether values may name a program behind their first four
// bytes (struct bpf_devmap_val, struct bpf_cpumap_val): written as a
// descriptor, read as an id.
func devValue(t ebpf.MapType) bool {
	return t == ebpf.DevMap || t == ebpf.DevMapHash || t == ebpf.CPUMap
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// writeArray sets every index that is not as wanted; zero where nothing is.
func (w *writer) writeArray() (int, error) {
	none, err := w.value([][]byte{make([]byte, w.m.ValueSize())})
	if err != nil {
		return 0, err
	}
	changed := 0
	key := make([]byte, 4)
	for i := range w.m.MaxEntries() {
		binary.NativeEndian.PutUint32(key, i)
		want, ok := w.want[string(key)]
		if !ok {
			want = none
		}
		have, err := w.m.LookupBytes(key)
		if err != nil {
			return changed, err
		}
		if bytes.Equal(have, want) {
			continue
		}
		if err := w.put(key, want); err != nil {
			return changed, fmt.Errorf("entry %d: %w", i, err)
		}
		changed++
	}
	return changed, nil
}

// writeKeys adds and changes entries, then deletes those that are not wanted:
// a packet meanwhile finds an entry that stays. Only where both together do
// not fit, the unwanted ones go first.
func (w *writer) writeKeys() (int, error) {
	have, err := w.keys()
	if err != nil {
		return 0, err
	}
	var stale []string
	for key := range have {
		if _, ok := w.want[key]; !ok && !w.stay[key] {
			stale = append(stale, key)
		}
	}
	slices.Sort(stale)
	changed := 0
	remove := func() error {
		for _, key := range stale {
			err := w.m.Delete([]byte(key))
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("entry %x: %w", key, err)
			}
			changed++
		}
		stale = nil
		return nil
	}
	if uint32(len(stale)+len(w.want)+len(w.stay)) > w.m.MaxEntries() && !w.slots {
		if err := remove(); err != nil {
			return changed, err
		}
	}
	for _, key := range w.order {
		if have[key] {
			now, err := w.m.LookupBytes([]byte(key))
			if err != nil {
				return changed, err
			}
			if bytes.Equal(now, w.want[key]) {
				continue
			}
		}
		if err := w.put([]byte(key), w.want[key]); err != nil {
			return changed, fmt.Errorf("entry %x: %w", key, err)
		}
		changed++
	}
	return changed, remove()
}

// keys lists the keys that have a value.
func (w *writer) keys() (map[string]bool, error) {
	have := map[string]bool{}
	// Programs may add and remove entries meanwhile, and after a removed one
	// the kernel starts again from the first. What is missed then is found
	// the next time.
	tries := 2*uint64(w.m.MaxEntries()) + 16
	for last := any(nil); tries > 0; tries-- {
		key, err := w.m.NextKeyBytes(last)
		if err != nil {
			return nil, err
		}
		if key == nil {
			break
		}
		last = key
		if w.slots {
			v, err := w.m.LookupBytes(key)
			if err != nil {
				return nil, err
			}
			if v == nil || zero(v) {
				continue
			}
		}
		if w.m.Type() == ebpf.LPMTrie {
			c, err := canonicalPrefix(key)
			if err != nil {
				return nil, err
			}
			have[c] = true
			continue
		}
		have[string(key)] = true
	}
	return have, nil
}

// put writes one entry from the layout of LookupBytes.
func (w *writer) put(key, value []byte) error { return w.update(key, value, ebpf.UpdateAny) }

func (w *writer) update(key, value []byte, how ebpf.MapUpdateFlags) error {
	if !w.perCPU {
		err := w.m.Update(key, value, how)
		if w.m.Type() == ebpf.DevMap || w.m.Type() == ebpf.DevMapHash {
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("no interface has the index %d: %w", binary.NativeEndian.Uint32(value), err)
			}
		}
		return err
	}
	return w.m.Update(key, perCPU(w.m, value), how)
}

// writePatches writes wanted bytes into the value of a data section and
// returns how many patches were not there yet. Bytes beside them, which
// programs may be writing, stay as they are.
func writePatches(m *ebpf.Map, patches []host.Patch) (int, error) {
	if len(patches) == 0 {
		return 0, nil
	}
	if m.Type() != ebpf.Array || m.MaxEntries() != 1 {
		return 0, fmt.Errorf("a %s with %d entries is not a data section", m.Type(), m.MaxEntries())
	}
	size := int(m.ValueSize())
	for _, p := range patches {
		if p.Offset < 0 || p.Offset > size || len(p.Data) > size-p.Offset {
			return 0, fmt.Errorf("%d bytes at %d are outside of the section's %d", len(p.Data), p.Offset, size)
		}
	}
	var data []byte
	if m.Flags()&unix.BPF_F_MMAPABLE != 0 {
		page := unix.Getpagesize()
		mem, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return 0, fmt.Errorf("map the section into memory: %w", err)
		}
		defer unix.Munmap(mem)
		data = mem[:size]
	} else {
		var err error
		if data, err = m.LookupBytes(uint32(0)); err != nil {
			return 0, err
		}
	}
	changed := 0
	for _, p := range patches {
		if at := data[p.Offset : p.Offset+len(p.Data)]; !bytes.Equal(at, p.Data) {
			copy(at, p.Data)
			changed++
		}
	}
	if changed > 0 && m.Flags()&unix.BPF_F_MMAPABLE == 0 {
		return changed, m.Put(uint32(0), data)
	}
	return changed, nil
}
