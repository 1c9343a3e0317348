package bpfsys

import (
	"runtime"
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

// LinkIterator links an iterator's program, to go through what belongs to a process
// only, where it goes by processes and pid is not 0 (Linux 6.1).
func LinkIterator(p Handle, pid uint32) (*Open, error) {
	info := []uint32{0, pid, 0} // union bpf_iter_link_info, task: tid, pid, pid_fd
	if pid == 0 {
		info = nil
	}
	attr := struct {
		prog, target, attach, flags uint32
		info                        Pointer
		size, _                     uint32
	}{prog: uint32(p.FD()), attach: unix.BPF_TRACE_ITER, info: PointerTo(info), size: uint32(4 * len(info))}
	fd, err := CallFD(unix.BPF_LINK_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(p)
	if err != nil {
		return nil, err
	}
	return &Open{fd}, nil
}

// RunIterator gives a descriptor to read what the program of an iterator's link
// writes, once.
func RunIterator(link Handle) (fd int, err error) {
	attr := struct{ link, flags uint32 }{link: uint32(link.FD())}
	fd, err = CallFD(unix.BPF_ITER_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(link)
	return fd, err
}
