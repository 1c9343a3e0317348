package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"l3af"
)

// Store keeps packages on disk by digest, so that a state can be put in force
// again when the files it was made of are gone. A package is there whole or
// not at all, whenever the machine stops. One process at a time uses a store.
type Store struct {
	dir string
	mu  sync.Mutex // of the file that tells where packages came from
}

// tempPrefix begins the names of what is being written or removed.
const tempPrefix = ".tmp-"

// OpenStore opens the store in a directory, and makes it where there is none.
// It removes what a crash left half done.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open package store: %w", err)
	}
	s := &Store{dir: dir}
	if err := s.sweep(func(name string) bool { return strings.HasPrefix(name, tempPrefix) }); err != nil {
		return nil, fmt.Errorf("open package store: %w", err)
	}
	return s, nil
}

// Put keeps a package. One that is there already is left as it is, one that is
// damaged is replaced.
func (s *Store) Put(p *Package) error {
	if err := s.put(p); err != nil {
		return fmt.Errorf("store package %.12s: %w", p.Digest, err)
	}
	return nil
}

func (s *Store) put(p *Package) error {
	if !isDigest(p.Digest) || digest(p.files) != p.Digest {
		return errors.New("the package has been changed since it was opened")
	}
	if _, err := s.Get(p.Digest); err == nil {
		return nil
	}
	temp, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	dirs := map[string]bool{temp: true}
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		to := filepath.Join(temp, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		for d := filepath.Dir(to); d != temp; d = filepath.Dir(d) {
			dirs[d] = true
		}
		if err := writeSync(to, p.files[name].data, p.files[name].mode()); err != nil {
			return err
		}
	}
	for d := range dirs {
		if err := syncDir(d); err != nil {
			return err
		}
	}
	to := filepath.Join(s.dir, p.Digest)
	if err := os.Rename(temp, to); err != nil {
		// A damaged one is in the way.
		if err := s.remove(p.Digest); err != nil {
			return err
		}
		if err := os.Rename(temp, to); err != nil {
			return err
		}
	}
	return syncDir(s.dir)
}

// Get reads a package. errors.Is(err, l3af.ErrNotFound): the store does not
// have it; other errors say that it is damaged.
func (s *Store) Get(digest string) (*Package, error) {
	if !isDigest(digest) {
		return nil, fmt.Errorf("stored package %q: not a digest: %w", clip(digest), l3af.ErrNotFound)
	}
	p, err := s.get(digest)
	if err != nil {
		return nil, fmt.Errorf("stored package %.12s: %w", digest, err)
	}
	return p, nil
}

func (s *Store) get(digest string) (*Package, error) {
	dir := filepath.Join(s.dir, digest)
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, l3af.ErrNotFound
	} else if err != nil {
		return nil, fmt.Errorf("damaged: %w", cause(err))
	}
	defer root.Close()
	var p *Package
	if _, err = root.Lstat(manifestName); err == nil {
		p, err = directory(dir)
	} else {
		p, err = unlisted(root)
	}
	if err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if p.Digest != digest {
		return nil, fmt.Errorf("damaged: its digest is %.12s", p.Digest)
	}
	return p, nil
}

// unlisted reads the files of a package without a manifest.
func unlisted(root *os.Root) (*Package, error) {
	files := map[string]file{}
	left := int64(maxPackage)
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := beneath(root, name, left)
		left -= int64(len(f.data))
		files[name] = f
		return err
	})
	if err != nil {
		return nil, err
	}
	return loose(files)
}

// Keep removes all packages but those with the given digests.
func (s *Store) Keep(digests []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.sweep(func(name string) bool {
		return strings.HasPrefix(name, tempPrefix) || isDigest(name) && !slices.Contains(digests, name)
	})
	err = errors.Join(err, s.forget(digests))
	if err != nil {
		return fmt.Errorf("clean package store: %w", err)
	}
	return nil
}

// sweep removes what drop says. Files of other people are left alone.
func (s *Store) sweep(drop func(name string) bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if drop(e.Name()) {
			errs = append(errs, s.remove(e.Name()))
		}
	}
	return errors.Join(errs...)
}

// remove takes a package away at once: half a package under its digest would
// look damaged.
func (s *Store) remove(name string) error {
	from := filepath.Join(s.dir, name)
	if !strings.HasPrefix(name, tempPrefix) {
		temp, err := os.MkdirTemp(s.dir, tempPrefix)
		if err != nil {
			return err
		}
		defer os.RemoveAll(temp)
		to := filepath.Join(temp, "old")
		if err := os.Rename(from, to); err != nil {
			return err
		}
		return os.RemoveAll(temp)
	}
	return os.RemoveAll(from)
}

func isDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func writeSync(name string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
