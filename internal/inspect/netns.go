package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace.
type Namespace struct {
	Name  string // of ip netns; "" where it has none
	Path  string // a file that leads into it; "" for that of the process
	Inode uint64
	PID   int // of a process in it, where it has no name
}

// String names it to people.
func (n Namespace) String() string {
	switch {
	case n.Name != "":
		return n.Name
	case n.Path == "":
		return "the current"
	}
	return n.Path
}

// Namespaces lists the network namespaces: that of the process first, then those
// that ip netns names, then those that processes are in, as far as /proc shows.
func Namespaces() ([]Namespace, error) {
	const own = "/proc/thread-self/ns/net" // the first thread of the process may be anywhere
	var st unix.Stat_t
	if err := unix.Stat(own, &st); err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	list := []Namespace{{Inode: st.Ino}}
	seen := func(ino uint64) int { return slices.IndexFunc(list, func(n Namespace) bool { return n.Inode == ino }) }
	for _, dir := range []string{"/run/netns", "/var/run/netns"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("network namespaces: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			var fs unix.Statfs_t
			if unix.Statfs(path, &fs) != nil || fs.Type != unix.NSFS_MAGIC || unix.Stat(path, &st) != nil {
				continue // one that is being made or has gone
			}
			if i := seen(st.Ino); i < 0 {
				list = append(list, Namespace{Name: e.Name(), Path: path, Inode: st.Ino})
			} else if list[i].Name == "" {
				list[i].Name = e.Name()
			}
		}
	}
	pids, err := numbers("/proc")
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	for _, pid := range pids {
		path := fmt.Sprintf("/proc/%d/ns/net", pid)
		if unix.Stat(path, &st) == nil && seen(st.Ino) < 0 {
			list = append(list, Namespace{Path: path, Inode: st.Ino, PID: pid})
		}
	}
	return list, nil
}
