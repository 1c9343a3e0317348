package inspect

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"fmt"
	gomaps "maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

//go:embed bpf/holders.bpf.o
var holdersObject []byte

// iteratorSpec is an object whose programs are iterators.
type iteratorSpec struct {
	object  []byte
	members map[string][2]string // members of the kernel's structs, by the variable that says where each is
	targets map[string]string    // functions of the kernel that the programs are attached to
}

// holdersIterator is bpf/holders.bpf.c.
var holdersIterator = iteratorSpec{
	object: holdersObject,
	members: map[string][2]string{
		"task_tgid": {"task_struct", "tgid"}, "task_comm": {"task_struct", "comm"}, "task_group_leader": {"task_struct", "group_leader"},
		"file_f_op": {"file", "f_op"}, "file_private_data": {"file", "private_data"},
		"prog_aux": {"bpf_prog", "aux"}, "prog_pages": {"bpf_prog", "pages"}, "aux_id": {"bpf_prog_aux", "id"}, "map_id": {"bpf_map", "id"}, "btf_id": {"btf", "id"}, "link_id": {"bpf_link", "id"},
	},
	targets: map[string]string{"holders": "bpf_iter_task_file", "sizes": "bpf_iter_bpf_prog"},
}

// recordSize is that of struct holder of bpf/holders.bpf.c: kind, id and pid of 4
// bytes each, comm of 16.
const recordSize = 28

// holdersState is the variable of bpf/holders.bpf.c by the name of state.
type holdersState struct {
	Learn uint32
	Own   [4]uint32 // by kind
	_     uint32
	Ops   [4]uint64
}

// iterator is the programs of an [iteratorSpec] in the kernel. All is made by bare
// calls: cilium/ebpf tries first what the kernel can do, which takes as long as the rest.
type iterator struct {
	data  map[string]*bpfsys.Open
	progs map[string]*bpfsys.Open
	iters map[string]*bpfsys.Open // by program, and learn: holders, of this process only
}

// learn is the link to the program holders that sees only this process.
const learn = "learn"

func (i *iterator) Close() {
	for _, some := range []map[string]*bpfsys.Open{i.iters, i.progs, i.data} {
		for _, o := range some {
			o.Close()
		}
	}
}

// load loads the programs by itself: what cilium/ebpf reads of the kernel's BTF
// to load them takes longer than all the rest.
func (i *iterator) load(of iteratorSpec) error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(of.object))
	if err != nil {
		return err
	}
	raw, release, err := vmlinux()
	if err != nil {
		return err
	}
	l, err := findLayout(raw, slices.Collect(gomaps.Values(of.members)), slices.Collect(gomaps.Values(of.targets)))
	release()
	if err != nil {
		return err
	}
	offsets := make([]byte, spec.Maps[".rodata"].ValueSize)
	for name, m := range of.members {
		binary.NativeEndian.PutUint32(offsets[spec.Variables[name].Offset:], l.offsets[m[0]+"."+m[1]])
	}
	i.data = map[string]*bpfsys.Open{}
	for name, m := range spec.Maps {
		fd, err := bpfsys.CreateMap(&bpfsys.MapSpec{
			Name: name, Type: uint32(m.Type), KeySize: m.KeySize, ValueSize: m.ValueSize, MaxEntries: m.MaxEntries, Flags: m.Flags,
		})
		if err != nil {
			return fmt.Errorf("make map %s: %w", name, err)
		}
		i.data[name] = bpfsys.NewOpen(fd)
	}
	constants := i.data[".rodata"]
	if err := bpfsys.Update(constants, make([]byte, 4), offsets, unix.BPF_ANY); err != nil {
		return fmt.Errorf("write offsets: %w", err)
	}
	if err := bpfsys.Freeze(constants); err != nil { // the verifier then knows them
		return fmt.Errorf("freeze offsets: %w", err)
	}
	i.progs, i.iters = map[string]*bpfsys.Open{}, map[string]*bpfsys.Open{}
	for name, target := range of.targets {
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
		if i.progs[name], err = bpfsys.LoadIterator(name, code.Bytes(), l.funcs[target]); err != nil {
			delete(i.progs, name)
			return fmt.Errorf("load iterator: %w", err)
		}
		if err := i.link(name, name, 0); err != nil {
			return err
		}
	}
	return nil
}

