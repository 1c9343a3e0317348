package bpfsys

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls for single entries take keys and values as the kernel has them:
// of per-CPU maps a value for each possible CPU, each of a multiple of 8 bytes.
// A queue or stack has no keys: nil.

// Lookup reads the value of a key into value.
func Lookup(m Handle, key, value []byte) error {
	return entry(unix.BPF_MAP_LOOKUP_ELEM, m, key, value, 0)
}

// LookupAndDelete is Lookup, and the entry is gone.
func LookupAndDelete(m Handle, key, value []byte) error {
	return entry(unix.BPF_MAP_LOOKUP_AND_DELETE_ELEM, m, key, value, 0)
}

// Update writes an entry. Flags are BPF_ANY, BPF_NOEXIST, BPF_EXIST.
func Update(m Handle, key, value []byte, flags uint64) error {
	return entry(unix.BPF_MAP_UPDATE_ELEM, m, key, value, flags)
}

// Delete deletes an entry.
func Delete(m Handle, key []byte) error { return entry(unix.BPF_MAP_DELETE_ELEM, m, key, nil, 0) }

// NextKey reads the key behind another into next; the first where key is nil,
// or one that is not there. The error is ENOENT behind the last.
func NextKey(m Handle, key, next []byte) error {
	return entry(unix.BPF_MAP_GET_NEXT_KEY, m, key, next, 0)
}

func entry(cmd int, m Handle, key, value []byte, flags uint64) error {
	attr := struct {
		fd, _      uint32
		key, value Pointer
		flags      uint64
	}{fd: uint32(m.FD()), key: PointerTo(key), value: PointerTo(value), flags: flags}
	err := Call(cmd, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(m)
	return err
}

// LookupBatch reads up to count entries into keys and values, which must have
// room for them, and says how many. It begins where position says, which is
// nil at first and what the last call left in next later. It has as many bytes
// as a key, and at least 4. The last entries come with ENOENT. ENOSPC means that
// count is too small, and nothing was read.
func LookupBatch(m Handle, position, next, keys, values []byte, count int) (int, error) {
	attr := struct {
		in, out, keys, values Pointer
		count, fd             uint32
		elemFlags, flags      uint64
	}{
		in: PointerTo(position), out: PointerTo(next), keys: PointerTo(keys), values: PointerTo(values),
		count: uint32(count), fd: uint32(m.FD()),
	}
	err := Call(unix.BPF_MAP_LOOKUP_BATCH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(m)
	return int(attr.count), err
}
