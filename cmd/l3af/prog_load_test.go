package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"l3af/internal/testenv"
)

// Objects are loaded as bpftool does it: the same programs and maps under the
// same names, pinned at the same files.
func TestLoadLikeBpftool(t *testing.T) {
	testenv.Clean(t)
	bpftool, fs := testenv.Tool(t, "bpftool"), testenv.Bpffs(t)
	for _, object := range []string{
		"tables", "globals", "mapinmap", "rings", "../../../../examples/execs/execs", "../../../../cmd/l3af/testdata/speaks",
	} {
		file := filepath.Join(corpus, object+".bpf.o")
		name := filepath.Base(object)
		for _, verb := range []string{"load", "loadall"} {
			var pins [2]string
			for i, dir := range []string{filepath.Join(fs, verb, name, "theirs"), filepath.Join(fs, verb, name, "ours")} {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				path := dir
				if verb == "load" {
					path += "/first"
				}
				args := []string{"prog", verb, file, path, "pinmaps", dir}
				if i == 0 {
					if out, err := exec.Command(bpftool, args...).CombinedOutput(); err != nil {
						t.Fatalf("bpftool %v: %v: %s", args, err, out)
					}
				} else if got := l3afJSON(t, append(args, "-j")...); got != nil {
					t.Errorf("%s %s: got %v", verb, name, got)
				}
				pins[i] = pinned(t, dir)
			}
			if pins[0] != pins[1] || len(strings.Split(pins[0], "\n")) < 3 {
				t.Errorf("%s %s: pinned\n%s\nwant\n%s", verb, name, pins[1], pins[0])
			}
		}
	}
	if err := os.RemoveAll(filepath.Join(fs, "load")); err != nil {
		t.Error(err)
	}
}

// pinned says what is pinned in a folder.
func pinned(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var keys []string
		object := "map"
		if out, err := exec.Command("bpftool", "-j", "map", "show", "pinned", path).Output(); err == nil && !bytes.Contains(out, []byte(`"error"`)) {
			keys = []string{"type", "name", "flags", "bytes_key", "bytes_value", "max_entries", "frozen"}
		} else {
			object, keys = "prog", []string{"type", "name", "tag", "gpl_compatible", "bytes_xlated"}
		}
		m := bpftoolJSON(t, "-j", object, "show", "pinned", path).(map[string]any)
		fmt.Fprintf(&b, "%s: %s", e.Name(), object)
		for _, k := range keys {
			fmt.Fprintf(&b, " %v", m[k])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// A run is told as bpftool tells it, but for how long it took.
func TestRunLikeBpftool(t *testing.T) {
	testenv.Clean(t)
	bpftool := testenv.Tool(t, "bpftool")
	id := idOf(t, testenv.Programs(t, corpus)["moves.moves"])
	dir := t.TempDir()
	packet, ctx := filepath.Join(dir, "packet"), filepath.Join(dir, "ctx")
	content := make([]byte, 70)
	for i := range content {
		content[i] = byte(i * 7)
	}
	if err := os.WriteFile(packet, content, 0o600); err != nil {
		t.Fatal(err)
	}
	context := make([]byte, 24) // struct xdp_md
	context[4] = byte(len(content))
	if err := os.WriteFile(ctx, context, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{
		"data_in P", "data_in P data_out -", "data_in P data_out - repeat 3", "data_in P ctx_in C", "data_in P data_out - ctx_in C ctx_out -",
		"data_in P ctx_in C ctx_out - ctx_size_out 24 data_size_out 1000",
	} {
		args := []string{"prog", "run", "id", id}
		for _, w := range strings.Fields(words) {
			args = append(args, map[string]string{"P": packet, "C": ctx}[w]+strings.Trim(w, "PC"))
		}
		got, want := l3afJSON(t, append(args, "-j")...).(map[string]any), bpftoolJSON(t, append([]string{"-j"}, args...)...).(map[string]any)
		if got["duration"] == nil || want["duration"] == nil {
			t.Errorf("%s: %v, want %v", words, got, want)
		}
		delete(got, "duration")
		delete(want, "duration")
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s\ngot  %v\nwant %v", words, got, want)
		}
		var out, errs bytes.Buffer
		if code := run(args, nil, &out, &errs); code != exitDone {
			t.Fatal(errs.String())
		}
		text, err := exec.Command(bpftool, args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := untimed(out.String()), untimed(string(text)); got != want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", words, got, want)
		}
	}
	// What goes to files and comes from standard input.
	ours := filepath.Join(dir, "out")
	var out, errs bytes.Buffer
	if code := run([]string{"prog", "run", "id", id, "data_in", "-", "data_out", ours}, bytes.NewReader(content), &out, &errs); code != exitDone {
		t.Fatal(errs.String())
	}
	theirs := filepath.Join(dir, "theirs")
	if out, err := exec.Command(bpftool, "prog", "run", "id", id, "data_in", packet, "data_out", theirs).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(ours)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := os.ReadFile(theirs); err != nil || len(want) == 0 || !bytes.Equal(got, want) {
		t.Errorf("in a file: % x, want % x, %v", got, want, err)
	}
}

// untimed is a text without the time that the last line tells.
func untimed(text string) string {
	before, _, _ := strings.Cut(text, "duration")
	return strings.ReplaceAll(before, " \n", "\n") // it ends half a row with a blank
}
