package artifact

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"l3af"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func packages(t *testing.T) (full, bareObject *Package) {
	t.Helper()
	dir := tree(t, goodFiles())
	full, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	bareObject, err = Open(filepath.Join(dir, "acl.bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	return full, bareObject
}

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "packages")
	s := openStore(t, dir)
	full, object := packages(t)
	if _, err := s.Get(full.Digest); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("Get of what is not there: %v", err)
	}
	for _, p := range []*Package{full, object, full} {
		if err := s.Put(p); err != nil {
			t.Fatal(err)
		}
		// As after a restart.
		got, err := openStore(t, dir).Get(p.Digest)
		if err != nil {
			t.Fatal(err)
		}
		want := *p
		want.Ref = ""
		if !reflect.DeepEqual(got, &want) {
			t.Errorf("Get = %+v, want %+v", got, &want)
		}
	}
	if got := listing(t, dir); len(got) != 2 {
		t.Errorf("store holds %v", got)
	}
	if err := s.Keep([]string{object.Digest, strings.Repeat("0", 64)}); err != nil {
		t.Fatal(err)
	}
	if got := listing(t, dir); !slices.Equal(got, []string{object.Digest}) {
		t.Errorf("after Keep the store holds %v", got)
	}
	for _, d := range []string{"", "..", "../" + full.Digest, strings.ToUpper(full.Digest), full.Digest + "0"} {
		if _, err := s.Get(d); !errors.Is(err, l3af.ErrNotFound) {
			t.Errorf("Get(%q) = %v", d, err)
		}
	}
	object.files["acl.bpf.o"] = file{data: []byte("changed")}
	if err := s.Put(object); err == nil {
		t.Error("Put of a changed package: no error")
	}
}

// Whatever a crash or another hand left: Get says so, Put repairs, Keep and
// OpenStore clean up, and what is not the store's is left alone.
func TestStoreLeftovers(t *testing.T) {
	for name, damage := range map[string]func(dir, digest string) error{
		"object changed": func(dir, d string) error {
			return os.WriteFile(filepath.Join(dir, d, "acl.bpf.o"), []byte("onE"), 0o600)
		},
		"object cut short": func(dir, d string) error { return os.Truncate(filepath.Join(dir, d, "acl.bpf.o"), 1) },
		"object missing":   func(dir, d string) error { return os.Remove(filepath.Join(dir, d, "acl.bpf.o")) },
		"manifest missing": func(dir, d string) error { return os.Remove(filepath.Join(dir, d, "package.yaml")) },
		"manifest garbage": func(dir, d string) error {
			return os.WriteFile(filepath.Join(dir, d, "package.yaml"), []byte{0, 1, 2}, 0o600)
		},
		"manifest empty": func(dir, d string) error { return os.Truncate(filepath.Join(dir, d, "package.yaml"), 0) },
		"empty": func(dir, d string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, d)), os.Mkdir(filepath.Join(dir, d), 0o700))
		},
		"a file": func(dir, d string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, d)), os.WriteFile(filepath.Join(dir, d), nil, 0o600))
		},
		"another package": func(dir, d string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, d)), os.Mkdir(filepath.Join(dir, d), 0o700),
				os.WriteFile(filepath.Join(dir, d, "x.o"), nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir)
			full, _ := packages(t)
			if err := s.Put(full); err != nil {
				t.Fatal(err)
			}
			if err := damage(dir, full.Digest); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{".tmp-123/half.o", ".tmp-file", "theirs"} {
				to := filepath.Join(dir, f)
				if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, []byte("half"), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if p, err := s.Get(full.Digest); err == nil || errors.Is(err, l3af.ErrNotFound) {
				t.Errorf("Get of a damaged package = %v, %v", p, err)
			}
			s = openStore(t, dir)
			if got := listing(t, dir); !slices.Equal(got, []string{full.Digest, "theirs"}) {
				t.Errorf("after OpenStore: %v", got)
			}
			if err := s.Put(full); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Get(full.Digest); err != nil || got.Digest != full.Digest {
				t.Errorf("Get after Put = %v, %v", got, err)
			}
			if err := s.Keep(nil); err != nil {
				t.Fatal(err)
			}
			if got := listing(t, dir); !slices.Equal(got, []string{"theirs"}) {
				t.Errorf("after Keep: %v", got)
			}
		})
	}
}
