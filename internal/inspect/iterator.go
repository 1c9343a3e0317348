package inspect

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	gomaps "maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l3af/internal/bpfsys"
)

//go:embed bpf/holders.bpf.o
var holdersObject []byte

// record is struct holder of bpf/holders.bpf.c.
type record struct {
	Kind, ID, PID uint32
	Comm          [16]byte
}

// holdersState is the variable of bpf/holders.bpf.c by the name of state.
type holdersState struct {
	Learn uint32
	Own   [4]uint32 // by kind
	_     uint32
	Ops   [4]uint64
}

// holdersMembers are the variables of bpf/holders.bpf.c that say where members
// of the kernel's structs are.
var holdersMembers = map[string][2]string{
	"task_tgid": {"task_struct", "tgid"}, "task_comm": {"task_struct", "comm"}, "task_group_leader": {"task_struct", "group_leader"},
	"file_f_op": {"file", "f_op"}, "file_private_data": {"file", "private_data"},
	"prog_aux": {"bpf_prog", "aux"}, "prog_pages": {"bpf_prog", "pages"}, "aux_id": {"bpf_prog_aux", "id"}, "map_id": {"bpf_map", "id"}, "btf_id": {"btf", "id"}, "link_id": {"bpf_link", "id"},
}

// iterator is the programs of bpf/holders.bpf.c in the kernel.
type iterator struct {
	types *bpfsys.Open // any BTF
	data  map[string]*ebpf.Map
	progs map[string]*ebpf.Program
	iters map[string]*link.Iter
}

func (i *iterator) Close() {
	for _, it := range i.iters {
		it.Close()
	}
	for _, p := range i.progs {
		p.Close()
	}
	for _, m := range i.data {
		m.Close()
	}
	if i.types != nil {
		i.types.Close()
	}
}

// targets are the functions of the kernel that the programs are attached to.
var targets = map[string]string{"holders": "bpf_iter_task_file", "sizes": "bpf_iter_bpf_prog"}

// load loads the programs by itself: what cilium/ebpf reads of the kernel's BTF
// to load them takes longer than all the rest.
func (i *iterator) load() error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(holdersObject))
	if err != nil {
		return err
	}
	if i.types, err = anyBTF(); err != nil {
		return err
	}
	raw, release, err := vmlinux()
	if err != nil {
		return err
	}
	l, err := findLayout(raw, slices.Collect(gomaps.Values(holdersMembers)), slices.Collect(gomaps.Values(targets)))
	release()
	if err != nil {
		return err
	}
	offsets := make([]byte, spec.Maps[".rodata"].ValueSize)
	for name, m := range holdersMembers {
		binary.NativeEndian.PutUint32(offsets[spec.Variables[name].Offset:], l.offsets[m[0]+"."+m[1]])
	}
	spec.Maps[".rodata"].Contents = []ebpf.MapKV{{Key: uint32(0), Value: offsets}}
	i.data = map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		m.Key, m.Value = nil, nil // types that only people would look at
		made, err := ebpf.NewMap(m)
		if err != nil {
			return err
		}
		i.data[name] = made
	}
	i.progs, i.iters = map[string]*ebpf.Program{}, map[string]*link.Iter{}
	for name, target := range targets {
		var code bytes.Buffer
		insns := spec.Programs[name].Instructions
		for k := range insns {
			if m := i.data[insns[k].Reference()]; m != nil {
				if err := insns[k].AssociateMap(m); err != nil {
					return err
				}
			}
		}
		if err := insns.Marshal(&code, spec.ByteOrder); err != nil {
			return err
		}
		open, err := bpfsys.LoadIterator(name, code.Bytes(), l.funcs[target])
		if err != nil {
			return fmt.Errorf("load iterator: %w", err)
		}
		if i.progs[name], err = ebpf.NewProgramFromFD(open.Take()); err != nil {
			return err
		}
		if i.iters[name], err = link.AttachIter(link.IterOptions{Program: i.progs[name]}); err != nil {
			return err
		}
	}
	return nil
}

// ids are those of what is loaded.
func (i *iterator) ids() (map[bpfsys.Kind][]uint32, error) {
	ids := map[bpfsys.Kind][]uint32{}
	for name := range targets {
		var p bpfsys.ProgInfo
		var l bpfsys.LinkInfo
		if err := errors.Join(bpfsys.Info(i.progs[name], &p), bpfsys.Info(i.iters[name], &l)); err != nil {
			return nil, err
		}
		ids[bpfsys.Prog], ids[bpfsys.Link] = append(ids[bpfsys.Prog], p.ID), append(ids[bpfsys.Link], l.ID)
	}
	for _, m := range i.data {
		var info bpfsys.MapInfo
		if err := bpfsys.Info(m, &info); err != nil {
			return nil, err
		}
		ids[bpfsys.Map] = append(ids[bpfsys.Map], info.ID)
	}
	return ids, nil
}

// run gives what a program writes.
func (i *iterator) run(name string) ([]byte, error) {
	r, err := i.iters[name].Open()
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

// pass goes through all descriptors and gives what the program wrote. A pass
// that learns finds out what the operations of each kind are.
func (i *iterator) pass(learn bool) ([]byte, error) {
	bss := i.data[".bss"]
	var state holdersState
	if err := bss.Lookup(uint32(0), &state); err != nil {
		return nil, err
	}
	if state.Learn = 0; learn {
		state.Learn = 1
		state.Own = [...]uint32{
			bpfsys.Prog: uint32(i.progs["holders"].FD()), bpfsys.Map: uint32(bss.FD()), bpfsys.BTF: uint32(i.types.FD()), bpfsys.Link: uint32(i.iters["holders"].FD()),
		}
	}
	if err := bss.Put(uint32(0), &state); err != nil {
		return nil, err
	}
	return i.run("holders")
}

// iterate asks the kernel.
func (h *Holders) iterate() error {
	var i iterator
	defer i.Close()
	if err := i.load(); err != nil {
		return err
	}
	var err error
	if h.ours, err = i.ids(); err != nil {
		return err
	}
	if _, err := i.pass(true); err != nil {
		return err
	}
	all, err := i.pass(false)
	if err != nil {
		return err
	}
	for size := binary.Size(record{}); len(all) >= size; all = all[size:] {
		var rec record
		if _, err := binary.Decode(all, binary.NativeEndian, &rec); err != nil {
			return err
		}
		h.add(bpfsys.Kind(rec.Kind), rec.ID, Holder{rec.PID, bpfsys.Text(rec.Comm[:])})
	}
	if all, err = i.run("sizes"); err != nil {
		return err
	}
	h.pages = make(map[uint32]uint32, len(all)/8)
	for ; len(all) >= 8; all = all[8:] {
		h.pages[binary.NativeEndian.Uint32(all)] = binary.NativeEndian.Uint32(all[4:])
	}
	return nil
}
