package bpfsys

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kind is a kind of objects that have ids.
type Kind int

// The kinds.
const (
	Prog Kind = iota
	Map
	BTF
	Link
)

// kinds has the commands of bpf(2) for each kind, and the name of its anonymous
// inodes.
var kinds = [...]struct {
	name      string
	next, get int
	inode     string
}{
	Prog: {"program", unix.BPF_PROG_GET_NEXT_ID, unix.BPF_PROG_GET_FD_BY_ID, "bpf-prog"},
	Map:  {"map", unix.BPF_MAP_GET_NEXT_ID, unix.BPF_MAP_GET_FD_BY_ID, "bpf-map"},
	BTF:  {"BTF", unix.BPF_BTF_GET_NEXT_ID, unix.BPF_BTF_GET_FD_BY_ID, "btf"},
	Link: {"link", unix.BPF_LINK_GET_NEXT_ID, unix.BPF_LINK_GET_FD_BY_ID, "bpf-link"},
}

func (k Kind) String() string { return kinds[k].name }

// KindOf says what a descriptor is by what it links to under /proc/PID/fd:
// "anon_inode:bpf-map". Links are bpf_link where they were made and bpf-link
// where they were opened again.
func KindOf(inode string) (Kind, bool) {
	name, ok := strings.CutPrefix(inode, "anon_inode:")
	name = strings.ReplaceAll(strings.Trim(name, "[]"), "_", "-")
	for k := range kinds {
		if ok && kinds[k].inode == name {
			return Kind(k), true
		}
	}
	return 0, false
}

// Open is an object that is open. It implements [Handle].
type Open struct{ fd int }

// NewOpen takes a descriptor over.
func NewOpen(fd int) *Open { return &Open{fd} }

// FD is the descriptor.
func (o *Open) FD() int { return o.fd }

// Take gives the descriptor to the caller, who closes it.
func (o *Open) Take() int {
	fd := o.fd
	o.fd = -1
	return fd
}

// Close closes the object unless it was taken.
func (o *Open) Close() error {
	if o.fd < 0 {
		return nil
	}
	return unix.Close(o.Take())
}

// NextID is the lowest id above that of an object that is there; ok is false
// where there is none. A link that is being made gives EAGAIN when it is
// opened, not here.
func NextID(k Kind, id uint32) (next uint32, ok bool, err error) {
	attr := struct{ start, next, flags uint32 }{start: id}
	err = Call(kinds[k].next, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	switch {
	case errors.Is(err, unix.ENOENT):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("list ids of %ss: %w", k, err)
	}
	return attr.next, true, nil
}

// ByID opens an object; flags are BPF_F_RDONLY or BPF_F_WRONLY, of maps only.
// The error is [os.ErrNotExist] where it is gone.
func ByID(k Kind, id uint32, flags uint32) (*Open, error) {
	attr := struct{ id, next, flags uint32 }{id: id, flags: flags}
	fd, err := CallFD(kinds[k].get, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, fmt.Errorf("%s %d: %w", k, id, err)
	}
	return &Open{fd}, nil
}

// ByPath opens what is pinned at a path of bpffs, and says what it is.
func ByPath(path string, flags uint32) (*Open, Kind, error) {
	name, err := unix.ByteSliceFromString(path)
	if err != nil {
		return nil, 0, fmt.Errorf("open pin %q: %w", path, err)
	}
	attr := struct {
		path      Pointer
		fd, flags uint32
	}{path: PointerTo(name), flags: flags}
	fd, err := CallFD(unix.BPF_OBJ_GET, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	var fs unix.Statfs_t
	if errors.Is(err, unix.EACCES) && unix.Statfs(path, &fs) == nil && fs.Type != unix.BPF_FS_MAGIC {
		err = errors.New("it is not on a bpf filesystem") // the kernel denies what it does not know
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open pin %s: %w", path, err)
	}
	o := &Open{fd}
	k, err := o.kind()
	if err != nil {
		o.Close()
		return nil, 0, fmt.Errorf("open pin %s: %w", path, err)
	}
	return o, k, nil
}

func (o *Open) kind() (Kind, error) {
	inode, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", o.fd))
	if err != nil {
		return 0, err
	}
	k, ok := KindOf(inode)
	if !ok {
		return 0, fmt.Errorf("neither a program, a map nor a link: %s", inode)
	}
	return k, nil
}
