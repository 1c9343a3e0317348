package btftext

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"l3af/internal/rawbtf"
	"l3af/internal/testenv"
)

func listed(s *rawbtf.Spec) (text, document []byte) {
	w := &Writer{}
	plain, inJSON := Listing{Spec: s}, Listing{Spec: s, W: w}
	w.BeginArray()
	for id := s.First(); id < s.End(); id++ {
		text = plain.Type(text, id)
		inJSON.Type(nil, id)
	}
	w.EndArray()
	return text, w.Buf
}

// Types are listed as bpftool lists them, one of every kind and all of the kernel.
func TestListing(t *testing.T) {
	bpftool := testenv.Tool(t, "bpftool")
	kinds := map[rawbtf.Kind]bool{}
	for _, file := range []string{"testdata/types.bpf.o", "../entries/testdata/maps.bpf.o", "/sys/kernel/btf/vmlinux"} {
		s, err := rawbtf.ReadFile(file, nil)
		if err != nil {
			t.Log(err)
			continue
		}
		for id := s.First(); id < s.End(); id++ {
			kinds[s.Type(id).Kind] = true
		}
		text, document := listed(s)
		want, err := exec.Command(bpftool, "btf", "dump", "file", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(text) != string(want) {
			got, want := strings.Split(string(text), "\n"), strings.Split(string(want), "\n")
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Fatalf("%s, line %d: got %q, want %q", file, i+1, got[i], want[i])
				}
			}
			t.Fatalf("%s: %d lines, want %d", file, len(got), len(want))
		}
		if want, err = exec.Command(bpftool, "-j", "btf", "dump", "file", file).Output(); err != nil {
			t.Fatal(err)
		}
		var got []any
		var root struct{ Types []any }
		read(t, document, &got)
		read(t, want, &root)
		wanted := unsigned(root.Types)
		for i, g := range got {
			if !reflect.DeepEqual(g, wanted[i]) {
				t.Fatalf("%s: got %v, want %v", file, g, wanted[i])
			}
		}
		if len(got) != len(wanted) {
			t.Errorf("%s: %d types, want %d", file, len(got), len(wanted))
		}
	}
	if len(kinds) < 16 {
		t.Errorf("only %d kinds were listed", len(kinds))
	}
}

// unsigned takes back that bpftool extends the sign of unsigned values of enums.
func unsigned(types []any) []any {
	for _, x := range types {
		x := x.(map[string]any)
		if x["kind"] != "ENUM" || x["encoding"] != "UNSIGNED" {
			continue
		}
		for _, v := range x["values"].([]any) {
			v := v.(map[string]any)
			if n, err := strconv.ParseUint(v["val"].(json.Number).String(), 10, 64); err == nil {
				v["val"] = json.Number(strconv.FormatUint(uint64(uint32(n)), 10))
			}
		}
	}
	return types
}

func read(t *testing.T, document []byte, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		t.Fatal(err)
	}
}

// Whatever the types are, they can be listed, and written in C.
func FuzzTypes(f *testing.F) {
	for _, typ := range []btf.Type{u32, &btf.Struct{Name: "s", Size: 8, Members: []btf.Member{{Name: "a", Type: i32, BitfieldSize: 5}, {Type: &btf.Union{Size: 4}, Offset: 32}}},
		&btf.Pointer{Target: &btf.FuncProto{Return: &btf.Void{}, Params: []btf.FuncParam{{Name: "x", Type: u64}}}}} {
		data, _ := encoded(f, typ)
		f.Add(data)
	}
	for _, file := range []string{"testdata/types.bpf.o", "../entries/testdata/maps.bpf.o"} {
		spec, err := btf.LoadSpec(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range []string{"node", "all", "fields", "later"} {
			var typ *btf.Struct
			if spec.TypeByName(name, &typ) == nil {
				data, _ := encoded(f, typ)
				f.Add(data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := rawbtf.Parse(data, nil)
		if err != nil {
			return
		}
		if _, document := listed(s); !json.Valid(document) {
			t.Fatalf("not JSON: %s", document)
		}
		c := NewC(s)
		c.All()
		for id := s.First(); id < s.End(); id++ {
			c.Add(id)
		}
		c.Header()
	})
}
