package inspect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"l3af/internal/bpfsys"
)

// layout is what a BTF object says of some of its types. It is found in one
// walk, without reading the tens of thousands of others of a kernel.
type layout struct {
	offsets map[string]uint32 // bytes, of members: "file.f_op"
	funcs   map[string]uint32 // ids, of functions
}

// openVmlinux opens the types of the running kernel and reads them.
func openVmlinux() (*bpfsys.Open, []byte, error) {
	for id, ok, err := bpfsys.NextID(bpfsys.BTF, 0); ok || err != nil; id, ok, err = bpfsys.NextID(bpfsys.BTF, id) {
		if err != nil {
			return nil, nil, err
		}
		o, err := bpfsys.ByID(bpfsys.BTF, id, 0)
		if err != nil {
			continue // gone
		}
		name := make([]byte, 64) // MODULE_NAME_LEN
		info := bpfsys.BTFInfo{Name: bpfsys.PointerTo(name), NameLen: uint32(len(name))}
		if bpfsys.Info(o, &info) != nil || info.KernelBTF == 0 || bpfsys.Text(name) != "vmlinux" {
			o.Close()
			continue
		}
		raw := make([]byte, info.Size)
		info = bpfsys.BTFInfo{BTF: bpfsys.PointerTo(raw), Size: info.Size}
		if err := bpfsys.Info(o, &info); err != nil {
			o.Close()
			return nil, nil, err
		}
		return o, raw, nil
	}
	return nil, nil, errors.New("the kernel has no BTF")
}

// btfTails has, for the kinds of BTF that have something behind the 12 bytes of
// their type, the bytes per member and those before all members (linux/btf.h).
var btfTails = [...]struct{ each, once uint32 }{
	1:  {0, 4},  // INT
	3:  {0, 12}, // ARRAY
	4:  {12, 0}, // STRUCT
	5:  {12, 0}, // UNION
	6:  {8, 0},  // ENUM
	13: {8, 0},  // FUNC_PROTO
	14: {0, 4},  // VAR
	15: {12, 0}, // DATASEC
	17: {0, 4},  // DECL_TAG
	19: {12, 0}, // ENUM64
}

// findLayout looks for members of structs, each by the names of both, and for
// functions, in BTF of the machine's byte order. All must be there.
func findLayout(raw []byte, members [][2]string, funcs []string) (*layout, error) {
	const header, kindStruct, kindFunc = 24, 4, 12
	if len(raw) < header || binary.NativeEndian.Uint16(raw) != 0xeb9f {
		return nil, errors.New("not BTF")
	}
	u32 := func(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
	part := func(at int) ([]byte, error) {
		off, size := uint64(u32(raw[4:]))+uint64(u32(raw[at:])), uint64(u32(raw[at+4:]))
		if off+size > uint64(len(raw)) {
			return nil, errors.New("damaged BTF")
		}
		return raw[off : off+size], nil
	}
	types, err := part(8)
	if err != nil {
		return nil, err
	}
	strings, err := part(16)
	if err != nil {
		return nil, err
	}
	// Every name is there once: equal names have equal offsets.
	named := func(name string) uint32 { return uint32(bytes.Index(strings, []byte("\x00"+name+"\x00")) + 1) }
	l := &layout{map[string]uint32{}, map[string]uint32{}}
	type member struct {
		name uint32
		text string
	}
	structs, functions := map[uint32][]member{}, map[uint32]string{}
	for _, m := range members {
		s := named(m[0])
		structs[s] = append(structs[s], member{named(m[1]), m[0] + "." + m[1]})
	}
	for _, f := range funcs {
		functions[named(f)] = f
	}
	delete(structs, 0) // no such name
	delete(functions, 0)
	for id := uint32(1); len(types) >= 12; id++ {
		name, what := u32(types), u32(types[4:])
		kind, n := what>>24&0x1f, uint64(what&0xffff)
		size := uint64(12)
		if int(kind) < len(btfTails) {
			size += n*uint64(btfTails[kind].each) + uint64(btfTails[kind].once)
		}
		if size > uint64(len(types)) {
			return nil, errors.New("damaged BTF")
		}
		switch kind {
		case kindFunc:
			if f, ok := functions[name]; ok {
				l.funcs[f] = id
			}
		case kindStruct:
			for _, m := range structs[name] {
				for at := uint64(12); at < size; at += 12 {
					if u32(types[at:]) == m.name {
						l.offsets[m.text] = u32(types[at+8:]) & 0xffffff / 8
					}
				}
			}
		}
		types = types[size:]
	}
	for _, m := range members {
		if _, ok := l.offsets[m[0]+"."+m[1]]; !ok {
			return nil, fmt.Errorf("the kernel has no %s.%s", m[0], m[1])
		}
	}
	for _, f := range funcs {
		if l.funcs[f] == 0 {
			return nil, fmt.Errorf("the kernel has no %s", f)
		}
	}
	return l, nil
}
