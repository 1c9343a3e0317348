package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af/internal/testenv"
	"l3af/internal/testenv/zoo"
)

const corpus = "../../internal/chain/testdata/corpus"

// dumped are programs with all that code can have, by name.
func dumped(t *testing.T) map[string]*ebpf.Program {
	t.Helper()
	all := testenv.Programs(t, corpus)
	maps.Copy(all, zoo.Open(t).Programs)
	return all
}

func idOf(t testing.TB, p *ebpf.Program) string {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return fmt.Sprint(id)
}

// newer says of what bpftool 7.1 prints that its kernel did not know the
// instruction yet: values of CPUs, signed division and so on (Linux 6.6 to 6.15).
func newer(ours, theirs string) bool {
	for _, word := range []string{"(void __percpu *)", " s/= ", " s%= ", "(s8", "(s16", "(s32", "bswap", "gotol", "may_goto", "nospec", "load_acquire", "store_release"} {
		if strings.Contains(ours, word) && !strings.Contains(theirs, word) {
			return true
		}
	}
	return false
}

// The bytecode of programs is what bpftool prints, as JSON and as text.
func TestDumpXlated(t *testing.T) {
	testenv.Clean(t)
	programs, instructions := dumped(t), 0
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		id := idOf(t, programs[name])
		args := []string{"-j", "prog", "dump", "xlated", "id", id, "opcodes"}
		got, want := without(l3afJSON(t, args...), "offset").([]any), bpftoolJSON(t, args...).([]any)
		instructions += len(want)
		firstDifference(t, name+" -j opcodes", got, want, func(got, want any) bool {
			g, w := got.(map[string]any), want.(map[string]any)
			if newer(g["disasm"].(string), w["disasm"].(string)) {
				g["disasm"] = w["disasm"]
			}
			// It writes a backslash as the escape of a newline.
			if src, ok := w["src"].(string); ok {
				w["src"] = strings.ReplaceAll(src, "\n", `\`)
			}
			return reflect.DeepEqual(g, w)
		})
		if !slices.Contains([]string{zoo.LongName, "subprograms.subprograms", "tables.tables", "plain.plain"}, name) {
			continue
		}
		args = append(args[1:len(args)-1], "linum")
		var out bytes.Buffer
		if code := run(args, nil, &out, os.Stderr); code != exitDone {
			t.Fatal(code)
		}
		text, err := exec.Command("bpftool", args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := strings.Split(out.String(), "\n"), strings.Split(string(text), "\n")
		firstDifference(t, name+" linum", ours, theirs, func(got, want string) bool { return got == want || newer(got, want) })
	}
	t.Logf("%d programs, %d instructions", len(programs), instructions)
}

// Where the lines of source are from is told in JSON too.
func TestDumpLinum(t *testing.T) {
	testenv.Clean(t)
	p := zoo.Open(t).Programs[zoo.LongName]
	args := []string{"-j", "prog", "dump", "xlated", "id", idOf(t, p), "linum"}
	firstDifference(t, "linum", without(l3afJSON(t, args...), "offset").([]any), bpftoolJSON(t, args...).([]any), func(got, want any) bool {
		delete(got.(map[string]any), "disasm")
		delete(want.(map[string]any), "disasm")
		return reflect.DeepEqual(got, want)
	})
}

func firstDifference[T any](t *testing.T, what string, got, want []T, same func(got, want T) bool) {
	t.Helper()
	if len(want) == 0 {
		t.Errorf("%s: nothing to compare with", what)
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !same(got[i], want[i]) {
			t.Errorf("%s: element %d\ngot  %v\nwant %v", what, i, got[min(i, len(got)):min(i+2, len(got))], want[min(i, len(want)):min(i+2, len(want))])
			return
		}
	}
}

// The code of several programs stands behind what they are; files hold the
// same bytes as bpftool's.
func TestDumpMany(t *testing.T) {
	testenv.Clean(t)
	var ids []string
	var progs []*ebpf.Program
	name := fmt.Sprintf("many%d", os.Getpid())
	for range 2 {
		p := loadNamed(t, name)
		ids, progs = append(ids, idOf(t, p)), append(progs, p)
	}
	args := []string{"-j", "prog", "dump", "xlated", "name", name}
	got, want := l3afJSON(t, args...).([]any), bpftoolJSON(t, args...).([]any)
	for _, p := range got {
		without(p.(map[string]any)["insns"], "offset")
	}
	if len(got) != 2 || !reflect.DeepEqual(got, want) {
		t.Errorf("JSON\ngot  %v\nwant %v", got, want)
	}
	args = args[1:]
	var out bytes.Buffer
	if code := run(args, nil, &out, os.Stderr); code != exitDone {
		t.Fatal(code)
	}
	text, err := exec.Command("bpftool", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), text) {
		t.Errorf("text\ngot\n%s\nwant\n%s", out.String(), text)
	}
	for kind, want := range map[string]func(*ebpf.ProgramInfo) []byte{
		"xlated": func(*ebpf.ProgramInfo) []byte {
			file := filepath.Join(t.TempDir(), "theirs")
			if out, err := exec.Command("bpftool", "prog", "dump", "xlated", "id", ids[0], "file", file).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			code, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			return code
		},
		"jited": func(info *ebpf.ProgramInfo) []byte { code, _ := info.JitedInsns(); return code },
	} {
		file := filepath.Join(t.TempDir(), "ours")
		l3afJSON(t, "-j", "prog", "dump", kind, "id", ids[0], "file", file)
		info, err := progs[0].Info()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || len(got) == 0 || !bytes.Equal(got, want(info)) {
			t.Errorf("%s in a file: % x, want % x, %v", kind, got, want(info), err)
		}
	}
}

func loadNamed(t testing.TB, name string) *ebpf.Program {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec(filepath.Join(corpus, "plain.bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	spec.Programs["plain"].Name = name
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	p := coll.DetachProgram("plain")
	t.Cleanup(func() { p.Close() })
	return p
}

// The machine code of programs is all that the kernel has: function after
// function, each instruction behind the one before. (Debian's bpftool cannot.)
func TestDumpJited(t *testing.T) {
	testenv.Clean(t)
	programs, n := dumped(t), 0
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		id := idOf(t, programs[name])
		info, err := programs[name].Info()
		if err != nil {
			t.Fatal(err)
		}
		want, ok := info.JitedInsns()
		if !ok {
			t.Skip("programs are not compiled")
		}
		var got []byte
		src := map[string]int{}
		for _, f := range l3afJSON(t, "-j", "prog", "dump", "jited", "id", id, "opcodes").([]any) {
			f := f.(map[string]any)
			if !strings.HasPrefix(f["name"].(string), "bpf_prog_") {
				t.Errorf("%s: a function is called %v", name, f["name"])
			}
			pc := 0
			for _, i := range f["insns"].([]any) {
				i := i.(map[string]any)
				if i["pc"] != fmt.Sprintf("0x%x", pc) || i["operation"] == "(bad)" {
					t.Errorf("%s: at %#x: %v", name, pc, i)
				}
				for _, o := range i["opcodes"].([]any) {
					var b byte
					if _, err := fmt.Sscanf(o.(string), "0x%02x", &b); err != nil {
						t.Fatal(err)
					}
					got = append(got, b)
					pc++
				}
				if line, ok := i["src"]; ok {
					src[strings.TrimSpace(line.(string))]++
				}
				n++
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
		lines, err := info.LineInfos()
		if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
			t.Fatal(err)
		}
		for _, l := range lines {
			if src[strings.TrimSpace(l.Line.Line())] == 0 {
				t.Errorf("%s: the line %q is nowhere in the machine code", name, l.Line.Line())
			}
		}
	}
	t.Logf("%d programs, %d machine instructions", len(programs), n)
}

// Graphviz reads the graph of every program.
func TestDumpVisual(t *testing.T) {
	testenv.Clean(t)
	dot := testenv.Tool(t, "dot")
	for name, p := range dumped(t) {
		var out, errs bytes.Buffer
		if code := run([]string{"prog", "dump", "xlated", "id", idOf(t, p), "visual"}, nil, &out, &errs); code != exitDone {
			t.Fatalf("%s: %s", name, errs.String())
		}
		text := out.String()
		cmd := exec.Command(dot, "-Tplain")
		cmd.Stdin = &out
		// One line for each node and edge.
		plain, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: dot: %v\n%s", name, err, text)
		}
		if edges := strings.Count(string(plain), "\nedge "); edges == 0 || edges != strings.Count(text, " -> ") {
			t.Errorf("%s: dot draws %d edges, want %d", name, edges, strings.Count(text, " -> "))
		}
	}
}
