package chain

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"l3af"
)

// value makes the counters of one CPU.
func value(size int, cells map[int]uint64) []byte {
	b := make([]byte, size)
	for at, n := range cells {
		binary.NativeEndian.PutUint64(b[at:], n)
	}
	return b
}

// Counts are summed over the CPUs, and what was not counted is derived.
func TestReadCounts(t *testing.T) {
	l := newLayout(l3af.TCIngress)
	spec := l.spec([]Linked{
		{Name: "a.b", Proceed: []l3af.Verdict{l3af.OK, l3af.Pipe}},
		{Name: "2nd", Proceed: []l3af.Verdict{l3af.Unspec}},
		{Name: "_x", Proceed: []l3af.Verdict{l3af.OK}},
	})
	code := func(v l3af.Verdict) int32 {
		c, ok := l3af.TCIngress.Code(v)
		if !ok {
			c = 9
		}
		return c
	}
	at := func(program int, v l3af.Verdict) int { return l.offset(program, code(v)) }
	size := int(spec.ValueSize)
	got, err := ReadCounts(spec.Value.(*btf.Struct), [][]byte{
		value(size, map[int]uint64{at(0, l3af.Shot): 1, at(0, l3af.Pipe): 10, at(1, l3af.Other): 5, at(2, l3af.OK): 20}),
		value(size, map[int]uint64{at(0, l3af.Shot): 2, at(2, l3af.OK): 30, at(2, l3af.Trap): 1}),
	})
	want := []Count{
		{"a.b", 59, map[l3af.Verdict]uint64{l3af.Shot: 3, l3af.Pipe: 10, l3af.OK: 46}},
		{"2nd", 56, map[l3af.Verdict]uint64{l3af.Other: 5, l3af.Unspec: 51}},
		{"_x", 51, map[l3af.Verdict]uint64{l3af.OK: 50, l3af.Trap: 1}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v, %v\nwant %v", got, err, want)
	}

	// A packet in flight was counted as going on, and has not come to its end.
	got, err = ReadCounts(spec.Value.(*btf.Struct), [][]byte{value(size, map[int]uint64{at(0, l3af.Pipe): 1})})
	if err != nil || got[0].Packets != 1 || !reflect.DeepEqual(got[0].Verdicts, map[l3af.Verdict]uint64{l3af.Pipe: 1}) {
		t.Errorf("in flight: %v, %v", got, err)
	}
}

// Values and types that are no counters are errors, not panics.
func TestReadCountsRefusesOthers(t *testing.T) {
	u64 := &btf.Int{Size: 8}
	cell := func(name string, offset btf.Bits) *btf.Struct {
		return &btf.Struct{Name: name, Members: []btf.Member{{Name: "pass", Type: u64, Offset: offset}}}
	}
	for want, st := range map[string]*btf.Struct{
		"not a struct":                    {Members: []btf.Member{{Name: "a", Type: u64}}},
		"names no proceed set":            {Members: []btf.Member{{Name: "a", Type: cell("pass", 0)}}},
		"outside a value of 8 bytes":      {Members: []btf.Member{{Name: "a", Type: cell("proceed_pass", 64)}}},
		"escape cut short":                {Members: []btf.Member{{Name: "a_x1", Type: cell("proceed_pass", 0)}}},
		`bad escape "_xzz"`:               {Members: []btf.Member{{Name: "_xzz", Type: cell("proceed_pass", 0)}}},
		"offset 0 lies outside a value o": {Members: []btf.Member{{Name: "a", Type: cell("proceed_pass", 1)}}},
	} {
		if _, err := ReadCounts(st, [][]byte{make([]byte, 8)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// The layout survives the wire format of BTF, for every hook and any name.
func TestLayoutRoundTrip(t *testing.T) {
	for _, kind := range l3af.HookKinds() {
		var programs []Linked
		for i, name := range []string{"acl", "rate-limit", "a_x", "_", "é", "9", "x/y z", "_x41"} {
			all := kind.Verdicts()
			programs = append(programs, Linked{Name: name, Proceed: all[i%len(all):]})
		}
		spec := newLayout(kind).spec(programs)
		b, err := btf.NewBuilder([]btf.Type{spec.Value}, nil)
		if err != nil {
			t.Fatal(err)
		}
		read, err := b.Spec()
		if err != nil {
			t.Fatal(err)
		}
		var st *btf.Struct
		if err := read.TypeByName(CountersType, &st); err != nil {
			t.Fatal(err)
		}
		// Every cell holds its own number.
		cells := map[int]uint64{}
		for at := 0; at < int(spec.ValueSize); at += cellSize {
			cells[at] = uint64(1) << (at / cellSize % 60)
		}
		got, err := ReadCounts(st, [][]byte{value(int(spec.ValueSize), cells)})
		if err != nil {
			t.Fatal(err)
		}
		l := newLayout(kind)
		for i, p := range programs {
			if got[i].Name != p.Name {
				t.Errorf("got %q, want %q", got[i].Name, p.Name)
			}
			for j, v := range append(kind.Verdicts(), l3af.Other) {
				want := cells[l.offset(i, int32(j)+kind.FirstCode())]
				if first := i < len(programs)-1 && v == p.Proceed[0]; !first && got[i].Verdicts[v] != want {
					t.Errorf("%s %s: got %d, want %d", p.Name, v, got[i].Verdicts[v], want)
				}
			}
		}
	}
}

// FuzzIdentifier: any name becomes a C identifier and comes back.
func FuzzIdentifier(f *testing.F) {
	for _, s := range []string{"", "acl", "a-b", "_x2d", "a_", "__", "1", "_x", "é", "\x00", "x_xx_"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id := identifier(s)
		for i := 0; i < len(id); i++ {
			c := id[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || i > 0 && '0' <= c && c <= '9') {
				t.Fatalf("%q became %q", s, id)
			}
		}
		back, err := unidentifier(id)
		if err != nil || back != s {
			t.Fatalf("%q became %q became %q, %v", s, id, back, err)
		}
		// And any text that is no identifier of ours is no panic.
		if name, err := unidentifier(s); err == nil && fmt.Sprint(name) == "" && s != "" {
			t.Fatalf("%q became nothing", s)
		}
	})
}
