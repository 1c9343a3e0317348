// Package entries reads and writes what is in maps of any type, as bytes.
package entries

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/btftext"
)

// Map is an open map, and what is needed to read and write its entries.
type Map struct {
	bpfsys.Handle
	Info bpfsys.MapInfo
	CPUs int // how many values an entry has; 0: one that is not a CPU's
	// Untyped is why its BTF does not tell what keys and values are, although it
	// has some; else nil.
	Untyped error

	key, value *btftext.Formatter // nil: BTF does not say
}

// Open takes an open map, which the caller closes, and reads the types of its
// keys and values.
func Open(h bpfsys.Handle) (*Map, error) {
	m := &Map{Handle: h}
	if err := bpfsys.Info(h, &m.Info); err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	switch m.Type() {
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.PerCPUCGroupStorage:
		n, err := ebpf.PossibleCPU()
		if err != nil {
			return nil, err
		}
		m.CPUs = n
	}
	m.Untyped = m.types()
	return m, nil
}

// Type is the type of the map.
func (m *Map) Type() ebpf.MapType { return ebpf.MapType(m.Info.Type) }

// Name is the kernel's name of the map.
func (m *Map) Name() string { return bpfsys.Text(m.Info.Name[:]) }

// String names the map in errors.
func (m *Map) String() string { return fmt.Sprintf("map %d %s", m.Info.ID, m.Name()) }

// Size is how many bytes the value of an entry has, for all CPUs.
func (m *Map) Size() int {
	switch {
	case m.CPUs > 0:
		return m.CPUs * m.stride()
	case m.holdsFDs():
		return 4
	}
	return int(m.Info.ValueSize)
}

// stride is how far the values of two CPUs are from one another.
func (m *Map) stride() int { return int(m.Info.ValueSize+7) &^ 7 }

// Values are the values of an entry, one for each CPU, or the one there is.
func (m *Map) Values(value []byte) [][]byte {
	if m.CPUs == 0 {
		return [][]byte{value}
	}
	list := make([][]byte, m.CPUs)
	for i := range list {
		list[i] = value[i*m.stride():][:m.Info.ValueSize]
	}
	return list
}

// Spread makes the value of an entry from that of one CPU: the same for all.
func (m *Map) Spread(value []byte) []byte {
	if m.CPUs == 0 {
		return value
	}
	all := make([]byte, m.Size())
	for i := range m.CPUs {
		copy(all[i*m.stride():], value)
	}
	return all
}

// OfMaps says whether the values are maps.
func (m *Map) OfMaps() bool { return m.Type() == ebpf.ArrayOfMaps || m.Type() == ebpf.HashOfMaps }

// OfPrograms says whether the values are programs.
func (m *Map) OfPrograms() bool { return m.Type() == ebpf.ProgramArray }

// holdsFDs says whether the kernel keeps something behind a descriptor in the
// entries, whose id is read.
func (m *Map) holdsFDs() bool { return m.OfMaps() || m.OfPrograms() }

// Keyless says whether entries have no keys: of queues, stacks, filters.
func (m *Map) Keyless() bool { return m.Info.KeySize == 0 }

// ErrNotListed is wrapped by errors about maps whose entries cannot be listed.
var ErrNotListed = errors.New("its entries cannot be listed")

// listed says why the entries of a map cannot be listed.
func (m *Map) listed() error {
	why := ""
	switch m.Type() {
	case ebpf.Queue:
		why = "a queue shows only its head: peek or dequeue"
	case ebpf.Stack:
		why = "a stack shows only its top: peek or pop"
	case ebpf.RingBuf:
		why = "a ring buffer is read by its consumer: event_pipe"
	case ebpf.UserRingbuf:
		why = "programs read it, and user space writes it"
	case ebpf.BloomFilter:
		why = "a bloom filter only tells whether a value may be in it"
	case ebpf.Arena:
		why = "an arena is memory without entries"
	case ebpf.SkStorage, ebpf.InodeStorage, ebpf.TaskStorage, ebpf.CgroupStorage:
		why = "it is kept with what it is about"
	default:
		if m.Keyless() {
			why = "they have no keys"
		} else {
			return nil
		}
	}
	return fmt.Errorf("%w: %s", ErrNotListed, why)
}

