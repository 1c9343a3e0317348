package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const systemBpffs = "/sys/fs/bpf"

// MountBpffs makes sure that the directory is there and on bpffs, and returns
// its absolute path.
func MountBpffs(dir string, log *slog.Logger) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("bpffs: %w", err)
	}
	exists, err := ancestor(dir)
	if err != nil {
		return "", fmt.Errorf("bpffs: %w", err)
	}
	on, err := mounted(exists, unix.BPF_FS_MAGIC)
	if err != nil {
		return "", err
	}
	if !on {
		at := dir
		if dir == systemBpffs || strings.HasPrefix(dir, systemBpffs+"/") {
			at = systemBpffs
		}
		if err := os.MkdirAll(at, 0o700); err != nil {
			return "", fmt.Errorf("make a mount point for bpffs: %w", err)
		}
		if err := unix.Mount("bpf", at, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, "mode=700"); err != nil {
			return "", fmt.Errorf("mount bpffs on %s: %w", at, err)
		}
		log.Info("mounted bpffs", "path", at)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make bpffs directory: %w", err)
	}
	// A directory above may be on bpffs while something else is mounted here.
	if on, err := mounted(dir, unix.BPF_FS_MAGIC); err != nil {
		return "", err
	} else if !on {
		return "", fmt.Errorf("%s is not on bpffs", dir)
	}
	return dir, nil
}

// mountTracefs makes sure that tracefs is where libraries look for it: trace
// events have their ids there.
func mountTracefs(log *slog.Logger) error {
	// The second is where debugfs has it.
	places := []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}
	for _, p := range places {
		if on, err := mounted(p, unix.TRACEFS_MAGIC); err == nil && on {
			return nil
		}
	}
	var errs []error
	for _, p := range places {
		err := unix.Mount("tracefs", p, "tracefs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, "")
		if err == nil {
			log.Info("mounted tracefs", "path", p)
			return nil
		}
		errs = append(errs, fmt.Errorf("mount tracefs on %s: %w", p, err))
	}
	return errors.Join(errs...)
}

// mounted reports whether path is on a file system of the type.
func mounted(path string, magic int64) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Type) == magic, nil
}

// ancestor is the nearest directory of path that exists, or path itself.
func ancestor(path string) (string, error) {
	for {
		info, err := os.Stat(path)
		switch {
		case err == nil && !info.IsDir():
			return "", &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
		case err == nil:
			return path, nil
		case !errors.Is(err, fs.ErrNotExist) || path == "/":
			return "", err
		}
		path = filepath.Dir(path)
	}
}
