package inspect

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"l3af/internal/bpfsys"
)

// Holder is a process that has a descriptor of an object.
type Holder struct {
	PID  uint32 `json:"pid"`  // of the whole process, in the initial namespace when the iterator tells it
	Comm string `json:"comm"` // its name, of at most 15 bytes
}

// Holders are the processes that hold each object.
type Holders struct {
	// Iterator says that a program of ours in the kernel has seen every process.
	// Otherwise it was refused, for the reason Why, and what /proc shows was read:
	// processes of other pid namespaces are not in it.
	Iterator bool
	Why      error

	by   map[bpfsys.Kind]map[uint32][]Holder
	ours map[bpfsys.Kind][]uint32 // ids of what was loaded to find out

	pages map[uint32]uint32 // of memory, by program: the iterator has seen them all
}

func (h *Holders) reset() {
	h.by = map[bpfsys.Kind]map[uint32][]Holder{bpfsys.Prog: {}, bpfsys.Map: {}, bpfsys.BTF: {}, bpfsys.Link: {}}
}

// start reads while the caller does other things, until it calls wait. What was
// loaded for it may be seen meanwhile: see own.
func (h *Holders) start() (wait func() error) {
	if h == nil {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() { done <- h.Read() }()
	return func() error { return <-done }
}

// memlock is what a program takes, in bytes; 0 where the iterator has not seen it.
func (h *Holders) memlock(program uint32) uint64 {
	if h == nil {
		return 0
	}
	return uint64(h.pages[program]) * uint64(os.Getpagesize())
}

// own says whether an object was there only for finding out who holds which.
func (h *Holders) own(k bpfsys.Kind, id uint32) bool {
	return h != nil && slices.Contains(h.ours[k], id)
}

// Of are the processes that hold an object, by pid; none is nil.
func (h *Holders) Of(k bpfsys.Kind, id uint32) []Holder {
	if h == nil {
		return nil
	}
	return h.by[k][id]
}

func (h *Holders) add(k bpfsys.Kind, id uint32, p Holder) {
	list := h.by[k]
	if list == nil || slices.ContainsFunc(list[id], func(o Holder) bool { return o.PID == p.PID }) {
		return
	}
	list[id] = append(list[id], p)
	slices.SortFunc(list[id], func(a, b Holder) int { return int(a.PID) - int(b.PID) })
}

// Read asks which processes hold programs, maps, links and BTF. What this
// process holds itself is left out.
func (h *Holders) Read() error {
	h.reset()
	err := h.iterate()
	if err == nil {
		h.Iterator = true
		return nil
	}
	h.reset()
	h.Why = err
	return h.readProc()
}

// readProc reads the descriptors of every process in /proc. Processes that end
// meanwhile, or are not ours to look at, hold nothing.
func (h *Holders) readProc() error {
	pids, err := numbers("/proc")
	if err != nil {
		return fmt.Errorf("find who holds what: %w", err)
	}
	for _, pid := range pids {
		if pid == os.Getpid() {
			continue
		}
		fds, _ := numbers(fmt.Sprintf("/proc/%d/fd", pid))
		for _, fd := range fds {
			to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
			kind, ok := bpfsys.KindOf(to)
			if !ok {
				continue
			}
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
			if id, err := strconv.ParseUint(parseFdinfo(string(text))[idFields[kind]], 10, 32); err == nil {
				h.add(kind, uint32(id), Holder{uint32(pid), comm(pid)})
			}
		}
	}
	return nil
}

// idFields are the lines of fdinfo with the id.
var idFields = map[bpfsys.Kind]string{bpfsys.Prog: "prog_id", bpfsys.Map: "map_id", bpfsys.BTF: "btf_id", bpfsys.Link: "link_id"}
