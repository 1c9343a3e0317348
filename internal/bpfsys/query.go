package bpfsys

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Attachment is one program at an attach point.
type Attachment struct {
	Program uint32 // id
	Link    uint32 // id; 0: attached without a link, or to a point that tells no links (cgroups)
	// Flags are BPF_F_ALLOW_MULTI and the like, of the program alone where the
	// kernel tells them.
	Flags     uint32
	LinkFlags uint32
}

// Attachments are what is at one attach point, in the order in which it runs.
type Attachments struct {
	Programs []Attachment
	Flags    uint32 // of the attach point; cgroups: BPF_F_ALLOW_MULTI, BPF_F_ALLOW_OVERRIDE
	Revision uint64 // changes with every attach and detach; TCX and netkit
}

// QueryEffective asks for all that runs, inherited programs included.
const QueryEffective = unix.BPF_F_QUERY_EFFECTIVE

// Query lists the programs at an attach point (BPF_PROG_QUERY). Target is a
// descriptor of a cgroup, network namespace or map, or an interface's index.
//
// errors.Is(err, unix.EINVAL): this kernel has no such attach type.
func Query(target int, attachType, flags uint32) (*Attachments, error) {
	type query struct {
		target, attachType, queryFlags, attachFlags uint32
		programs                                    Pointer
		count, _                                    uint32
		programFlags, links, linkFlags              Pointer
		revision                                    uint64
	}
	for n := 16; ; {
		ids, links := make([]uint32, n), make([]uint32, n)
		progFlags, linkFlags := make([]uint32, n), make([]uint32, n)
		q := query{
			target: uint32(target), attachType: attachType, queryFlags: flags,
			programs: PointerTo(ids), count: uint32(n), programFlags: PointerTo(progFlags),
			links: PointerTo(links), linkFlags: PointerTo(linkFlags),
		}
		if flags&QueryEffective != 0 {
			q.programFlags = Pointer{} // the kernel has none of what is inherited, and says EINVAL
		}
		err := Call(unix.BPF_PROG_QUERY, unsafe.Pointer(&q), unsafe.Sizeof(q))
		if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.EINVAL) {
			// A kernel before 6.6 knows no links: it refuses what it does not know.
			q.links, q.linkFlags, q.count = Pointer{}, Pointer{}, uint32(n)
			err = Call(unix.BPF_PROG_QUERY, unsafe.Pointer(&q), unsafe.Offsetof(q.links))
		}
		if errors.Is(err, unix.ENOSPC) {
			n = max(2*n, int(q.count))
			continue
		}
		if err != nil {
			return nil, err
		}
		a := &Attachments{Flags: q.attachFlags, Revision: q.revision}
		for i := range min(int(q.count), n) {
			a.Programs = append(a.Programs, Attachment{ids[i], links[i], progFlags[i], linkFlags[i]})
		}
		return a, nil
	}
}

// TaskFD is what a descriptor of a process has to do with BPF.
type TaskFD struct {
	Program uint32 // id
	Type    uint32 // enum bpf_task_fd_type
	Name    string // of the tracepoint, function or file
	Offset  uint64 // in the function or file
	Address uint64
}

// The values of [TaskFD.Type].
const (
	FDRawTracepoint = iota
	FDTracepoint
	FDKprobe
	FDKretprobe
	FDUprobe
	FDUretprobe
)

// QueryFD looks at a descriptor of a process (BPF_TASK_FD_QUERY).
// errors.Is(err, unix.ENOTSUP) or unix.ENOENT: it has no program.
func QueryFD(pid, fd int) (*TaskFD, error) {
	name := make([]byte, 4096)
	q := struct {
		pid, fd, flags, size uint32
		name                 Pointer
		program, kind        uint32
		offset, address      uint64
	}{pid: uint32(pid), fd: uint32(fd), size: uint32(len(name)), name: PointerTo(name)}
	if err := Call(unix.BPF_TASK_FD_QUERY, unsafe.Pointer(&q), unsafe.Sizeof(q)); err != nil {
		return nil, err
	}
	return &TaskFD{q.program, q.kind, Text(name), q.offset, q.address}, nil
}
