package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"l3af/internal/host"
)

// Maps may be pinned outside of our directory as well, where other processes
// look for them. Symbolic links, which bpffs holds besides pins and directories,
// say of each target what it has there:
//
//	…/outside/pins/HASH   leads to a pin
//	…/outside/named/HASH  leads to a pin that objects ask for by their map's name
//	…/outside/dirs/HASH   leads to a directory that we made
//
// HASH is that of the path, so that it is quickly known who else has it. A mark
// is there before what it tells of, and goes after it: whatever ends between,
// the target's next change finds what is left.

const (
	pinMarks  = "pins"
	nameMarks = "named"
	dirMarks  = "dirs"
	// freshPin is the name of a pin in outside/ until it takes another's place.
	freshPin = "new"
)

func (k *Kernel) outsideDir(t host.Target) string { return filepath.Join(k.path(t), "outside") }

func (k *Kernel) markPath(t host.Target, kind, path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(k.outsideDir(t), kind, hex.EncodeToString(sum[:10]))
}

func (k *Kernel) marked(t host.Target, kind, path string) bool {
	_, err := os.Lstat(k.markPath(t, kind, path))
	return err == nil
}

func (k *Kernel) mark(t host.Target, kind, path string) error {
	at := k.markPath(t, kind, path)
	err := os.MkdirAll(filepath.Dir(at), 0o700)
	if err == nil {
		err = os.Symlink(path, at)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("mark %s: %w", path, err)
	}
	return nil
}

// marks lists the paths that a target marks.
func (k *Kernel) marks(t host.Target, kind string) ([]string, error) {
	dir := filepath.Join(k.outsideDir(t), kind)
	names, err := k.entries(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, name := range names {
		path, err := os.Readlink(filepath.Join(dir, name))
		if err != nil || k.markPath(t, kind, path) != filepath.Join(dir, name) {
			k.log.Debug("not ours", "path", filepath.Join(dir, name))
			continue
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// others lists the other targets that mark a path.
func (k *Kernel) others(t host.Target, kind, path string) ([]host.Target, error) {
	all, err := k.targets()
	return slices.DeleteFunc(all, func(o host.Target) bool { return o == t || !k.marked(o, kind, path) }), err
}

func (k *Kernel) markPin(t host.Target, p outsidePin) error {
	if p.ByName {
		if err := k.mark(t, nameMarks, p.path); err != nil {
			return err
		}
	}
	return k.mark(t, pinMarks, p.path)
}

// unmark takes a mark away, and what it leads to unless another target has it
// as well.
func (k *Kernel) unmark(t host.Target, kind, path string) error {
	others, err := k.others(t, kind, path)
	if err != nil {
		return err
	}
	if len(others) == 0 {
		info, err := os.Lstat(path)
		switch {
		case err != nil || info.IsDir() != (kind == dirMarks):
			// gone, or something else by now
		case info.IsDir():
			_ = os.Remove(path) // fails when not empty
		default:
			if err := removePins(path); err != nil {
				return err
			}
		}
	}
	return removePins(k.markPath(t, kind, path))
}
