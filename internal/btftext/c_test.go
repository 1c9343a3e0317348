package btftext

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"l3af/internal/rawbtf"
)

// compilers are those of programs and of everything else. What clang warns about
// unasked fails builds with -Werror; gcc warns about bitfields that the kernel has.
var compilers = map[string][]string{
	"clang-14": {"-target", "bpf", "-c", "-x", "c", "-Werror", "-Wno-unknown-attributes"},
	"gcc":      {"-c", "-x", "c", "-w"},
}

// compile compiles a header and what checks it with every compiler there is.
func compile(t *testing.T, name string, header []byte, checks string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "types.c")
	if err := os.WriteFile(file, append(append([]byte(nil), header...), checks...), 0o600); err != nil {
		t.Fatal(err)
	}
	for cc, args := range compilers {
		exe, err := exec.LookPath(cc)
		if err != nil {
			t.Logf("no %s", cc)
			continue
		}
		out, err := exec.Command(exe, append(args, "-o", filepath.Join(dir, "types.o"), file)...).CombinedOutput()
		if err != nil {
			t.Errorf("%s, %s: %v\n%.3000s", name, cc, err, out)
		}
	}
}

// checks are assertions that sizes and offsets are those of BTF.
func checks(c *C, s *rawbtf.Spec) string {
	var b strings.Builder
	for id := s.First(); id < s.End(); id++ {
		t := s.Type(id)
		if t.Kind != rawbtf.Struct && t.Kind != rawbtf.Union || t.Name == "" || compilersOwn(s, t) {
			continue
		}
		typ := keyword(t) + " " + c.name(id)
		fmt.Fprintf(&b, "_Static_assert(sizeof(%s) == %d, \"size of %s, type %d\");\n", typ, t.Size, typ, id)
		for _, m := range t.Members() {
			if bits, _ := fieldOf(s, m); bits == 0 && m.Name != "" {
				fmt.Fprintf(&b, "_Static_assert(__builtin_offsetof(%s, %s) == %d, \"%s.%s, type %d\");\n", typ, identifier(m.Name), m.Offset/8, typ, m.Name, id)
			}
		}
	}
	return b.String()
}

// compilersOwn says whether a member is of a type that differs between compilers.
func compilersOwn(s *rawbtf.Spec, t *rawbtf.Type) bool {
	for _, m := range t.Members() {
		for typ := s.Type(m.Type); typ.Kind.Modifier(); typ = s.Type(typ.Type) {
			if typ.Name == "__builtin_va_list" {
				return true
			}
		}
	}
	return false
}

// Types of the running kernel and of all our objects compile, and have the
// sizes and offsets that BTF says.
func TestCompiles(t *testing.T) {
	files, err := filepath.Glob("../*/testdata/*.bpf.o")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range append(files, "/sys/kernel/btf/vmlinux") {
		s, err := rawbtf.ReadFile(file, nil)
		if err != nil {
			t.Logf("%s: %v", file, err)
			continue
		}
		c := NewC(s)
		c.All()
		compile(t, file, c.Header(), checks(c, s))
	}
}

// What a compiler makes of the header has every member, bitfields too, where it
// was before.
func TestCompiledAgain(t *testing.T) {
	clang, err := exec.LookPath("clang-14")
	if err != nil {
		t.Skip(err)
	}
	for _, file := range []string{"testdata/types.bpf.o", "../entries/testdata/maps.bpf.o"} {
		s, err := rawbtf.ReadFile(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := NewC(s)
		c.All()
		var vars strings.Builder
		for id := s.First(); id < s.End(); id++ {
			if typ := s.Type(id); typ.Name != "" && (typ.Kind == rawbtf.Struct || typ.Kind == rawbtf.Union) {
				fmt.Fprintf(&vars, "%s %s var%d;\n", keyword(typ), c.name(id), id)
			}
		}
		dir := t.TempDir()
		src, obj := filepath.Join(dir, "t.c"), filepath.Join(dir, "t.o")
		if err := os.WriteFile(src, append(c.Header(), vars.String()...), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(clang, "-target", "bpf", "-g", "-w", "-c", "-o", obj, src).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		again, err := rawbtf.ReadFile(obj, nil)
		if err != nil {
			t.Fatal(err)
		}
		now := map[string]string{}
		for id := again.First(); id < again.End(); id++ {
			if typ := again.Type(id); typ.Kind == rawbtf.Struct || typ.Kind == rawbtf.Union {
				now[keyword(typ)+" "+typ.Name] = places(again, typ)
			}
		}
		for id := s.First(); id < s.End(); id++ {
			typ := s.Type(id)
			if typ.Name == "" || typ.Kind != rawbtf.Struct && typ.Kind != rawbtf.Union {
				continue
			}
			name := keyword(typ) + " " + c.name(id)
			if want := places(s, typ); now[name] != want {
				t.Errorf("%s: %s is\n%s\nand was\n%s", file, name, now[name], want)
			}
		}
	}
}

// places are the members of a type and the tags of what they point to, those of
// anonymous members too.
func places(s *rawbtf.Spec, t *rawbtf.Type) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", t.Size)
	for _, m := range t.Members() {
		if strings.HasPrefix(m.Name, "__pad") {
			continue
		}
		fmt.Fprintf(&b, " %s@%d:%d", m.Name, m.Offset, m.Bits)
		if p := s.Type(m.Type); p.Kind == rawbtf.Ptr && s.Type(p.Type).Kind == rawbtf.TypeTag {
			b.WriteString("<" + s.Type(p.Type).Name + ">")
		}
		if _, of := s.Resolve(m.Type); of != nil && of.Name == "" && (of.Kind == rawbtf.Struct || of.Kind == rawbtf.Union) {
			b.WriteString("{" + places(s, of) + "}")
		}
	}
	return b.String()
}
