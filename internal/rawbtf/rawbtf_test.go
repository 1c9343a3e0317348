package rawbtf

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// objects are the compiled programs of the tree.
func objects(t testing.TB) []string {
	t.Helper()
	list, err := filepath.Glob("../*/testdata/*.bpf.o")
	more, err2 := filepath.Glob("../../programs/*/*.bpf.o")
	if list = append(list, more...); len(list) < 5 || errors.Join(err, err2) != nil {
		t.Fatalf("objects: %v, %v", list, errors.Join(err, err2))
	}
	return list
}

// Types have the numbers, names and sizes that another reader finds.
func TestReadFile(t *testing.T) {
	for _, path := range objects(t) {
		s, err := ReadFile(path, nil)
		if errors.Is(err, ErrNoBTF) {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		want, err := btf.LoadSpec(path)
		if err != nil {
			t.Fatal(err)
		}
		for id := ID(1); id < s.End(); id++ {
			typ := s.Type(id)
			w, err := want.TypeByID(btf.TypeID(id))
			if typ.Kind == DeclTag { // cilium makes it part of its type
				continue
			}
			if err != nil {
				t.Fatalf("%s: type %d %s: %v", path, id, typ.Kind, err)
			}
			if name := w.TypeName(); typ.Kind != TypeTag && name != typ.Name {
				t.Errorf("%s: type %d is named %q, want %q", path, id, typ.Name, name)
			}
			size, ok := s.Sizeof(id)
			if n, err := btf.Sizeof(w); err == nil && n > 0 && typ.Kind != Datasec && (!ok || uint64(n) != size) {
				t.Errorf("%s: type %d %s has %d bytes (%v), want %d", path, id, typ.Kind, size, ok, n)
			}
		}
		if s.Type(s.End()) != nil || s.Type(0).Kind != Void || !s.Native() {
			t.Errorf("%s: a type behind the last, or no void", path)
		}
	}
	if _, err := ReadFile("rawbtf.go", nil); err == nil || !strings.Contains(err.Error(), "no BTF") {
		t.Errorf("a text: %v", err)
	}
	if exe, err := os.Executable(); err == nil {
		if _, err := ReadFile(exe, nil); !errors.Is(err, ErrNoBTF) {
			t.Errorf("a program without types: %v", err)
		}
	}
}

// Types of modules go on where those of the kernel end.
func TestSplit(t *testing.T) {
	base := blob(t, &btf.Int{Name: "int", Size: 4})
	s, err := Parse(base, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A TYPEDEF of type 1, whose name is the first of the new strings.
	split := append([]byte(nil), base[:24]...)
	s.order.PutUint32(split[12:], 12)
	s.order.PutUint32(split[16:], 12)
	s.order.PutUint32(split[20:], 6)
	body := make([]byte, 12)
	s.order.PutUint32(body, uint32(len(s.strings)))
	s.order.PutUint32(body[4:], uint32(Typedef)<<24)
	s.order.PutUint32(body[8:], 1)
	split = append(append(split, body...), "mine\x00\x00"...)
	m, err := Parse(split, s)
	if err != nil {
		t.Fatal(err)
	}
	if m.First() != s.End() || m.End() != s.End()+1 || m.Base() != s {
		t.Errorf("types %d to %d", m.First(), m.End())
	}
	id, typ := m.Resolve(m.First())
	if id != 1 || typ.Name != "int" || m.Type(m.First()).Name != "mine" {
		t.Errorf("resolved to %d %+v", id, typ)
	}
}

func blob(t testing.TB, types ...btf.Type) []byte {
	t.Helper()
	b, err := btf.NewBuilder(types, nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Damage is an error that says where it is.
func TestDamaged(t *testing.T) {
	whole := blob(t, &btf.Struct{Name: "s", Size: 4, Members: []btf.Member{{Name: "m", Type: &btf.Int{Name: "int", Size: 4}}}})
	for want, f := range map[string]func(b []byte) []byte{
		"the header alone":   func(b []byte) []byte { return b[:10] },
		"begins with":        func(b []byte) []byte { b[1] = 0; return b },
		"version 9":          func(b []byte) []byte { b[2] = 9; return b },
		"behind the end":     func(b []byte) []byte { return b[:len(b)-1] },
		"names do not end":   func(b []byte) []byte { b[len(b)-1] = 'x'; return b },
		"unknown kind 31":    func(b []byte) []byte { b[24+7] = 31; return b },
		"its name is at":     func(b []byte) []byte { b[24+1] = 0xff; return b },
		"refers to type 255": func(b []byte) []byte { b[24+12+4] = 0xff; return b },
	} {
		if _, err := Parse(f(bytes.Clone(whole)), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Whatever is read: an error, or types of which everything can be asked.
func FuzzParse(f *testing.F) {
	for _, path := range objects(f)[:5] {
		if data, err := os.ReadFile(path); err == nil {
			if b, err := section(data); err == nil && len(b) < 1<<14 {
				f.Add(b)
			}
		}
	}
	f.Add(blob(f, &btf.Struct{Name: "s", Size: 4, Members: []btf.Member{{Name: "m", Type: &btf.Int{Name: "int", Size: 4}}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data, nil)
		if err != nil {
			return
		}
		for id := s.First(); id < s.End(); id++ {
			typ := s.Type(id)
			switch typ.Kind {
			case Int:
				typ.Integer()
			case Array:
				typ.Array()
			case Struct, Union:
				typ.Members()
			case Enum, Enum64:
				typ.Values()
			case FuncProto:
				typ.Params()
			case Datasec:
				typ.Variables()
			case Var, Func:
				typ.Linkage()
			case DeclTag:
				typ.Component()
			}
			s.Resolve(id)
			s.Sizeof(id)
		}
	})
}
