package disasm

import (
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"l3af/internal/kallsyms"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

const corpus = "../chain/testdata/corpus"

// What the kernel made of the corpus can all be read: bytecode, functions,
// lines, and machine code with nothing left over.
func TestCorpus(t *testing.T) {
	testenv.Clean(t)
	programs := testenv.Programs(t, corpus)
	if len(programs) < 45 {
		t.Errorf("%d programs", len(programs))
	}
	symbols, err := kallsyms.Read()
	if err != nil {
		t.Fatal(err)
	}
	machine := ThisMachine()
	instructions, natives := 0, 0
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		p, err := Read(programs[name])
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		names := p.Names(symbols)
		for _, ins := range p.Instructions {
			instructions++
			if text := names.Text(ins); strings.Contains(text, "unknown") || strings.Contains(text, "call 0x") {
				t.Errorf("%s: %d: %s", name, ins.Offset, text)
			}
		}
		if p.Info.BTFID != 0 && (len(p.Lines) == 0 || Prototype(p.Functions[0].Func) == "") {
			t.Errorf("%s: %d lines, first function %q", name, len(p.Lines), Prototype(p.Functions[0].Func))
		}
		for _, l := range p.Lines {
			if p.LineAt(l.Offset) != l.Line {
				t.Errorf("%s: line at %d is not found", name, l.Offset)
			}
		}
		if err := p.Compiled(); err != nil || machine == nil {
			t.Logf("%s: no machine code: %v", name, err)
			continue
		}
		if got := Starts(p.Instructions); len(got) > len(p.Functions) {
			t.Errorf("%s: functions begin at %v, the kernel has %d", name, got, len(p.Functions))
		}
		found := map[*Line]bool{}
		for _, f := range p.Functions {
			size := 0
			for _, n := range machine(f.Code, f.Address, symbols) {
				natives++
				if n.Operation == Bad || n.PC != size {
					t.Errorf("%s: %#x: % x %s", name, n.PC, n.Raw, n)
				}
				size += len(n.Raw)
				for i := range p.Lines {
					if p.Lines[i].Address == f.Address+uint64(n.PC) {
						found[&p.Lines[i]] = true
					}
				}
			}
			if size != f.Size {
				t.Errorf("%s: %d bytes read of %d", name, size, f.Size)
			}
			if symbol, ok := symbols.At(f.Address); !ok || !strings.HasPrefix(symbol.Name, "bpf_prog_") || symbol.Module != "bpf" {
				t.Errorf("%s: function at %#x has the symbol %v", name, f.Address, symbol)
			}
		}
		if len(found) != len(p.Lines) {
			t.Errorf("%s: machine code begins %d of %d lines", name, len(found), len(p.Lines))
		}
	}
	t.Logf("%d programs, %d instructions, %d machine instructions", len(programs), instructions, natives)
}

// binutils cuts the machine code of the corpus into the same instructions.
func TestObjdump(t *testing.T) {
	testenv.Clean(t)
	objdump := testenv.Tool(t, "objdump")
	if runtime.GOARCH != "amd64" {
		t.Skip("for x86-64")
	}
	programs, dir, n := testenv.Programs(t, corpus), t.TempDir(), 0
	for name, open := range programs {
		p, err := Read(open)
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range p.Functions {
			file := filepath.Join(dir, "code")
			if err := os.WriteFile(file, f.Code, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(objdump, "-D", "-z", "-b", "binary", "-mi386:x86-64", "--no-show-raw-insn", file).Output()
			if err != nil {
				t.Fatal(err)
			}
			want := witnessed(t, out)
			var got []line
			for _, native := range X86(f.Code, f.Address, nil) {
				got = append(got, lineOf(native.PC, native.Operation, native.Operands))
			}
			n += len(want)
			compareLines(t, fmt.Sprintf("%s function %d", name, i), got, want)
		}
	}
	t.Logf("%d machine instructions compared", n)
}

// llvm-objdump reads code for arm64 as we do.
func TestARM64(t *testing.T) {
	objdump := testenv.Tool(t, "llvm-objdump-14")
	file, err := elf.Open("testdata/arm64.o")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	code, err := file.Section(".text").Data()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(objdump, "-d", "-z", "--no-show-raw-insn", "--mattr=+v8.5a", "testdata/arm64.o").Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []line
	for _, native := range ARM64(code, 0, nil) {
		got = append(got, lineOf(native.PC, native.Operation, native.Operands))
	}
	compareLines(t, "arm64.o", got, witnessed(t, out))
}

// line is where an instruction is, what it does, and where in its function it
// may jump to.
type line struct {
	pc        int
	operation string
	target    string
}

var inFunction = regexp.MustCompile(`^0x[0-9a-f]{1,6}$`)

func lineOf(pc int, operation string, operands []string) line {
	l := line{pc: pc, operation: operation}
	switch l.operation {
	// What assemblers write in several ways.
	case "movabs":
		l.operation = "mov"
	case "leaveq", "retq", "callq", "pushq", "popq", "jmpq":
		l.operation = operation[:len(operation)-1]
	case "b.cc":
		l.operation = "b.lo"
	case "b.cs":
		l.operation = "b.hs"
	case "shlxq", "shlxl", "shrxq", "shrxl", "sarxq", "sarxl":
		l.operation = operation[:4]
	}
	if n := len(operands); n > 0 && (strings.HasPrefix(l.operation, "j") || strings.HasPrefix(l.operation, "b") || strings.HasPrefix(l.operation, "cb") || strings.HasPrefix(l.operation, "tb")) && inFunction.MatchString(operands[n-1]) {
		l.target = operands[n-1]
	}
	return l
}

var objdumpLine = regexp.MustCompile(`(?m)^\s*([0-9a-f]+):\s+(.*)$`)

// witnessed reads the output of objdump or llvm-objdump without raw bytes.
func witnessed(t *testing.T, out []byte) []line {
	t.Helper()
	var list []line
	for _, m := range objdumpLine.FindAllSubmatch(out, -1) {
		pc, err := strconv.ParseInt(string(m[1]), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		text, _, _ := strings.Cut(strings.ReplaceAll(string(m[2]), "\t", " "), " <")
		operation, operands := words(text)
		list = append(list, lineOf(int(pc), operation, operands))
	}
	return list
}

func compareLines(t *testing.T, what string, got, want []line) {
	t.Helper()
	if len(want) == 0 {
		t.Errorf("%s: the witness says nothing", what)
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%s: instruction %d\ngot  %v\nwant %v", what, i, got[min(i, len(got)):min(i+3, len(got))], want[min(i, len(want)):min(i+3, len(want))])
			return
		}
	}
}
