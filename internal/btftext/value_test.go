package btftext

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cilium/ebpf/btf"

	"l3af/internal/rawbtf"
)

// encoded is types in their encoded form, and the numbers they have there.
func encoded(t testing.TB, types ...btf.Type) ([]byte, []rawbtf.ID) {
	t.Helper()
	b, err := btf.NewBuilder(types, nil)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]rawbtf.ID, len(types))
	for i, typ := range types {
		id, err := b.Add(typ)
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = rawbtf.ID(id)
	}
	data, err := b.Marshal(nil, &btf.MarshalOptions{Order: binary.NativeEndian})
	if err != nil {
		t.Fatal(err)
	}
	return data, ids
}

var (
	u8   = &btf.Int{Name: "unsigned char", Size: 1}
	char = &btf.Int{Name: "char", Size: 1, Encoding: btf.Signed}
	u32  = &btf.Int{Name: "unsigned int", Size: 4}
	i32  = &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	u64  = &btf.Int{Name: "unsigned long", Size: 8}
)

func array(t btf.Type, n uint32) *btf.Array { return &btf.Array{Index: u32, Type: t, Nelems: n} }

func bytesOf(n uint64, size int) []byte { return binary.LittleEndian.AppendUint64(nil, n)[:size] }

// Values as bpftool's "formatted" has them, and as it prints them for people.
func TestValue(t *testing.T) {
	if bigEndian {
		t.Skip("the bytes below are little-endian")
	}
	text := array(char, 4)
	fields := &btf.Struct{Name: "fields", Size: 4, Members: []btf.Member{
		{Name: "a", Type: u32, BitfieldSize: 3}, {Name: "b", Type: i32, Offset: 3, BitfieldSize: 7},
		{Name: "c", Type: i32, Offset: 10, BitfieldSize: 22},
	}}
	anonymous := &btf.Struct{Name: "outer", Size: 8, Members: []btf.Member{
		{Type: &btf.Union{Size: 4, Members: []btf.Member{{Name: "x", Type: u32}, {Name: "y", Type: array(u8, 2)}}}},
		{Offset: 32, Type: &btf.Struct{Size: 4, Members: []btf.Member{{Name: "z", Type: i32}}}},
	}}
	signs := &btf.Enum{Name: "sign", Size: 4, Signed: true, Values: []btf.EnumValue{{Name: "MINUS", Value: ^uint64(0)}, {Name: "NONE"}, {Name: "NULL"}}}
	tiny := &btf.Enum{Name: "tiny", Size: 1, Values: []btf.EnumValue{{Name: "LAST", Value: 255}}}
	half, single := &btf.Float{Name: "_Float16", Size: 2}, &btf.Float{Name: "float", Size: 4}
	for _, c := range []struct {
		typ         btf.Type
		value       []byte
		want, plain string
	}{
		{u32, bytesOf(1<<32-1, 4), "4294967295", ""},
		{i32, bytesOf(1<<32-1, 4), "-1", ""},
		{u64, bytesOf(1<<64-1, 8), "18446744073709551615", ""},
		{&btf.Int{Name: "bool", Size: 1, Encoding: btf.Bool}, []byte{2}, "true", ""},
		{&btf.Int{Name: "c", Size: 1, Encoding: btf.Char}, []byte{7}, `"\u0007"`, "0x7"},
		{&btf.Int{Name: "c", Size: 1, Encoding: btf.Char}, []byte{'"'}, `"\""`, ""},
		{&btf.Int{Name: "__int128", Size: 16, Encoding: btf.Signed}, append(bytesOf(1, 8), bytesOf(1<<63, 8)...),
			`"0x80000000000000000000000000000001"`, "0x80000000000000000000000000000001"},
		{&btf.Int{Name: "__int128", Size: 16}, make([]byte, 16), `"0x0"`, "0x0"},
		{text, []byte("abc\x00"), `"abc"`, ""},
		{text, []byte("a\x00\x01\xff"), `"a"`, ""},
		{text, []byte("\"\\'\x00"), `"\"\\'"`, ""},
		{text, []byte("abcd"), "[97,98,99,100]", ""},
		{text, []byte("a\n\x00\x00"), "[97,10,0,0]", ""},
		{text, []byte("\xff\x00\x00\x00"), "[-1,0,0,0]", ""},
		{array(&btf.Const{Type: char}, 2), []byte("a\x00"), `"a"`, ""},
		{array(&btf.Typedef{Name: "letter", Type: char}, 2), []byte("a\x00"), "[97,0]", ""},
		{array(u8, 2), []byte("a\x00"), "[97,0]", ""},
		{array(array(u8, 2), 2), []byte{1, 2, 3, 4}, "[[1,2],[3,4]]", ""},
		{array(u8, 0), nil, "[]", ""},
		{&btf.Pointer{Target: u8}, bytesOf(0xffff888000000000, 8), "18446612682070032384", `"0xffff888000000000"`},
		{&btf.Pointer{Target: u8}, bytesOf(0, 8), "0", `"(nil)"`},
		{fields, bytesOf(5|0x7f<<3|1<<10, 4), `{"a":"0x5","b":"0x7f","c":"0x1"}`, `{"a":0x5,"b":0x7f,"c":0x1}`},
		{anonymous, []byte{1, 2, 0, 0, 255, 255, 255, 255}, `{"":{"x":513,"y":[1,2]},"":{"z":-1}}`, ""},
		{signs, bytesOf(1<<32-1, 4), `"MINUS"`, ""},
		{signs, bytesOf(0, 4), `"NONE"`, ""},
		{signs, bytesOf(7, 4), "7", ""},
		{tiny, []byte{255}, `"LAST"`, ""},
		{&btf.Enum{Name: "far", Size: 8, Values: []btf.EnumValue{{Name: "FAR", Value: 1 << 40}}}, bytesOf(1<<40, 8), `"FAR"`, ""},
		{single, bytesOf(uint64(math.Float32bits(0.1)), 4), "0.1", ""},
		{single, bytesOf(uint64(math.Float32bits(float32(math.NaN()))), 4), `"nan"`, ""},
		{&btf.Float{Name: "double", Size: 8}, bytesOf(math.Float64bits(-1e300), 8), "-1e+300", ""},
		{&btf.Float{Name: "double", Size: 8}, bytesOf(math.Float64bits(math.Inf(-1)), 8), `"-inf"`, ""},
		{half, bytesOf(0xc100, 2), "-2.5", ""},
		{half, bytesOf(1, 2), "5.9604645e-08", ""},
		{half, bytesOf(0x7c00, 2), `"inf"`, ""},
		{&btf.Float{Name: "long double", Size: 16}, bytesOf(5, 8)[:8:8], "", ""},
		{&btf.Datasec{Name: ".bss", Size: 8, Vars: []btf.VarSecinfo{
			{Type: &btf.Var{Name: "n", Type: u32}, Size: 4}, {Type: &btf.Var{Name: "t", Type: text}, Offset: 4, Size: 4}}},
			[]byte{1, 0, 0, 0, 'a', 0, 0, 0}, `{".bss":[{"n":1},{"t":"a"}]}`, ""},
	} {
		data, ids := encoded(t, c.typ)
		spec, err := rawbtf.Parse(data, nil)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Compile(spec, ids[0])
		if err != nil {
			t.Errorf("%v: %v", c.typ, err)
			continue
		}
		if f.Size() != len(c.value) {
			if c.want != "" {
				t.Errorf("%v: %d bytes, want %d", c.typ, f.Size(), len(c.value))
			}
			continue
		}
		if c.plain == "" {
			c.plain = c.want
		}
		for _, w := range []struct {
			plain bool
			want  string
		}{{false, c.want}, {true, c.plain}} {
			var out Writer
			f.Value(&out, c.value, w.plain)
			if string(out.Buf) != w.want {
				t.Errorf("%v, plain %v: got %s, want %s", c.typ, w.plain, out.Buf, w.want)
			}
		}
	}
}