// Entry is a key and its value. Both are overwritten once the caller has seen them.
type Entry struct {
	Key, Value []byte // as the kernel has them: [bpfsys.Lookup]
	Err        error  // why there is no value
}

// batched says whether the kernel gives the entries of a map many at once
// without leaving out those without a value.
func (m *Map) batched() bool {
	switch m.Type() {
	case ebpf.Hash, ebpf.LRUHash, ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.Array, ebpf.PerCPUArray, ebpf.LPMTrie:
		return true
	}
	return false
}

// Batch is up to some thousand entries.
type Batch []Entry

const (
	batchBytes = 1 << 20 // of keys and values, about
	batchMost  = 8192
)

// Each calls f with the entries of the map. What changes meanwhile may be seen
// or not, and twice; it never makes the list longer than the map can be.
// It is [ErrNotListed] for maps without keys.
func (m *Map) Each(ctx context.Context, f func(Batch) error) error {
	if err := m.listed(); err != nil {
		return err
	}
	if m.batched() {
		err := m.batches(ctx, f)
		if !errors.Is(err, errNoBatches) {
			return err
		}
	}
	return m.oneByOne(ctx, f)
}

// ErrNotSupported is ENOTSUPP of the kernel, which user space has no name for.
const ErrNotSupported = unix.Errno(524)

// errNoBatches says that a kernel has no batches for a type, before anything was read.
var errNoBatches = errors.New("no batches")

func (m *Map) batches(ctx context.Context, f func(Batch) error) error {
	keySize, size := int(m.Info.KeySize), m.Size()
	count := min(max(batchBytes/(keySize+size), 16), batchMost, max(int(m.Info.MaxEntries), 1))
	var keys, values []byte
	var batch Batch
	position, next := []byte(nil), make([]byte, max(keySize, 4))
	for left := int(m.Info.MaxEntries); left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(batch) != count {
			keys, values, batch = make([]byte, count*keySize), make([]byte, count*size), make(Batch, count)
			for i := range batch {
				batch[i] = Entry{Key: keys[i*keySize:][:keySize], Value: values[i*size:][:size]}
			}
		}
		n, err := bpfsys.LookupBatch(m, position, next, keys, values, count)
		switch {
		case errors.Is(err, unix.ENOSPC) && count < 1<<24: // more entries in one bucket
			count *= 2
			continue
		case position == nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, ErrNotSupported)):
			return errNoBatches
		case err != nil && !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("read %s: %w", m, err)
		}
		if n = min(n, left); n > 0 {
			if err := f(batch[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
		left -= n
		position = append(position[:0], next...)
	}
	return nil
}

func (m *Map) oneByOne(ctx context.Context, f func(Batch) error) error {
	e := Entry{Key: make([]byte, m.Info.KeySize), Value: make([]byte, m.Size())}
	key := []byte(nil)
	for range m.Info.MaxEntries {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := bpfsys.NextKey(m, key, e.Key)
		if errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s: next key: %w", m, err)
		}
		key = append(key[:0], e.Key...)
		if e.Err = bpfsys.Lookup(m, e.Key, e.Value); e.Err != nil && m.gone(e.Err) {
			continue
		}
		if err := f(Batch{e}); err != nil {
			return err
		}
	}
	return nil
}

// gone says whether an entry without a value is none: it was deleted since its
// key was read, or it is an empty place of an array of programs or maps.
func (m *Map) gone(err error) bool {
	if !errors.Is(err, unix.ENOENT) {
		return false
	}
	switch m.Type() {
	case ebpf.DevMap, ebpf.CPUMap, ebpf.XSKMap, ebpf.SockMap, ebpf.ReusePortSockArray, ebpf.PerfEventArray, ebpf.CGroupArray:
		return false // empty places, as bpftool shows them
	}
	return true
}

// Text is what the C library says of an error, as bpftool prints it.
func Text(err error) string {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	if unix.ErrnoName(errno) == "" {
		return fmt.Sprintf("Unknown error %d", int(errno))
	}
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}
