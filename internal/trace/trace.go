// Package trace finds the kernel's tracefs, where events have their numbers and
// programs' bpf_printk goes, also where it is not mounted.
package trace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// places are where tracefs is found; the second is where debugfs has it.
var places = []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}

// In runs f where tracefs is mounted at a directory. Where nobody has mounted
// it, that is so for the thread of f alone, and for as long as f runs.
func In(f func(dir string) error) error {
	for _, dir := range places {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.TRACEFS_MAGIC {
			return f(dir)
		}
	}
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine, and the mount with it.
		runtime.LockOSThread()
		done <- private(f)
	}()
	return <-done
}

func private(f func(dir string) error) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("tracefs is not mounted, and cannot be: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("tracefs is not mounted, and cannot be: %w", err)
	}
	var errs []error
	for _, dir := range places {
		err := unix.Mount("tracefs", dir, "tracefs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		if err == nil {
			return f(dir)
		}
		errs = append(errs, fmt.Errorf("mount tracefs on %s: %w", dir, err))
	}
	return errors.Join(errs...)
}

// Pipe opens what programs print from now on (trace_pipe). It is that of the
// machine: what one reader has read, no other reads. Close ends a read that waits.
func Pipe() (*os.File, error) {
	var pipe *os.File
	err := In(func(dir string) (err error) {
		pipe, err = os.Open(filepath.Join(dir, "trace_pipe"))
		return err
	})
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: somebody else reads it", err)
	}
	return pipe, err
}