// What cannot be a type of values is refused, not printed.
func TestCompileErrors(t *testing.T) {
	for want, typ := range map[string]btf.Type{
		"void has no values": &btf.Typedef{Name: "nothing", Type: &btf.Void{}},
		"it has no values":   &btf.FuncProto{Return: u8},
		"bytes at":           &btf.Struct{Name: "s", Size: 2, Members: []btf.Member{{Name: "outside", Type: u32}}},
		"too large":          array(array(u64, 1<<20), 1<<20),
		"too many parts":     array(array(array(u8, 0), 1<<14), 1<<14),
	} {
		data, ids := encoded(t, typ)
		spec, err := rawbtf.Parse(data, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Compile(spec, ids[0]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", typ, err, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	typ := &btf.Struct{Name: "s", Size: 24, Members: []btf.Member{
		{Name: "n", Type: u32}, {Name: "list", Type: array(i32, 2), Offset: 32},
		{Name: "u", Type: &btf.Union{Size: 4, Members: []btf.Member{{Name: "no", Type: u32}}}, Offset: 96},
		{Name: "d", Type: &btf.Float{Name: "double", Size: 8}, Offset: 128},
	}}
	data, ids := encoded(t, typ)
	spec, err := rawbtf.Parse(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(spec, ids[0])
	if err != nil {
		t.Fatal(err)
	}
	v := func(n uint32, a, b int32, d float64) []byte {
		out := binary.NativeEndian.AppendUint32(nil, n)
		out = binary.NativeEndian.AppendUint32(out, uint32(a))
		out = binary.NativeEndian.AppendUint32(out, uint32(b))
		return binary.NativeEndian.AppendUint64(append(out, 0, 0, 0, 0), math.Float64bits(d))
	}
	one, two := v(1<<31, -5, 1, 0.5), v(1<<31, 2, 1, 0.25)
	var got []string
	for _, n := range f.Numbers(one, two) {
		got = append(got, n.Path+"="+n.String())
	}
	if s := strings.Join(got, " "); s != ".n=4294967296 .list[0]=-3 .list[1]=2 .d=0.75" {
		t.Errorf("numbers: %s", s)
	}
	var w Writer
	f.Sum(&w, one, two)
	if s := string(w.Buf); s != `{"n":4294967296,"list":[-3,2],"d":0.75}` {
		t.Errorf("sum: %s", s)
	}
	if d := f.Numbers(two)[1].Since(f.Numbers(one)[1]); d != 7 {
		t.Errorf("since: %v", d)
	}
}

// Text is what every reader of JSON reads again.
func FuzzString(f *testing.F) {
	for _, s := range []string{"", "a\"\\b", "\x00\x1f\x7f", "\xff\xc3\x28", "ä\u2028😀"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := AppendString(nil, s)
		var back string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%q: %s: %v", s, b, err)
		}
		if utf8.ValidString(s) && back != s {
			t.Fatalf("%q came back as %q", s, back)
		}
	})
}

