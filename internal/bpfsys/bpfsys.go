// Package bpfsys makes the calls of bpf(2) that cilium/ebpf does not offer, and
// gives what it keeps to itself. It changes nothing by itself.
package bpfsys

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Handle is an open object of cilium/ebpf.
type Handle interface{ FD() int }

// ProgInfo is struct bpf_prog_info of linux/bpf.h. The fields that are pointers
// to user space say where parts of variable size go.
type ProgInfo struct {
	Type            uint32
	ID              uint32
	Tag             [8]byte
	JitedLen        uint32 // bytes
	XlatedLen       uint32 // bytes
	Jited           Pointer
	Xlated          Pointer
	LoadTime        uint64 // ns since boot (CLOCK_BOOTTIME)
	CreatedByUID    uint32
	NrMapIDs        uint32
	MapIDs          Pointer
	Name            [16]byte
	Ifindex         uint32 // of the device it is bound or offloaded to
	Flags           uint32 // bit 0: gpl_compatible
	NetnsDev        uint64
	NetnsIno        uint64
	NrJitedKsyms    uint32
	NrJitedFuncLens uint32
	JitedKsyms      Pointer
	JitedFuncLens   Pointer
	BTFID           uint32
	FuncInfoRecSize uint32
	FuncInfo        Pointer
	NrFuncInfo      uint32
	NrLineInfo      uint32
	LineInfo        Pointer
	JitedLineInfo   Pointer
	NrJitedLineInfo uint32
	LineInfoRecSize uint32
	JitedLineRec    uint32 // jited_line_info_rec_size
	NrProgTags      uint32
	ProgTags        Pointer
	RunTime         uint64 // ns, all CPUs
	RunCount        uint64
	RecursionMisses uint64
	VerifiedInsns   uint32
	AttachBTFObjID  uint32
	AttachBTFID     uint32
	_               uint32
}

// GPLCompatible says whether the licence lets the program use GPL-only helpers.
func (i *ProgInfo) GPLCompatible() bool { return i.Flags&1 != 0 }

// MapInfo is struct bpf_map_info of linux/bpf.h.
type MapInfo struct {
	Type                  uint32
	ID                    uint32
	KeySize               uint32 // bytes
	ValueSize             uint32 // bytes, for one CPU
	MaxEntries            uint32
	Flags                 uint32
	Name                  [16]byte
	Ifindex               uint32
	BTFVmlinuxValueTypeID uint32
	NetnsDev              uint64
	NetnsIno              uint64
	BTFID                 uint32
	BTFKeyTypeID          uint32
	BTFValueTypeID        uint32
	BTFVmlinuxID          uint32
	Extra                 uint64
}

// BTFInfo is struct bpf_btf_info of linux/bpf.h.
type BTFInfo struct {
	BTF       Pointer
	Size      uint32 // bytes
	ID        uint32
	Name      Pointer
	NameLen   uint32
	KernelBTF uint32 // 1: of the kernel or a module
}

// LinkInfo is struct bpf_link_info of linux/bpf.h. Of is the union that
// depends on Type.
type LinkInfo struct {
	Type   uint32
	ID     uint32
	ProgID uint32
	_      uint32
	Of     [12]uint64
}

// Pointer is a pointer to user space as the structs of 64-bit kernels hold it.
type Pointer struct{ p unsafe.Pointer }

// PointerTo is where b begins, or a null pointer where it is empty.
func PointerTo[T any](b []T) Pointer {
	if len(b) == 0 {
		return Pointer{}
	}
	return Pointer{unsafe.Pointer(unsafe.SliceData(b))}
}

// Info fills info with what the kernel says of an object (BPF_OBJ_GET_INFO_BY_FD).
// Parts of variable size go where the caller's pointers in info say. A kernel
// that knows less leaves the rest as it is.
func Info[T ProgInfo | MapInfo | BTFInfo | LinkInfo](h Handle, info *T) error {
	attr := struct {
		fd, size uint32
		info     Pointer
	}{uint32(h.FD()), uint32(unsafe.Sizeof(*info)), Pointer{unsafe.Pointer(info)}}
	err := Call(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(h)
	return err
}

// Call is bpf(2) with an attribute of the caller's. The error is a [unix.Errno].
func Call(cmd int, attr unsafe.Pointer, size uintptr) error {
	_, err := CallFD(cmd, attr, size)
	return err
}

// CallFD is [Call] for commands that give a descriptor.
func CallFD(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		fd, errno := uintptr(0), unix.Errno(0)
		if looksUp(cmd) {
			fd, _, errno = unix.RawSyscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		} else {
			fd, _, errno = unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		}
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR:
			continue
		}
		return -1, errno
	}
}

// looksUp says of commands that they never wait. The scheduler need not know of
// these: it would hand the processor to another thread and back time and again.
func looksUp(cmd int) bool {
	switch cmd {
	case unix.BPF_OBJ_GET_INFO_BY_FD,
		unix.BPF_PROG_GET_NEXT_ID, unix.BPF_MAP_GET_NEXT_ID, unix.BPF_BTF_GET_NEXT_ID, unix.BPF_LINK_GET_NEXT_ID,
		unix.BPF_PROG_GET_FD_BY_ID, unix.BPF_MAP_GET_FD_BY_ID, unix.BPF_BTF_GET_FD_BY_ID, unix.BPF_LINK_GET_FD_BY_ID:
		return true
	}
	return false
}

// Text is the text of a NUL-terminated name.
func Text(b []byte) string { return unix.ByteSliceToString(b) }
