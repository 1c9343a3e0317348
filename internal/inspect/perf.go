package inspect

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"l3af/internal/bpfsys"
)

// PerfEvent is a descriptor of a process with a program bound to a kernel
// event, in bpftool's words: of the fields after FDType only those of that type
// are there.
type PerfEvent struct {
	PID        int     `json:"pid"`
	FD         int     `json:"fd"`
	ProgID     uint32  `json:"prog_id"`
	FDType     string  `json:"fd_type"` // raw_tracepoint, tracepoint, kprobe, kretprobe, uprobe, uretprobe
	Tracepoint *string `json:"tracepoint,omitempty"`
	Func       *string `json:"func,omitempty"`
	Addr       *uint64 `json:"addr,omitempty"` // of a probe that names no function
	Filename   *string `json:"filename,omitempty"`
	Offset     *uint64 `json:"offset,omitempty"` // bytes, in the function or file
	Comm       string  `json:"comm,omitempty"`
}

// PerfEvents finds the perf events and raw tracepoints with programs that
// processes hold open, by process and descriptor.
//
// The kernel answers only root. Processes that end meanwhile are left out.
func PerfEvents() ([]PerfEvent, error) {
	list := []PerfEvent{}
	pids, err := numbers("/proc")
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, _ := numbers(dir)
		for _, fd := range fds {
			switch to, _ := os.Readlink(filepath.Join(dir, strconv.Itoa(fd))); to {
			case "anon_inode:[perf_event]", "anon_inode:bpf_link", "anon_inode:bpf-link", "anon_inode:bpf-raw-tracepoint":
			default:
				continue
			}
			if q, err := bpfsys.QueryFD(pid, fd); err == nil {
				list = append(list, perfEvent(pid, fd, q))
			}
		}
	}
	return list, nil
}

// numbers lists the entries of a directory that are numbers, in their order.
func numbers(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, nil
}

func perfEvent(pid, fd int, q *bpfsys.TaskFD) PerfEvent {
	e := PerfEvent{PID: pid, FD: fd, ProgID: q.Program, Comm: comm(pid)}
	switch q.Type {
	case bpfsys.FDRawTracepoint:
		e.FDType, e.Tracepoint = "raw_tracepoint", &q.Name
	case bpfsys.FDTracepoint:
		e.FDType, e.Tracepoint = "tracepoint", &q.Name
	case bpfsys.FDKprobe, bpfsys.FDKretprobe:
		e.FDType = "kprobe"
		if q.Type == bpfsys.FDKretprobe {
			e.FDType = "kretprobe"
		}
		if q.Name == "" {
			e.Addr = &q.Address
		} else {
			e.Func, e.Offset = &q.Name, &q.Offset
		}
	case bpfsys.FDUprobe, bpfsys.FDUretprobe:
		e.FDType = "uprobe"
		if q.Type == bpfsys.FDUretprobe {
			e.FDType = "uretprobe"
		}
		e.Filename, e.Offset = &q.Name, &q.Offset
	default:
		e.FDType = strconv.Itoa(int(q.Type))
	}
	return e
}
