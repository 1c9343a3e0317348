package kernel

import (
	"iter"

	"l3af"
)

// Device is a network interface and the XDP programs on it, by mode, however
// they were attached.
type Device struct {
	Name  string
	Index int
	XDP   map[l3af.Mode]uint32 // ids of programs
}

// Devices lists the interfaces of the thread's network namespace, in the
// kernel's order.
func Devices() ([]Device, error) {
	found, err := devices("")
	list := make([]Device, len(found))
	for i, d := range found {
		list[i] = Device{d.name, d.index, d.xdp}
	}
	return list, err
}

// WithinNetns runs f on a thread that is in a network namespace: a name, a path,
// or "" for that of the process. f must not start goroutines that expect it. The
// error is [os.ErrNotExist] where there is no such namespace.
func WithinNetns(netns string, f func() error) error { return within(netns, f) }

// Attributes yields type, without its flags, and value of each struct rtattr in
// b, up to one that is cut short.
func Attributes(b []byte) iter.Seq2[uint16, []byte] { return attributes(b) }
