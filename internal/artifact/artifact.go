// Package artifact opens packages: eBPF objects with the manifest that
// describes them. What it returns is whole and within limits, whatever is on
// disk; what the bytes do is not its concern.
package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const manifestName = "package.yaml"

// The most that is read, in bytes.
const (
	maxManifest = 1 << 20
	maxObject   = 32 << 20
	maxPackage  = 64 << 20
	maxFiles    = 1000
)

// Package is an opened package: its bytes are in memory.
type Package struct {
	Ref string // what it was opened as; "" when it came from a [Store]
	// Digest is the SHA-256, in hex, over the names, sizes and bytes of the
	// manifest and the files it names, and which of them may be run. Equal
	// packages have equal digests wherever they are.
	Digest   string
	Manifest *Manifest

	// files are the objects and other files by name, and package.yaml where
	// there is one.
	files map[string]file
}

// file is one file of a package.
type file struct {
	data []byte
	exec bool // may be run: never an object or the manifest
}

func (f file) mode() fs.FileMode {
	if f.exec {
		return 0o700
	}
	return 0o600
}

// Object returns the bytes of an object by its name in the package. The caller
// must not change them.
func (p *Package) Object(name string) ([]byte, error) {
	if !slices.Contains(p.Objects(), name) {
		return nil, fmt.Errorf("the package has no object %q", clip(name))
	}
	return p.files[name].data, nil
}

