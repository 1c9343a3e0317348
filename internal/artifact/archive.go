package artifact

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// The most that is read of an archive.
const (
	maxArchive = 64 << 20 // bytes, packed
	maxTar     = 96 << 20 // bytes, unpacked: the files' and what describes them
	maxEntries = 10_000
)

// isArchive reports whether a file is a packed package by its name.
func isArchive(name string) bool {
	lower := strings.ToLower(name)
	return slices.ContainsFunc([]string{".tar.gz", ".tgz", ".zip"}, func(end string) bool { return strings.HasSuffix(lower, end) })
}

// archive makes a package of the bytes of a packed one. Its files are in one
// directory, as upstream packs them, or at the top next to a package.yaml.
func archive(name string, b []byte) (*Package, error) {
	files, err := unpack(name, b)
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	if files, err = inside(name, files); err != nil {
		return nil, err
	}
	if _, ok := files[manifestName]; !ok {
		return loose(files)
	}
	return read(func(name string, limit int64) (file, error) {
		f, ok := files[name]
		if !ok {
			return f, fs.ErrNotExist
		}
		if int64(len(f.data)) > limit {
			return f, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
		}
		return f, nil
	})
}

// inside finds the package among the files of an archive: all of them if its
// manifest is at the top, else those in the directory that is named like the
// archive up to its first dot, else those in the only directory.
func inside(name string, files map[string]file) (map[string]file, error) {
	if _, ok := files[manifestName]; ok {
		return files, nil
	}
	at := map[string]map[string]file{} // by the first part of the path
	for name, f := range files {
		top, rest, below := strings.Cut(name, "/")
		if at[top] == nil {
			at[top] = map[string]file{}
		}
		if below {
			at[top][rest] = f
		}
	}
	want, _, _ := strings.Cut(name, ".")
	if found := at[want]; len(found) > 0 {
		return found, nil
	}
	tops := slices.Sorted(maps.Keys(at))
	if len(tops) == 1 && len(at[tops[0]]) > 0 {
		return at[tops[0]], nil
	}
	if len(tops) == 0 {
		return nil, errors.New("there is no file in it")
	}
	return nil, fmt.Errorf("want one directory %s at the top, or a %s there; have %s", clip(want), manifestName, clip(strings.Join(tops, ", ")))
}

// unpack reads the files of an archive. It takes plain files and directories
// and refuses all else: what a package needs is nothing that could lead out of
// its directory, gain rights, or grow without end.
func unpack(name string, b []byte) (map[string]file, error) {
	u := unpacked{files: map[string]file{}, dirs: map[string]bool{}, left: maxPackage}
	var err error
	if strings.HasSuffix(strings.ToLower(name), ".zip") {
		err = u.zip(b)
	} else {
		err = u.tarball(b)
	}
	if err != nil {
		return nil, err
	}
	return u.files, nil
}

type unpacked struct {
	files   map[string]file
	dirs    map[string]bool // directories that files are in, or that have an entry
	left    int64           // how many bytes files may still have
	entries int
}

func (u *unpacked) tarball(b []byte) error {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return whole(err)
	}
	limited := &io.LimitedReader{R: z, N: maxTar}
	for r := tar.NewReader(limited); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return tooMuch(limited, whole(err))
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir:
			if err := u.add(h.Name, h.FileInfo().Mode(), h.Size, r); err != nil {
				return tooMuch(limited, err)
			}
		case tar.TypeXGlobalHeader: // a comment
		default:
			return fmt.Errorf("%q is %s: only plain files and directories are taken", clip(h.Name), typeOf(h.FileInfo().Mode(), h.Typeflag))
		}
	}
	// The checksum is at the very end.
	_, err = io.Copy(io.Discard, limited)
	return tooMuch(limited, whole(err))
}

// tooMuch tells an archive that was cut at the limit from a damaged one.
func tooMuch(r *io.LimitedReader, err error) error {
	if r.N <= 0 {
		return fmt.Errorf("%w: more than %d MiB unpacked", errTooLarge, maxTar>>20)
	}
	return err
}

// whole says of an error that it may come from a file that is not all there.
func whole(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("damaged: it ends too early")
	}
	if err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	return nil
}

func typeOf(mode fs.FileMode, flag byte) string {
	switch mode.Type() {
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		return "a device"
	case fs.ModeNamedPipe:
		return "a pipe"
	case fs.ModeSocket:
		return "a socket"
	}
	if flag == tar.TypeLink {
		return "a hard link"
	}
	return fmt.Sprintf("of a type (%q) of its own", flag)
}

func (u *unpacked) zip(b []byte) error {
	// The reader allocates for each header in the directory at the end, before
	// anybody can count them.
	if n := bytes.Count(b, []byte("PK\x01\x02")); n > maxEntries {
		return fmt.Errorf("%w: more than %d entries", errTooLarge, maxEntries)
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return whole(err)
	}
	for _, f := range z.File {
		switch mode := f.Mode(); {
		case mode.Type() != 0 && !mode.IsDir():
			return fmt.Errorf("%q is %s: only plain files and directories are taken", clip(f.Name), typeOf(mode, 0))
		case f.Flags&1 != 0:
			return fmt.Errorf("%q is encrypted", clip(f.Name))
		case f.UncompressedSize64 > maxPackage:
			return fmt.Errorf("%w: more than %d MiB unpacked", errTooLarge, maxPackage>>20)
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("%q: %w", clip(f.Name), whole(err))
		}
		err = u.add(f.Name, f.Mode(), int64(f.UncompressedSize64), r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// add takes one entry of an archive.
func (u *unpacked) add(as string, mode fs.FileMode, size int64, r io.Reader) error {
	if u.entries++; u.entries > maxEntries || len(u.files) > maxFiles {
		return fmt.Errorf("%w: more than %d files, or %d entries", errTooLarge, maxFiles, maxEntries)
	}
	name := as
	for strings.HasPrefix(name, "./") {
		name = strings.TrimLeft(name[1:], "/")
	}
	if mode.IsDir() {
		name = strings.TrimSuffix(name, "/")
		if name == "" || name == "." {
			return nil
		}
	}
	if err := plainPath(name); err != nil {
		return err
	}
	_, isFile := u.files[name]
	switch {
	case isFile, u.dirs[name] && !mode.IsDir():
		return fmt.Errorf("%q is there twice", clip(name))
	case mode.IsDir():
		u.dirs[name] = true
		return u.parents(name)
	case mode&(fs.ModeSetuid|fs.ModeSetgid) != 0:
		return fmt.Errorf("%q would run with the rights of its owner or group (mode %s)", clip(name), mode)
	}
	data, err := upTo(r, size, u.left)
	if errors.Is(err, errTooLarge) {
		return fmt.Errorf("%w: more than %d MiB unpacked", errTooLarge, maxPackage>>20)
	} else if err != nil {
		return fmt.Errorf("%q: %w", clip(name), whole(err))
	}
	u.left -= int64(len(data))
	u.files[name] = file{data, mode&0o111 != 0}
	return u.parents(name)
}

// parents makes sure that what an entry is in is a directory.
func (u *unpacked) parents(name string) error {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := u.files[dir]; ok {
			return fmt.Errorf("%q is there twice", clip(dir))
		}
		u.dirs[dir] = true
	}
	return nil
}
