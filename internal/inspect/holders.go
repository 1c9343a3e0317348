package inspect

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l3af/internal/bpfsys"
)

//go:embed bpf/holders.bpf.o
var holdersObject []byte

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

	by map[bpfsys.Kind]map[uint32][]Holder
}

func newHolders() *Holders {
	return &Holders{by: map[bpfsys.Kind]map[uint32][]Holder{bpfsys.Prog: {}, bpfsys.Map: {}, bpfsys.BTF: {}, bpfsys.Link: {}}}
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

// ReadHolders asks which processes hold programs, maps, links and BTF. What
// this process holds itself is left out.
func ReadHolders() (*Holders, error) {
	h := newHolders()
	err := h.iterate()
	if err == nil {
		h.Iterator = true
		return h, nil
	}
	h = newHolders()
	h.Why = err
	return h, h.readProc()
}

// record is struct holder of bpf/holders.bpf.c.
type record struct {
	Kind, ID, PID uint32
	Comm          [16]byte
}

func (h *Holders) iterate() error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(holdersObject))
	if err != nil {
		return err
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return err
	}
	defer coll.Close()
	prog := coll.Programs["holders"]
	it, err := link.AttachIter(link.IterOptions{Program: prog})
	if err != nil {
		return err
	}
	defer it.Close()
	types, err := prog.Handle()
	if err != nil {
		return err
	}
	defer types.Close()
	own := [...]uint32{bpfsys.Prog: uint32(prog.FD()), bpfsys.Map: uint32(coll.Maps[".bss"].FD()), bpfsys.BTF: uint32(types.FD()), bpfsys.Link: uint32(it.FD())}
	if err := coll.Variables["own"].Set(own); err != nil {
		return err
	}
	var all []byte
	for _, learn := range []uint32{1, 0} {
		if err := coll.Variables["learn"].Set(learn); err != nil {
			return err
		}
		if all, err = pass(it); err != nil {
			return err
		}
	}
	for size := binary.Size(record{}); len(all) >= size; all = all[size:] {
		var rec record
		if _, err := binary.Decode(all, binary.NativeEndian, &rec); err != nil {
			return err
		}
		h.add(bpfsys.Kind(rec.Kind), rec.ID, Holder{rec.PID, bpfsys.Text(rec.Comm[:])})
	}
	return nil
}

func pass(it *link.Iter) ([]byte, error) {
	r, err := it.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read iterator: %w", err)
	}
	return all, nil
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