// Objects lists the names of the objects in order: those that the manifest
// names, or whatever .o files there are.
func (p *Package) Objects() []string {
	var names []string
	for name := range p.files {
		named := func(row Program) bool { return row.Object == name }
		if slices.ContainsFunc(p.Manifest.Programs, named) || len(p.Manifest.Programs) == 0 && isObject(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Files lists the names of all files of the package in order.
func (p *Package) Files() []string { return slices.Sorted(maps.Keys(p.files)) }

// Executable reports whether the package has a file of that name that may be run.
func (p *Package) Executable(name string) bool { return p.files[name].exec }

// Unpack writes the files of the package below a directory, which must not
// be there yet. They are their owner's alone.
func (p *Package) Unpack(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, name := range p.Files() {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(to, p.files[name].data, p.files[name].mode()); err != nil {
			return err
		}
	}
	return nil
}

func isObject(name string) bool { return strings.HasSuffix(strings.ToLower(name), ".o") }

// Open opens a package that is on this machine. See [Opener.Open].
func Open(ref string) (*Package, error) {
	return (&Opener{}).Open(context.Background(), ref)
}

// local opens a package by the path it has on this machine.
func local(name string) (*Package, error) {
	switch {
	case name == "":
		return nil, errors.New("a package is builtin:NAME, a directory, an archive (.tar.gz, .tgz, .zip) or an object file (.o)")
	case strings.ContainsRune(name, 0):
		return nil, errors.New("a path has no zero bytes")
	case !filepath.IsAbs(name):
		return nil, fmt.Errorf("the path is relative, and the daemon does not know to what: write the absolute path%s", builtinHint(name))
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, cause(err)
	}
	switch {
	case info.IsDir():
		return directory(name)
	case !info.Mode().IsRegular():
		return nil, errors.New("neither a directory nor a regular file")
	case path.Base(name) == manifestName:
		return nil, fmt.Errorf("a package is named by its directory: write %s", path.Dir(name))
	case isArchive(name):
		return single(name, maxArchive)
	case isObject(name):
		return single(name, maxObject)
	}
	return nil, errors.New("neither an archive nor an object file: its name ends in none of .tar.gz, .tgz, .zip and .o")
}

// single opens a package that is one file.
func single(name string, limit int64) (*Package, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	b, err := all(f, limit)
	if err != nil {
		return nil, err
	}
	return packed(filepath.Base(name), b.data)
}

// packed makes a package of the bytes of an archive or an object.
func packed(name string, b []byte) (*Package, error) {
	if isArchive(name) {
		return archive(name, b)
	}
	return loose(map[string]file{name: {data: b}})
}

// cause drops the path of an error, which the caller says.
func cause(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// directory opens a package on disk. Nothing outside of the directory is read,
// wherever symbolic links point.
func directory(name string) (*Package, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, cause(err)
	}
	defer root.Close()
	return read(func(name string, limit int64) (file, error) { return beneath(root, name, limit) })
}

func beneath(root *os.Root, name string, limit int64) (file, error) {
	// Not to wait for the other end of a pipe.
	f, err := root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return file{}, cause(err)
	}
	defer f.Close()
	return all(f, limit)
}

// read makes a package of a manifest and the files it names.
func read(open func(name string, limit int64) (file, error)) (*Package, error) {
	text, err := open(manifestName, maxManifest)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w (a package directory has a manifest; a bare object is named by its file)", manifestName, err)
		}
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	m, err := ParseManifest(text.data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	p := &Package{Manifest: m, files: map[string]file{manifestName: {data: text.data}}}
	left := int64(maxPackage - len(text.data))
	add := func(at, name string, object bool) error {
		if _, ok := p.files[name]; ok {
			return nil
		}
		if len(p.files) > maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		limit := left
		if object {
			limit = min(left, maxObject)
		}
		f, err := open(name, limit)
		if errors.Is(err, errTooLarge) && limit == left {
			return fmt.Errorf("the package is too large: more than %d MiB", maxPackage>>20)
		} else if err != nil {
			return fmt.Errorf("%s: %s: %w", at, name, err)
		}
		left -= int64(len(f.data))
		f.exec = f.exec && !object
		p.files[name] = f
		return nil
	}
	for i, prog := range m.Programs {
		if err := add(fmt.Sprintf("programs[%d].object", i), prog.Object, true); err != nil {
			return nil, err
		}
	}
	for i, name := range m.Files {
		if err := add(fmt.Sprintf("files[%d]", i), name, false); err != nil {
			return nil, err
		}
	}
	p.Digest = digest(p.files)
	return p, nil
}

// loose makes a package of files without a manifest.
func loose(files map[string]file) (*Package, error) {
	p := &Package{Manifest: &Manifest{}, files: files}
	for name, f := range files {
		f.exec = f.exec && !isObject(name)
		files[name] = f
	}
	objects := p.Objects()
	if len(objects) == 0 {
		return nil, fmt.Errorf("there is neither a %s nor an object (.o) in it", manifestName)
	}
	first := path.Base(objects[0])
	p.Manifest.Name = strings.TrimSuffix(strings.TrimSuffix(first, first[len(first)-2:]), ".bpf")
	p.Digest = digest(files)
	return p, nil
}

var errTooLarge = errors.New("too large")

// all reads a regular file that is not larger than limit.
func all(f fs.File, limit int64) (file, error) {
	info, err := f.Stat()
	if err != nil {
		return file{}, cause(err)
	}
	if !info.Mode().IsRegular() {
		return file{}, errors.New("not a regular file")
	}
	b, err := upTo(f, info.Size(), limit)
	if err != nil {
		return file{}, err
	}
	return file{b, info.Mode()&0o111 != 0}, nil
}

// upTo reads what should be size bytes, but may be more or fewer, up to limit.
func upTo(r io.Reader, size, limit int64) ([]byte, error) {
	tooLarge := fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	if size > limit {
		return nil, tooLarge
	}
	var b bytes.Buffer
	b.Grow(int(max(0, size)) + bytes.MinRead)
	if _, err := b.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return nil, cause(err)
	}
	if int64(b.Len()) > limit {
		return nil, tooLarge
	}
	return b.Bytes(), nil
}

// digest is over a listing: a line for each file with the SHA-256 of its bytes,
// its size, its name, and an x if it may be run, in order of names.
func digest(files map[string]file) string {
	h := sha256.New()
	io.WriteString(h, "l3af package 1\n")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		fmt.Fprintf(h, "%x %d %q", sha256.Sum256(f.data), len(f.data), name)
		if f.exec {
			io.WriteString(h, " x")
		}
		io.WriteString(h, "\n")
	}
	return hex.EncodeToString(h.Sum(nil))
}
