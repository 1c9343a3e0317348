package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"l3af/internal/artifact"
)

// lay makes the working directory of an agent: the files of its package, and
// those of the document over them. What was there before goes.
func lay(dir string, pkg *artifact.Package, files map[string]string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := pkg.Unpack(dir); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, text := range files {
		err := root.MkdirAll(filepath.Dir(name), 0o700)
		if err == nil {
			if err = root.Remove(name); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
		}
		if err == nil {
			err = root.WriteFile(name, []byte(text), 0o600)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// runnable refuses what root must not run: what is not inside the directory,
// whatever links there are, or what others than its owner can write.
func runnable(dir, name string) error {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	fd, err := unix.Openat2(at, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	switch {
	case errors.Is(err, unix.ELOOP):
		return errors.New("a symbolic link")
	case errors.Is(err, unix.EXDEV):
		return errors.New("not inside the package")
	case err != nil:
		return err
	}
	defer unix.Close(fd)
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return err
	}
	switch {
	case s.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("not a regular file")
	case s.Mode&0o022 != 0 || s.Uid != uint32(os.Geteuid()):
		return errors.New("others than root may have written it")
	case s.Mode&0o100 == 0:
		return errors.New("not executable")
	}
	return nil
}
