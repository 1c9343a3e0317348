package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/testenv"
)

// What a terminal would obey does not get to it; all else does, as it is.
func TestPrintable(t *testing.T) {
	for _, c := range []struct{ text, written, word string }{
		{"a\tb\n", "a\tb\n", `a\tb\n`},
		{"größe → \"x\" \\n", "größe → \"x\" \\n", "größe → \"x\" \\n"},
		{"\x1b[31mred\r\x00\x7f", `\x1b[31mred\r\x00\x7f`, `\x1b[31mred\r\x00\x7f`},
		{"\u009b2J", `\u009b2J`, `\u009b2J`}, // CSI in one
		{"\u202egnp.exe", `\u202egnp.exe`, `\u202egnp.exe`},
		{"bad \xff\xc3", `bad \xff\xc3`, `bad \xff\xc3`},
		{"", "", ""},
	} {
		var b bytes.Buffer
		if n, err := (printable{&b}).Write([]byte(c.text)); err != nil || n != len(c.text) || b.String() != c.written {
			t.Errorf("%q: wrote %q, %d, %v, want %q", c.text, b.String(), n, err, c.written)
		}
		if got := word(c.text); got != c.word {
			t.Errorf("%q: the word %q, want %q", c.text, got, c.word)
		}
	}
}

// Whatever is written, nothing of it drives a terminal, and words stay on a line.
func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"", "plain\n\ttext", "\x1b[2J", "\xff\xc3\xa9", "\u009b\u202e", "é→"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var b bytes.Buffer
		if n, err := (printable{&b}).Write([]byte(s)); err != nil || n != len(s) {
			t.Fatal(n, err)
		}
		for _, c := range []struct{ text, keep string }{{b.String(), "\n\t"}, {word(s), ""}} {
			if !utf8.ValidString(c.text) || strings.ContainsFunc(c.text, func(r rune) bool { return !unicode.IsPrint(r) && !strings.ContainsRune(c.keep, r) }) {
				t.Errorf("%q became %q", s, c.text)
			}
			if escaped(c.text, c.keep) != c.text {
				t.Errorf("%q is not the same again", c.text)
			}
		}
	})
}

// A process that holds a map, and the folder of a pin, may have any name.
func TestNamesOfOthers(t *testing.T) {
	testenv.Clean(t)
	testenv.Root(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	dir := filepath.Join(testenv.Bpffs(t), "d\x1b[31m\n7: map")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pin := filepath.Join(dir, "m")
	if err := m.Pin(pin); err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	name := filepath.Join(t.TempDir(), "\x1b[2J\"\n\xff") // what it is called by is its comm
	if err := os.Symlink(sleep, name); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(m.FD())
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "map")
	defer f.Close()
	holder := exec.Command(name, "60")
	holder.ExtraFiles = []*os.File{f}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	text := string(l3afSays(t, "-f", "map", "show", "pinned", pin))
	if !strings.Contains(text, `d\x1b[31m\n7: map/m`) || !strings.Contains(text, `pids \x1b[2J"\n\xff(`) || strings.Contains(text, "\x1b") {
		t.Errorf("text: %q", text)
	}
	shown := document(t, "l3af", l3afSays(t, "-jf", "map", "show", "pinned", pin)).([]any)[0].(map[string]any)
	pids, _ := shown["pids"].([]any)
	if pins, _ := shown["pinned"].([]any); len(pins) != 1 || pins[0] != pin || len(pids) != 1 || pids[0].(map[string]any)["comm"] != "\x1b[2J\"\n\ufffd" {
		t.Errorf("JSON: %v", shown)
	}
}
