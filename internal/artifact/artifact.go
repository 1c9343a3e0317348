// Package artifact opens packages: eBPF objects with the manifest that
// describes them. What it returns is whole and within limits, whatever is on
// disk; what the bytes do is not its concern.
package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"l3af/internal/near"
	"l3af/programs"
)

const manifestName = "package.yaml"

// The most that is read, in bytes.
const (
	maxManifest = 1 << 20
	maxObject   = 32 << 20
	maxPackage  = 64 << 20
	maxObjects  = 1000
)

// Package is an opened package: its bytes are in memory.
type Package struct {
	Ref string // what it was opened as; "" when it came from a [Store]
	// Digest is the SHA-256, in hex, over the names, sizes and bytes of the
	// manifest and the objects it names. Equal packages have equal digests
	// wherever they are.
	Digest   string
	Manifest *Manifest

	// files are the objects by name, and package.yaml unless the package is a
	// bare object.
	files map[string][]byte
}

// Object returns the bytes of an object by its name in the manifest. The caller
// must not change them.
func (p *Package) Object(name string) ([]byte, error) {
	b, ok := p.files[name]
	if !ok || name == manifestName {
		return nil, fmt.Errorf("the package has no object %q", clip(name))
	}
	return b, nil
}

// Objects lists the names of the objects in order.
func (p *Package) Objects() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(p.files)), func(n string) bool { return n == manifestName })
}

// Open opens a package by reference: builtin:NAME, or the absolute path (or
// file:// URL) of a directory with a package.yaml or of a bare object (.o).
// Relative paths are refused: the daemon does not know what they are relative to.
//
// errors.Is(err, fs.ErrNotExist): there is no such package. The mistakes of a
// manifest are a [*l3af.InvalidError].
func Open(ref string) (*Package, error) {
	p, err := open(ref)
	if err != nil {
		return nil, fmt.Errorf("open package %s: %w", clip(ref), err)
	}
	p.Ref = ref
	return p, nil
}

func open(ref string) (*Package, error) {
	if name, ok := strings.CutPrefix(ref, "builtin:"); ok {
		return builtin(name)
	}
	name := ref
	if strings.HasPrefix(ref, "file:") {
		u, err := url.Parse(ref)
		if err != nil || u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || u.Fragment != "" {
			return nil, errors.New("not the file:// URL of a path on this machine")
		}
		if name = u.Path; u.Opaque != "" {
			name = u.Opaque
		}
	}
	lower := strings.ToLower(name)
	switch {
	case name == "":
		return nil, errors.New("a package is builtin:NAME, a directory or an object file (.o)")
	case strings.ContainsRune(name, 0):
		return nil, errors.New("a path has no zero bytes")
	case strings.Contains(ref, "://") && !strings.HasPrefix(ref, "file:"):
		scheme, _, _ := strings.Cut(ref, "://")
		return nil, fmt.Errorf("packages from %s:// are not supported yet: download it and name the directory", scheme)
	case strings.HasSuffix(lower, ".tar.gz"), strings.HasSuffix(lower, ".tgz"), strings.HasSuffix(lower, ".zip"):
		return nil, errors.New("packed packages (.tar.gz, .zip) are not supported yet: unpack it and name the directory")
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
	case strings.HasSuffix(lower, ".o"):
		return bare(name)
	case path.Base(name) == manifestName:
		return nil, fmt.Errorf("a package is named by its directory: write %s", path.Dir(name))
	}
	return nil, errors.New("not an object file: its name does not end in .o")
}

