package chain

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af"
)

func TestSameLayout(t *testing.T) {
	u32, u64, s32 := &btf.Int{Name: "unsigned int", Size: 4}, &btf.Int{Name: "__u64", Size: 8}, &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	alias := &btf.Typedef{Name: "counter_t", Type: &btf.Volatile{Type: u32}}
	of := func(name string, size uint32, members ...btf.Member) *btf.Struct {
		return &btf.Struct{Name: name, Size: size, Members: members}
	}
	m := func(name string, typ btf.Type, at btf.Bits) btf.Member {
		return btf.Member{Name: name, Type: typ, Offset: at * 8}
	}
	enum := func(values ...btf.EnumValue) *btf.Enum { return &btf.Enum{Name: "e", Size: 4, Values: values} }
	section := func(vars ...btf.VarSecinfo) *btf.Datasec { return &btf.Datasec{Name: ".data", Size: 8, Vars: vars} }
	v := func(name string, typ btf.Type, at uint32) btf.VarSecinfo {
		return btf.VarSecinfo{Type: &btf.Var{Name: name, Type: typ, Linkage: btf.GlobalVar}, Offset: at, Size: 4}
	}
	loop := &btf.Struct{Name: "loop", Size: 8}
	loop.Members = []btf.Member{m("next", &btf.Pointer{Target: loop}, 0)}
	a := of("a", 8, m("rate", u32, 0), m("burst", u32, 4))
	for _, r := range []struct {
		name     string
		was, now btf.Type
		want     string
	}{
		{"the same", a, a, ""},
		{"renamed type", a, of("b", 8, m("rate", alias, 0), m("burst", u32, 4)), ""},
		{"swapped", a, of("a", 8, m("burst", u32, 0), m("rate", u32, 4)), ".rate: at byte 4, was at byte 0"},
		{"renamed member", a, of("a", 8, m("pace", u32, 0), m("burst", u32, 4)), ".rate: is no more"},
		{"new member", of("a", 8, m("rate", u32, 0)), a, ".burst: is new"},
		{"other sign", a, of("a", 8, m("rate", s32, 0), m("burst", u32, 4)), ".rate: was unsigned int, is int"},
		{"other size", a, of("a", 16, m("rate", u32, 0), m("burst", u32, 4)), ": was 8 bytes, is 16"},
		{"struct to number", a, u64, ": was a struct, is __u64"},
		{"array", &btf.Array{Type: u32, Nelems: 2}, &btf.Array{Type: alias, Nelems: 2}, ""},
		{"array of others", &btf.Array{Type: u32, Nelems: 2}, &btf.Array{Type: s32, Nelems: 2}, "[]: was unsigned int, is int"},
		{"longer array", &btf.Array{Type: u32, Nelems: 2}, &btf.Array{Type: u32, Nelems: 3}, ": was an array of 2 (unsigned int), is an array of 3 (unsigned int)"},
		{"in one another", of("x", 8, m("in", a, 0)), of("x", 8, m("in", of("a", 8, m("rate", u32, 0), m("burst", s32, 4)), 0)), ".in.burst: was unsigned int, is int"},
		{"bitfield", of("x", 4, btf.Member{Name: "f", Type: u32, BitfieldSize: 3}), of("x", 4, btf.Member{Name: "f", Type: u32, BitfieldSize: 4}), ".f: has 4 bits, had 3"},
		{"enum grows", enum(btf.EnumValue{Name: "A", Value: 1}), enum(btf.EnumValue{Name: "A", Value: 1}, btf.EnumValue{Name: "B", Value: 2}), ""},
		{"enum changes", enum(btf.EnumValue{Name: "A", Value: 1}), enum(btf.EnumValue{Name: "A", Value: 2}), ": A was 1, is 2"},
		{"enum to number", enum(), u32, ""},
		{"float to number", &btf.Float{Name: "float", Size: 4}, u32, ": was float, is unsigned int"},
		{"pointer", loop, &btf.Struct{Name: "other", Size: 8, Members: []btf.Member{m("next", &btf.Pointer{Target: loop}, 0)}}, ""},
		{"other pointer", &btf.Pointer{Target: a}, &btf.Pointer{Target: loop}, ": was a pointer to a, is a pointer to loop"},
		{"section", section(v("x", u32, 0), v("y", u32, 4)), section(v("y", alias, 4), v("x", u32, 0)), ""},
		{"section moved", section(v("x", u32, 0), v("y", u32, 4)), section(v("y", u32, 0), v("x", u32, 4)), ".x: at byte 4, was at byte 0"},
		{"not known", nil, a, ""},
		{"void", a, &btf.Void{}, ""},
	} {
		if got := SameLayout(r.was, r.now); got != r.want {
			t.Errorf("%s: %q, want %q", r.name, got, r.want)
		}
		if back := SameLayout(r.now, r.was); (back == "") != (r.want == "") {
			t.Errorf("%s: the other way: %q", r.name, back)
		}
	}
	spec := &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 1, Key: u32, Value: a}
	big := spec.Copy()
	big.MaxEntries = 2
	if got := SameShape(spec, big); got != "max_entries: was 1, is 2" {
		t.Errorf("shape: %q", got)
	}
	other := spec.Copy()
	other.Value = of("a", 8, m("burst", u32, 0), m("rate", u32, 4))
	if got := SameShape(spec, other); got != "value.rate: at byte 4, was at byte 0" {
		t.Errorf("shape: %q", got)
	}
}

// Members of one instance have one map, whoever uses it; what is read-only
// stays each one's own. Sharing is part of what a chain is.
func TestInstance(t *testing.T) {
	members := func(a, b string) []Member {
		return []Member{
			{Name: "a", Spec: object(t, "xdp"), Entry: "core", Instance: a},
			{Name: "b", Spec: object(t, "xdp"), Entry: "core", Instance: b},
		}
	}
	owners := func(c *Chain) map[string][]string {
		list := map[string][]string{}
		for _, m := range c.Maps {
			if m.Member != "" {
				list[m.Name] = append(list[m.Name], m.Instance)
			}
		}
		return list
	}
	ids := map[string]bool{}
	for _, r := range []struct {
		a, b   string
		shared bool
	}{{"", "", false}, {"x", "x", true}, {"x", "y", false}, {"x", "", false}, {"y", "y", true}} {
		c := compose(t, l3af.XDP, members(r.a, r.b)...)
		if ids[c.ID] {
			t.Errorf("%q, %q: the ID is that of another chain", r.a, r.b)
		}
		ids[c.ID] = true
		if len(owners(c)) < 2 {
			t.Fatalf("maps %v", owners(c))
		}
		for name, list := range owners(c) {
			want := []string{r.a, r.b}
			if constant(name) {
				want = []string{"", ""}
			} else if r.shared {
				want = want[:1]
			}
			if !slices.Equal(list, want) {
				t.Errorf("%q, %q: map %s is of %q, want %q", r.a, r.b, name, list, want)
			}
		}
	}

	other := members("x", "x")
	for name, m := range other[1].Spec.Maps {
		if !constant(name) {
			m.MaxEntries++
		}
	}
	var refused *RefusedError
	if _, err := Compose(l3af.XDP, other); !errors.As(err, &refused) || refused.Member != "b" || !strings.Contains(refused.Reason, "of instance x is another one in a: max_entries") {
		t.Errorf("maps of other shapes: %v", err)
	}
}
