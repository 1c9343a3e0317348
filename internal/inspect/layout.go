package inspect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	gomaps "maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

// layout is what a BTF object says of some of its types. It is found in one
// walk, without reading the tens of thousands of others of a kernel.
type layout struct {
	offsets map[string]uint32 // bytes, of members: "file.f_op"
	funcs   map[string]uint32 // ids, of functions
}

// vmlinux is the types of the running kernel. release ends their use. Linux maps
// them since 6.16, older ones copy 5 MB, which takes as long as the search in them.
func vmlinux() (raw []byte, release func(), err error) {
	f, err := os.Open("/sys/kernel/btf/vmlinux")
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if raw, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE); err == nil {
		return raw, func() { _ = unix.Munmap(raw) }, nil
	}
	raw, err = io.ReadAll(f)
	return raw, func() {}, err
}

// anyBTF opens a BTF object, whichever is there.
func anyBTF() (*bpfsys.Open, error) {
	for id, ok, err := bpfsys.NextID(bpfsys.BTF, 0); ok || err != nil; id, ok, err = bpfsys.NextID(bpfsys.BTF, id) {
		if err != nil {
			return nil, err
		}
		if o, err := bpfsys.ByID(bpfsys.BTF, id, 0); err == nil {
			return o, nil
		}
	}
	return nil, errors.New("the kernel has no BTF")
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
	// Few types are of a kind that is looked for: comparing the names of these is
	// quicker than looking for each name among all first.
	is := func(at uint32, name string) bool {
		end := uint64(at) + uint64(len(name))
		return end < uint64(len(strings)) && strings[end] == 0 && string(strings[at:end]) == name
	}
	l := &layout{map[string]uint32{}, map[string]uint32{}}
	structs := map[string][]string{} // the members looked for
	for _, m := range members {
		structs[m[0]] = append(structs[m[0]], m[1])
	}
	names := slices.Collect(gomaps.Keys(structs))
	missing := len(members) + len(funcs)
	for id := uint32(1); len(types) >= 12 && missing > 0; id++ {
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
			for _, f := range funcs {
				if l.funcs[f] == 0 && is(name, f) {
					l.funcs[f] = id
					missing--
				}
			}
		case kindStruct:
			for _, s := range names {
				if !is(name, s) {
					continue
				}
				for at := uint64(12); at < size; at += 12 {
					for _, m := range structs[s] {
						if !is(u32(types[at:]), m) {
							continue
						}
						if _, again := l.offsets[s+"."+m]; !again {
							missing--
						}
						l.offsets[s+"."+m] = u32(types[at+8:]) & 0xffffff / 8
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