// cause drops the path of an error, which the caller says.
func cause(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

func builtinHint(name string) string {
	if slices.Contains(builtins(), path.Base(name)) {
		return fmt.Sprintf(", or builtin:%s", path.Base(name))
	}
	return ""
}

func builtins() []string {
	entries, _ := programs.FS.ReadDir(".")
	var names []string
	for _, e := range entries {
		if _, err := fs.Stat(programs.FS, path.Join(e.Name(), manifestName)); err == nil {
			names = append(names, e.Name())
		}
	}
	return names
}

func builtin(name string) (*Package, error) {
	if names := builtins(); !slices.Contains(names, name) {
		return nil, &missing{name, near.Hint(name, names), names}
	}
	dir, err := fs.Sub(programs.FS, name)
	if err != nil {
		return nil, err
	}
	return read(func(name string, limit int64) ([]byte, error) {
		f, err := dir.Open(name)
		if err != nil {
			return nil, cause(err)
		}
		defer f.Close()
		return all(f, limit)
	})
}

// missing is a builtin package that there is not.
type missing struct {
	name, hint string
	names      []string
}

func (e *missing) Error() string {
	s := fmt.Sprintf("there is no builtin package %q", clip(e.name))
	list := "the builtin packages are " + strings.Join(e.names, ", ")
	if strings.HasPrefix(e.hint, "did you mean") {
		return fmt.Sprintf("%s, %s (%s)", s, strings.TrimSuffix(e.hint, "?"), list)
	}
	return fmt.Sprintf("%s (%s)", s, list)
}

func (e *missing) Is(target error) bool { return target == fs.ErrNotExist }

// directory opens a package on disk. Nothing outside of the directory is read,
// wherever symbolic links point.
func directory(name string) (*Package, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, cause(err)
	}
	defer root.Close()
	return read(func(name string, limit int64) ([]byte, error) {
		// Not to wait for the other end of a pipe.
		f, err := root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, cause(err)
		}
		defer f.Close()
		return all(f, limit)
	})
}

// read makes a package of a manifest and the objects it names.
func read(file func(name string, limit int64) ([]byte, error)) (*Package, error) {
	text, err := file(manifestName, maxManifest)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w (a package directory has a manifest; a bare object is named by its file)", manifestName, err)
		}
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	m, err := ParseManifest(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	p := &Package{Manifest: m, files: map[string][]byte{manifestName: text}}
	left := int64(maxPackage - len(text))
	for i, prog := range m.Programs {
		if _, ok := p.files[prog.Object]; ok {
			continue
		}
		if len(p.files) > maxObjects {
			return nil, fmt.Errorf("more than %d objects", maxObjects)
		}
		b, err := file(prog.Object, min(left, maxObject))
		if errors.Is(err, errTooLarge) && left < maxObject {
			return nil, fmt.Errorf("the package is too large: more than %d MiB", maxPackage>>20)
		} else if err != nil {
			return nil, fmt.Errorf("programs[%d].object: %s: %w", i, prog.Object, err)
		}
		left -= int64(len(b))
		p.files[prog.Object] = b
	}
	p.Digest = digest(p.files)
	return p, nil
}

// bare makes a package of an object alone.
func bare(name string) (*Package, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	b, err := all(f, maxObject)
	if err != nil {
		return nil, err
	}
	return object(filepath.Base(name), b), nil
}

func object(name string, b []byte) *Package {
	short := strings.TrimSuffix(strings.TrimSuffix(name, ".o"), ".bpf")
	files := map[string][]byte{name: b}
	return &Package{Digest: digest(files), Manifest: &Manifest{Name: short}, files: files}
}

var errTooLarge = errors.New("too large")

// all reads a regular file that is not larger than limit.
func all(f fs.File, limit int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, cause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	// The size may change while it is read.
	var b bytes.Buffer
	b.Grow(int(min(info.Size(), limit)) + bytes.MinRead)
	if _, err := b.ReadFrom(io.LimitReader(f, limit+1)); err != nil {
		return nil, cause(err)
	}
	if int64(b.Len()) > limit || info.Size() > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	}
	return b.Bytes(), nil
}

// digest is over a listing: a line for each file with the SHA-256 of its bytes,
// its size and its name, in order of names.
func digest(files map[string][]byte) string {
	h := sha256.New()
	io.WriteString(h, "l3af package 1\n")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%x %d %q\n", sha256.Sum256(files[name]), len(files[name]), name)
	}
	return hex.EncodeToString(h.Sum(nil))
}
