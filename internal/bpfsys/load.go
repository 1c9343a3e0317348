package bpfsys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// LoadIterator loads an iterator's program (BPF_PROG_TYPE_TRACING): its
// instructions as the kernel has them, and the id of the function in the kernel's
// own BTF that it is attached to, bpf_iter_task_file for example. The licence is
// "Dual BSD/GPL". What the verifier says is not asked for.
func LoadIterator(name string, instructions []byte, target uint32) (*Open, error) {
	licence := []byte("Dual BSD/GPL\x00")
	attr := struct {
		kind, count        uint32
		insns, licence     Pointer
		logLevel, logSize  uint32
		log                Pointer
		version, flags     uint32
		name               [unix.BPF_OBJ_NAME_LEN]byte
		ifindex, attach    uint32
		btf, funcSize      uint32
		funcs              Pointer
		funcCount, linSize uint32
		lines              Pointer
		lineCount, target  uint32
	}{
		kind: unix.BPF_PROG_TYPE_TRACING, count: uint32(len(instructions) / 8), insns: PointerTo(instructions), licence: PointerTo(licence),
		attach: unix.BPF_TRACE_ITER, target: target,
	}
	copy(attr.name[:unix.BPF_OBJ_NAME_LEN-1], name)
	fd, err := CallFD(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, err
	}
	return &Open{fd}, nil
}
