package artifact

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// entry is one of an archive.
type entry struct {
	name string
	mode fs.FileMode // 0: 0644; with type bits
	text string
	link string
	// tar only, when it cannot be said by mode.
	flag byte
}

func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: int64(e.mode.Perm()), Size: int64(len(e.text)), Typeflag: tar.TypeReg, Linkname: e.link}
		if e.mode.Perm() == 0 {
			h.Mode = 0o644
		}
		switch {
		case e.flag != 0:
			h.Typeflag = e.flag
		case e.mode.IsDir():
			h.Typeflag = tar.TypeDir
		case e.mode&fs.ModeSymlink != 0:
			h.Typeflag = tar.TypeSymlink
		}
		if e.mode&fs.ModeSetuid != 0 {
			h.Mode |= 0o4000
		}
		if e.flag == tar.TypeXGlobalHeader {
			h = &tar.Header{Typeflag: e.flag, PAXRecords: map[string]string{"comment": "x"}}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		mode := e.mode
		if mode.Perm() == 0 {
			mode |= 0o644
		}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.text + e.link)); err != nil && !mode.IsDir() {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// both packs the same entries in both formats.
func both(t testing.TB, entries ...entry) map[string][]byte {
	return map[string][]byte{".tar.gz": tarball(t, entries...), ".zip": zipped(t, entries...)}
}

func openBytes(t testing.TB, name string, b []byte) (*Package, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return Open("file://" + path)
}

const agentManifest = "apiVersion: l3af/v1\nname: fw\nprograms: [{entry: a, object: fw.o, hook: xdp}]\nfiles: [bin/agent, conf]\n"

func packedFiles(top string) []entry {
	return []entry{
		{name: top + "package.yaml", text: agentManifest}, {name: top + "fw.o", mode: 0o755, text: "elf"},
		{name: top + "bin/agent", mode: 0o755, text: "#!/bin/sh\n"}, {name: top + "conf", text: "x"}, {name: top + "README", text: "no part of it"},
	}
}

// A package is the same in a directory, an archive of either kind and the store.
func TestArchiveIsItsDirectory(t *testing.T) {
	dir := tree(t, map[string]string{"package.yaml": agentManifest, "fw.o": "elf", "bin/agent": "#!/bin/sh\n", "conf": "x"})
	if err := os.Chmod(filepath.Join(dir, "bin/agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	want, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if f := want.files["bin/agent"]; !f.exec || string(f.data) != "#!/bin/sh\n" {
		t.Fatalf("agent = %+v", f)
	}
	if !reflect.DeepEqual(want.Objects(), []string{"fw.o"}) || len(want.files) != 4 {
		t.Errorf("objects %v, files %v", want.Objects(), want.files)
	}
	if _, err := want.Object("conf"); err == nil {
		t.Error("a file is no object, and was given as one")
	}
	store := openStore(t, t.TempDir())
	for _, top := range []string{"fw/", "./fw/", "other/", "", "./"} {
		for end, b := range both(t, packedFiles(top)...) {
			p, err := openBytes(t, "fw.v1.2"+end, b)
			if err != nil {
				t.Errorf("%s in %q: %v", end, top, err)
				continue
			}
			if p.Digest != want.Digest || !reflect.DeepEqual(p.files, want.files) {
				t.Errorf("%s in %q: %+v, want %+v", end, top, p.files, want.files)
			}
			if err := store.Put(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if p, err := store.Get(want.Digest); err != nil || !reflect.DeepEqual(p.files, want.files) {
		t.Errorf("stored: %+v, %v", p, err)
	}
	if err := os.Chmod(filepath.Join(dir, "bin/agent"), 0o644); err != nil {
		t.Fatal(err)
	}
	if p, err := Open(dir); err != nil || p.Digest == want.Digest {
		t.Errorf("an agent that cannot be run any more: %v, same digest", err)
	}
}

// As upstream packs them: no manifest, all files are the package's.
func TestArchiveWithoutManifest(t *testing.T) {
	entries := []entry{
		{mode: fs.ModeDir | 0o755, name: "./"}, {mode: fs.ModeDir | 0o755, name: "./l3af_fw/"},
		{name: "./l3af_fw/in.bpf.o", text: "in", mode: 0o775}, {name: "./l3af_fw/out.bpf.o", text: "out"}, {name: "./l3af_fw/fw", mode: 0o755, text: "#!/bin/sh\n"},
		{name: "./README", text: "beside it"},
	}
	store := openStore(t, t.TempDir())
	digests := map[string]bool{}
	for end, b := range both(t, entries...) {
		p, err := openBytes(t, "l3af_fw"+end, b)
		if err != nil {
			t.Fatalf("%s: %v", end, err)
		}
		want := map[string]file{"in.bpf.o": {data: []byte("in")}, "out.bpf.o": {data: []byte("out")}, "fw": {[]byte("#!/bin/sh\n"), true}}
		if !reflect.DeepEqual(p.files, want) || !reflect.DeepEqual(p.Objects(), []string{"in.bpf.o", "out.bpf.o"}) {
			t.Errorf("%s: %+v, want %+v", end, p.files, want)
		}
		if err := store.Put(p); err != nil {
			t.Fatal(err)
		}
		got, err := store.Get(p.Digest)
		p.Ref = ""
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%s: stored %+v, %v, want %+v", end, got, err, p)
		}
		digests[p.Digest] = true
	}
	if len(digests) != 1 {
		t.Errorf("digests differ: %v", digests)
	}
}

// What leads out, gains rights or grows without end is refused, whichever
// format it comes in.
func TestArchiveRefused(t *testing.T) {
	object := entry{name: "fw/fw.o", text: "elf"}
	large := strings.Repeat("\x00", 1<<20)
	var many []entry
	for i := range maxFiles + 2 {
		many = append(many, entry{name: fmt.Sprintf("fw/%d", i)})
	}
	var bomb []entry
	for i := range maxPackage>>20 + 1 {
		bomb = append(bomb, entry{name: fmt.Sprintf("fw/%d", i), text: large})
	}
	for name, r := range map[string]struct {
		entries []entry
		want    string
	}{
		"absolute":             {[]entry{{name: "/etc/passwd", text: "x"}}, `unpack: "/etc/passwd" is not inside the package`},
		"up":                   {[]entry{object, {name: "fw/../../x", text: "x"}}, `unpack: "fw/../../x" is no plain path inside the package`},
		"only up":              {[]entry{object, {name: "..", mode: fs.ModeDir | 0o755}}, `".." is no plain path`},
		"hidden up":            {[]entry{object, {name: "./../x", text: "x"}}, `"../x" is no plain path`},
		"backslash":            {[]entry{{name: `fw\..\x.o`, text: "x"}}, `is no plain path`},
		"line feed":            {[]entry{{name: "fw/a\nb", text: "x"}}, `is no plain path`},
		"symlink":              {[]entry{object, {name: "fw/link", mode: fs.ModeSymlink | 0o777, link: "/etc"}}, `"fw/link" is a symbolic link: only plain files and directories are taken`},
		"setuid":               {[]entry{{name: "fw/su", mode: fs.ModeSetuid | 0o755, text: "x"}}, `"fw/su" would run with the rights of its owner or group (mode urwxr-xr-x)`},
		"twice":                {[]entry{object, {name: "./fw/fw.o", text: "other"}}, `"fw/fw.o" is there twice`},
		"file in file":         {[]entry{object, {name: "fw/fw.o/x", text: "x"}}, `"fw/fw.o" is there twice`},
		"file for a directory": {[]entry{object, {name: "fw", text: "x"}}, `"fw" is there twice`},
		"directory for a file": {[]entry{object, {name: "fw/fw.o/", mode: fs.ModeDir | 0o755}}, `"fw/fw.o" is there twice`},
		"no object":            {[]entry{{name: "fw/agent", text: "x"}}, `there is neither a package.yaml nor an object (.o) in it`},
		"nothing":              {nil, `there is no file in it`},
		"several directories":  {[]entry{{name: "a/x.o", text: "x"}, {name: "b/x.o", text: "x"}}, `want one directory fw at the top, or a package.yaml there; have a, b`},
		"a file beside":        {[]entry{{name: "a/x.o", text: "x"}, {name: "x.o", text: "x"}}, `want one directory fw at the top, or a package.yaml there; have a, x.o`},
		"bad manifest":         {[]entry{{name: "fw/package.yaml", text: "[]"}}, `package.yaml: want a map with`},
		"missing file":         {[]entry{{name: "fw/package.yaml", text: agentManifest}, object}, `files[0]: bin/agent: file does not exist`},
		"many":                 {many, `unpack: too large: more than 1000 files, or 10000 entries`},
		"bomb":                 {bomb, `unpack: too large: more than 64 MiB unpacked`},
	} {
		for end, b := range both(t, r.entries...) {
			p, err := openBytes(t, "fw"+end, b)
			if err == nil || !strings.Contains(err.Error(), r.want) {
				t.Errorf("%s%s: %+v, %v, want %s", name, end, p, err, r.want)
			}
		}
	}
	for name, r := range map[string]struct {
		b    []byte
		want string
	}{
		"fw.tar.gz": {tarball(t, object, entry{name: "fw/again", flag: tar.TypeLink, link: "fw/fw.o"}), `"fw/again" is a hard link`},
		"fw.tgz":    {tarball(t, entry{name: "fw/null", flag: tar.TypeChar}), `"fw/null" is a device`},
		"a.tar.gz":  {tarball(t, entry{name: "fw/pipe", flag: tar.TypeFifo}), `"fw/pipe" is a pipe`},
		"no.tgz":    {[]byte("this is text"), `unpack: damaged: gzip: invalid header`},
		"no.zip":    {[]byte("this is text"), `unpack: damaged: zip: not a valid zip file`},
		"empty.tgz": {nil, `unpack: damaged: it ends too early`},
		"dirs.zip":  {bytes.Repeat([]byte("PK\x01\x02"), maxEntries+1), `unpack: too large: more than 10000 entries`},
	} {
		if p, err := openBytes(t, name, r.b); err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%s: %+v, %v, want %s", name, p, err, r.want)
		}
	}
	if p, err := openBytes(t, "fw.tgz", tarball(t, entry{flag: tar.TypeXGlobalHeader}, object)); err != nil || p.Manifest.Name != "fw" {
		t.Errorf("with a comment, as git makes them: %+v, %v", p, err)
	}
}

// An archive that is cut short anywhere, or has one bit changed, is either
// refused or unpacks to the same.
func TestArchiveDamaged(t *testing.T) {
	for end, b := range both(t, packedFiles("fw/")...) {
		want, err := unpack("fw"+end, b)
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(b) {
			if files, err := unpack("fw"+end, b[:n]); err == nil {
				t.Fatalf("%s cut to %d of %d bytes: %+v", end, n, len(b), files)
			}
		}
		for n := range len(b) {
			damaged := bytes.Clone(b)
			damaged[n] ^= 1 << (n % 8)
			files, err := unpack("fw"+end, damaged)
			if err != nil {
				continue
			}
			for name, f := range files {
				if w, ok := want[name]; ok && !bytes.Equal(w.data, f.data) {
					t.Fatalf("%s with byte %d damaged: %s is %q", end, n, name, f.data)
				}
			}
		}
	}
}

// Any bytes: refused, or plain files within the limits.
func FuzzUnpack(f *testing.F) {
	for end, b := range both(f, packedFiles("./fw/")...) {
		f.Add(b, end == ".zip")
	}
	f.Add(tarball(f, entry{name: "fw/link", mode: fs.ModeSymlink | 0o777, link: "/etc"}, entry{name: "fw/link/x", text: "x"}), false)
	f.Add(zipped(f, entry{name: "../x", text: "x"}), true)
	f.Fuzz(func(t *testing.T, b []byte, isZip bool) {
		name := "fw.tar.gz"
		if isZip {
			name = "fw.zip"
		}
		files, err := unpack(name, b)
		if err != nil {
			return
		}
		sum := 0
		for name, f := range files {
			if !filepath.IsLocal(name) || plainPath(name) != nil {
				t.Fatalf("%q", name)
			}
			for other := range files {
				if strings.HasPrefix(other, name+"/") {
					t.Fatalf("%q is in the file %q", other, name)
				}
			}
			sum += len(f.data)
		}
		if sum > maxPackage || len(files) > maxFiles+1 {
			t.Fatalf("%d files with %d bytes", len(files), sum)
		}
		p, err := packed(name, b)
		if err != nil {
			return
		}
		if again, err := packed(name, b); err != nil || again.Digest != p.Digest || len(p.Objects()) == 0 {
			t.Fatalf("%+v, then %+v, %v", p, again, err)
		}
	})
}

// Uncompressed, so that fuzzing reaches what is inside.
func FuzzTar(f *testing.F) {
	for _, top := range []string{"fw/", ""} {
		b := tarball(f, packedFiles(top)...)
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			f.Fatal(err)
		}
		var plain bytes.Buffer
		if _, err := plain.ReadFrom(z); err != nil {
			f.Fatal(err)
		}
		f.Add(plain.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var z bytes.Buffer
		w, err := gzip.NewWriterLevel(&z, gzip.NoCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		files, err := unpack("fw.tgz", z.Bytes())
		if err != nil {
			return
		}
		for name := range files {
			if plainPath(name) != nil {
				t.Fatalf("%q", name)
			}
		}
	})
}
