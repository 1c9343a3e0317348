package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const namedNetns = "/run/netns"

// netnsPath is the file of a network namespace: a name under /run/netns, or
// an absolute path.
func netnsPath(netns string) (string, error) {
	switch {
	case filepath.IsAbs(netns):
		return netns, nil
	case netns == "" || netns == "." || netns == ".." || strings.ContainsAny(netns, "/\x00"):
		return "", fmt.Errorf("network namespace %q is neither a name nor an absolute path", netns)
	}
	return filepath.Join(namedNetns, netns), nil
}

// openNetns opens a network namespace. The error is [os.ErrNotExist] where
// there is none, also when only the empty file is there on which `ip netns`
// is going to mount it.
func openNetns(netns string) (*os.File, error) {
	path, err := netnsPath(netns)
	if err != nil {
		return nil, err
	}
	// Not blocking: the path may name a pipe or worse.
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", netns, err)
	}
	if on, err := mounted(path, unix.NSFS_MAGIC); err != nil || !on {
		f.Close()
		return nil, fmt.Errorf("network namespace %s: %w: %s is not a namespace", netns, os.ErrNotExist, path)
	}
	return f, nil
}

// within runs f on a thread that is in the network namespace: bpf(2) and
// netlink(7) look up interfaces in that of the calling thread. f must not
// start goroutines that expect the namespace.
func within(netns string, f func() error) error {
	done := make(chan error, 1)
	if netns == "" {
		// Not on the calling thread, which may be in another namespace.
		go func() { done <- f() }()
		return <-done
	}
	ns, err := openNetns(netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer own.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace %s: %w", netns, err)
			return
		}
		err = f()
		// A thread that cannot go back stays locked and so ends with this
		// goroutine.
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