// link links a program to go through what there is, of all processes where pid is 0.
func (i *iterator) link(name, program string, pid int) error {
	l, err := bpfsys.LinkIterator(i.progs[program], uint32(pid))
	if err != nil {
		return fmt.Errorf("link iterator: %w", err)
	}
	i.iters[name] = l
	return nil
}

// ids are those of what is loaded.
func (i *iterator) ids() (map[bpfsys.Kind][]uint32, error) {
	ids := map[bpfsys.Kind][]uint32{}
	for _, o := range i.progs {
		var info bpfsys.ProgInfo
		if err := bpfsys.Info(o, &info); err != nil {
			return nil, err
		}
		ids[bpfsys.Prog] = append(ids[bpfsys.Prog], info.ID)
	}
	for _, o := range i.iters {
		var info bpfsys.LinkInfo
		if err := bpfsys.Info(o, &info); err != nil {
			return nil, err
		}
		ids[bpfsys.Link] = append(ids[bpfsys.Link], info.ID)
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
	fd, err := bpfsys.RunIterator(i.iters[name])
	if err != nil {
		return nil, fmt.Errorf("run iterator: %w", err)
	}
	defer unix.Close(fd)
	var all []byte
	for {
		all = slices.Grow(all, 32<<10) // what the kernel gives at once
		n, err := unix.Read(fd, all[len(all):cap(all)])
		switch {
		case err == unix.EINTR, err == unix.EAGAIN: // a million descriptors of other things
		case err != nil:
			return nil, fmt.Errorf("read iterator: %w", err)
		case n == 0:
			return all, nil
		default:
			all = all[:len(all)+n]
		}
	}
}

// learn finds out what the operations of each kind are, for holders.
func (i *iterator) learn() error {
	types, err := anyBTF()
	if err != nil {
		return err
	}
	defer types.Close()
	bss, key := i.data[".bss"], make([]byte, 4)
	state := holdersState{Learn: 1, Own: [...]uint32{
		bpfsys.Prog: uint32(i.progs["holders"].FD()), bpfsys.Map: uint32(bss.FD()), bpfsys.BTF: uint32(types.FD()), bpfsys.Link: uint32(i.iters["holders"].FD()),
	}}
	value := make([]byte, binary.Size(state))
	if _, err := binary.Encode(value, binary.NativeEndian, &state); err != nil {
		return err
	}
	if err := bpfsys.Update(bss, key, value, unix.BPF_ANY); err != nil {
		return err
	}
	if _, err := i.run(learn); err != nil {
		return err
	}
	if err := bpfsys.Lookup(bss, key, value); err != nil {
		return err
	}
	binary.NativeEndian.PutUint32(value, 0) // Learn
	return bpfsys.Update(bss, key, value, unix.BPF_ANY)
}

// iterate asks the kernel.
func (h *Holders) iterate() error {
	var i iterator
	defer i.Close()
	err := i.load(holdersIterator)
	if err == nil {
		// Linux sees to one process only since 6.1.
		if err = i.link(learn, "holders", os.Getpid()); err != nil {
			err = i.link(learn, "holders", 0)
		}
	}
	if err != nil {
		return err
	}
	if h.ours, err = i.ids(); err != nil {
		return err
	}
	if err := i.learn(); err != nil {
		return fmt.Errorf("learn operations: %w", err)
	}
	all, err := i.run("holders")
	if err != nil {
		return err
	}
	for u32 := binary.NativeEndian.Uint32; len(all) >= recordSize; all = all[recordSize:] {
		h.add(bpfsys.Kind(u32(all)), u32(all[4:]), Holder{u32(all[8:]), bpfsys.Text(all[12:recordSize])})
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
