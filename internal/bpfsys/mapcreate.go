package bpfsys

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MapSpec is a map to make. Sizes are in bytes.
type MapSpec struct {
	Name                           string // at most 15 bytes
	Type                           uint32
	KeySize, ValueSize, MaxEntries uint32
	Flags                          uint32
	Inner                          Handle // of maps of maps: what maps are like, else nil
	Ifindex                        uint32 // of the device the map is offloaded to, else 0
}

// CreateMap makes a map exactly as the kernel is told to.
func CreateMap(s *MapSpec) (fd int, err error) {
	attr := struct {
		typ, key, value, entries, flags, inner, numa uint32
		name                                         [unix.BPF_OBJ_NAME_LEN]byte
		ifindex                                      uint32
	}{typ: s.Type, key: s.KeySize, value: s.ValueSize, entries: s.MaxEntries, flags: s.Flags, ifindex: s.Ifindex}
	if len(s.Name) >= len(attr.name) {
		return -1, fmt.Errorf("the name %q has more than %d bytes", s.Name, len(attr.name)-1)
	}
	copy(attr.name[:], s.Name)
	if s.Inner != nil {
		attr.inner = uint32(s.Inner.FD())
	}
	fd, err = CallFD(unix.BPF_MAP_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(s.Inner)
	return fd, err
}

// Freeze lets user space write a map no more.
func Freeze(m Handle) error {
	attr := struct{ fd uint32 }{uint32(m.FD())}
	err := Call(unix.BPF_MAP_FREEZE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(m)
	return err
}