// Whatever the types and the bytes are: an error, or one JSON document.
func FuzzValue(f *testing.F) {
	for _, typ := range []btf.Type{u32, &btf.Struct{Name: "s", Size: 4, Members: []btf.Member{{Name: "a", Type: i32, BitfieldSize: 5}}},
		array(char, 8), &btf.Enum{Name: "e", Size: 4, Values: []btf.EnumValue{{Name: "A", Value: 1}}}} {
		data, ids := encoded(f, typ)
		f.Add(data, uint32(ids[0]), []byte("some bytes, more than there are in most types"))
	}
	if s, err := os.ReadFile("../entries/testdata/maps.bpf.o"); err == nil {
		spec, err := btf.LoadSpecFromReader(strings.NewReader(string(s)))
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range []string{"all", "flow", "real"} {
			var typ *btf.Struct
			if err := spec.TypeByName(name, &typ); err != nil {
				f.Fatal(err)
			}
			data, ids := encoded(f, typ)
			f.Add(data, uint32(ids[0]), make([]byte, 256))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, id uint32, value []byte) {
		spec, err := rawbtf.Parse(data, nil)
		if err != nil {
			return
		}
		c, err := Compile(spec, rawbtf.ID(id))
		if err != nil || c.Size() > 1<<16 {
			return
		}
		value = append(value, make([]byte, c.Size())...)
		for _, indent := range []int{0, 4} {
			w := Writer{Indent: indent}
			c.Value(&w, value, false)
			if !json.Valid(w.Buf) {
				t.Fatalf("not JSON: %s", w.Buf)
			}
			c.Value(&Writer{Indent: indent}, value, true)
		}
		numbers := c.Numbers(value)
		if (len(numbers) > 0) && !c.HasNumbers() {
			t.Fatalf("%d numbers in a type without", len(numbers))
		}
		if c.HasNumbers() {
			var w Writer
			c.Sum(&w, value, value)
			if !json.Valid(w.Buf) {
				t.Fatalf("not JSON: %s", w.Buf)
			}
		}
	})
}
