package value

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// tree reads JSON as the document's reader does.
func tree(t testing.TB, s string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return v
}

func variables(t testing.TB) map[string]*ebpf.VariableSpec {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec("testdata/types.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	return spec.Variables
}

// What the C compiler makes of a constant is what Encode makes of the same
// constant written by people, in any of its forms; Decode gives the first.
func TestEncodeEqualsCompiler(t *testing.T) {
	vars := variables(t)
	lpm := Options{LPM: true}
	rows := []struct {
		name  string
		o     Options
		forms []string // JSON; the first is what Decode gives
	}{
		{"a_u8", Options{}, []string{`200`, `"200"`, `"0xc8"`, `"0o310"`, `"0b11001000"`, `"+200"`}},
		{"a_s8", Options{}, []string{`-128`, `"-128"`, `"-0x80"`}},
		{"a_u16", Options{}, []string{`48879`, `"0xbeef"`, `"0xBEEF"`}},
		{"a_s32", Options{}, []string{`-2`}},
		{"a_u64", Options{}, []string{`18446744073709551615`, `"0xffff_ffff_ffff_ffff"`}},
		{"a_s64", Options{}, []string{`-9223372036854775808`}},
		{"an_u128", Options{}, []string{`1512366075204170947332355369683137040`, `"0x0123456789abcdeffedcba9876543210"`}},
		{"an_s128", Options{}, []string{`-5`}},
		{"a_bool", Options{}, []string{`true`, `1`, `"true"`}},
		{"a_float", Options{}, []string{`1.5`, `15e-1`}},
		{"a_double", Options{}, []string{`-2.25e+100`, `-2.25e100`}},
		{"a_be16", Options{}, []string{`80`, `"80"`, `"0x50"`}},
		{"a_be32", Options{}, []string{`"10.0.0.1"`, `167772161`, `"0x0a000001"`}},
		{"a_tagged", Options{}, []string{`80`}},
		{"a_u16", Options{Network: true}, []string{`61374`}},
		{"text", Options{}, []string{`"eth0"`, `[101, 116, 104, 48]`}},
		{"full", Options{}, []string{`"eth0"`}},
		{"mac", Options{}, []string{`"02:00:00:00:ab:01"`, `"02-00-00-00-AB-01"`, `"0x02000000ab01"`, `[2, 0, 0, 0, 171, 1]`}},
		{"v4", Options{}, []string{`"192.0.2.1"`, `"0xc0000201"`, `[192, 0, 2, "1"]`}},
		{"blob", Options{}, []string{`"0x0180ff"`, `[1, 128, 255]`}},
		{"words6", Options{}, []string{`"2001:db8::1"`, `[536939960, 0, 0, 1]`, `["32.1.13.184", 0, 0, 1]`}},
		{"v6", Options{}, []string{`"2001:db8::1"`, `{"in6_u": {"u6_addr8": "2001:db8::1"}}`, `{"in6_u": {"u6_addr16": [8193, 3512, 0, 0, 0, 0, 0, 1]}}`}},
		{"grid", Options{}, []string{`[[1, 2, 0], [3, 0, 0]]`, `[[1, 2], [3]]`}},
		{"an_enum", Options{}, []string{`"COLOR_GREEN"`, `"green"`, `"Green"`, `"color_green"`, `7`, `"7"`}},
		{"high_enum", Options{}, []string{`"COLOR_BLUE"`, `4294967280`}},
		{"a_signed_enum", Options{}, []string{`"LEVEL_LOW"`, `"low"`, `-3`, `4294967293`}},
		{"bitfields", Options{}, []string{
			`{"a": 5, "b": -9, "c": 703710, "d": "COLOR_GREEN", "e": 78187493530, "f": true}`,
			`{"a": 5, "b": -9, "c": "0xabcde", "d": "green", "e": "0x123456789a", "f": 1}`}},
		{"record", Options{}, []string{
			`{"kind": 4, "addr": "10.0.0.1", "port": 80, "peers": [{"weight": -7, "name": "a"}, {"weight": 300, "name": "longer"}], "key": {"num": 99}, "next": "0x0"}`}},
		{"by_mac", Options{}, []string{`{"kind": 0, "addr": "1.2.3.4", "port": 1286, "peers": [{"weight": 0, "name": ""}, {"weight": 0, "name": ""}], "key": {"num": 0}, "next": "0x0"}`}},
		{"a_mapped", Options{}, []string{`{"addr": "10.0.0.1"}`, `{"addr": "::ffff:10.0.0.1"}`}},
		{"either4", Options{}, []string{`{"addr": {"v6": "a00:1::"}}`, `{"addr": "10.0.0.1"}`, `{"addr": {"v4": "10.0.0.1"}}`}},
		{"either6", Options{}, []string{`{"addr": {"v6": "2001:db8::1"}}`, `{"addr": "2001:db8::1"}`}},
		{"trie4", lpm, []string{`"10.0.0.0/8"`, `{"prefixlen": 8, "addr": "10.0.0.0"}`, `{"addr": 167772160, "prefixlen": "8"}`}},
		{"trie4", Options{}, []string{`"10.0.0.0/8"`}},
		{"trie4", Options{Network: true}, []string{`"10.0.0.0/8"`, `{"prefixlen": 8, "addr": "10.0.0.0"}`}},
		{"trie_mapped", Options{}, []string{`"10.0.0.0/8"`}},
		{"trie4", Options{LPM: true, Network: true}, []string{`"10.0.0.0/8"`, `{"prefixlen": 8, "addr": "10.0.0.0"}`}},
		{"trie_mapped", lpm, []string{`"10.0.0.0/8"`, `"::ffff:10.0.0.0/104"`, `{"prefixlen": 104, "addr": "10.0.0.0"}`}},
		{"trie_more", lpm, []string{`{"prefixlen": 16, "vlan": 4660, "port": 0}`, `{"prefixlen": 16, "vlan": "0x1234"}`}},
	}
	seen := map[string]bool{}
	for _, r := range rows {
		seen[r.name] = true
		v := vars[r.name]
		if v == nil || v.Type == nil {
			t.Fatalf("no variable %s", r.name)
		}
		got, err := Decode(v.Type, v.Value, r.o)
		if want := tree(t, r.forms[0]); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: Decode = %#v, %v, want %#v", r.name, got, err, want)
		}
		for i, form := range r.forms {
			in := tree(t, form)
			if m, ok := in.(map[string]any); ok && i == 0 {
				delete(m, "next") // a pointer
			}
			b, err := Encode(v.Type, in, r.o)
			if err != nil || !bytes.Equal(b, v.Value) {
				t.Errorf("%s: Encode(%s) = %x, %v, want %x", r.name, form, b, err, v.Value)
			}
		}
	}
	b, err := Encode(vars["by_mac"].Type, tree(t, `{"mac": "01:02:03:04:05:06"}`), Options{})
	if err != nil || !bytes.Equal(b, vars["by_mac"].Value) {
		t.Errorf("by_mac: %x, %v, want %x", b, err, vars["by_mac"].Value)
	}
	for name := range vars {
		if !seen[name] && name != "_license" {
			t.Errorf("%s is not in the table", name)
		}
	}
}

func TestEncodeMistakes(t *testing.T) {
	vars := variables(t)
	lpm := Options{LPM: true}
	for _, r := range []struct {
		name string
		o    Options
		in   string
		want string // lines of "path: message (hint)"
	}{
		{"a_u8", Options{}, `256`, `256 is out of range: 0 to 255`},
		{"a_u8", Options{}, `-1`, `-1 is out of range: 0 to 255`},
		{"a_s8", Options{}, `128`, `128 is out of range: -128 to 127`},
		{"a_s8", Options{}, `"-0x81"`, `"-0x81" is out of range: -128 to 127`},
		{"a_u64", Options{}, `18446744073709551616`, `18446744073709551616 is out of range: 0 to 18446744073709551615`},
		{"an_s128", Options{}, `170141183460469231731687303715884105728`,
			`170141183460469231731687303715884105728 is out of range: -170141183460469231731687303715884105728 to 170141183460469231731687303715884105727`},
		{"a_u8", Options{}, `1.5`, `want an integer from 0 to 255, have 1.5`},
		{"a_u8", Options{}, `1e2`, `want an integer from 0 to 255, have 1e2`},
		{"a_u8", Options{}, `null`, `want an integer from 0 to 255, have null`},
		{"a_u8", Options{}, `true`, `want an integer from 0 to 255, have true`},
		{"a_u8", Options{}, `[1]`, `want an integer from 0 to 255, have a list`},
		{"a_u8", Options{}, `"010"`, `want an integer from 0 to 255, have "010" (write 0o10 or 10)`},
		{"a_u16", Options{}, `"http"`, `want an integer from 0 to 65535, have "http"`},
		{"a_be32", Options{}, `"www"`, `want an integer from 0 to 4294967295 or an IPv4 address, have "www"`},
		{"a_be32", Options{}, `"10.0.0.256"`, `"10.0.0.256" is not an IPv4 address`},
		{"a_be32", Options{}, `"2001:db8::1"`, `"2001:db8::1" is an IPv6 address, an IPv4 address is wanted`},
		{"a_be32", Options{}, `"10.0.0.0/8"`, `"10.0.0.0/8" is not an IPv4 address (write 10.0.0.0: only keys of LPM maps are prefixes)`},
		{"a_bool", Options{}, `2`, `want true or false, have 2`},
		{"a_float", Options{}, `1e39`, `1e39 is out of range of float`},
		{"a_double", Options{}, `"x"`, `want a number, have "x"`},
		{"text", Options{}, `"wlp0s20f3"`, `text of 9 bytes does not fit: char[8] holds 8`},
		{"text", Options{}, `"a\u0000b"`, `text cannot hold a zero byte`},
		{"text", Options{}, `5`, `want text of up to 8 bytes, have 5`},
		{"mac", Options{}, `"02:00:00:00:01"`, `"02:00:00:00:01" is not a MAC address (write it as 02:00:00:00:00:01)`},
		{"mac", Options{}, `[1, 2, 3]`, `3 bytes are too few: __u8[6] wants exactly 6`},
		{"mac", Options{}, `"0x0102"`, `"0x0102" has 2 bytes, want 6`},
		{"mac", Options{}, `7`, `want a list of 6 or a MAC address, have 7`},
		{"blob", Options{}, `"0xabc"`, `"0xabc" is not hex digits in pairs`},
		{"blob", Options{}, `"abc"`, `want a list of 3, have "abc"`},
		{"blob", Options{}, `[1, 2, 3, 4]`, `4 elements do not fit: __u8[3] holds 3`},
		{"v6", Options{}, `"10.0.0.1"`, `"10.0.0.1" is an IPv4 address, an IPv6 address is wanted (write ::ffff:10.0.0.1 if the program keeps IPv4 addresses that way)`},
		{"v6", Options{}, `"fe80::1%eth0"`, `"fe80::1%eth0" has a zone (write fe80::1)`},
		{"grid", Options{}, `[[1, -2], [3, 4, 5, 6], [7]]`, `3 elements do not fit: __u32[3][2] holds 2`},
		{"grid", Options{}, `[[1, -2], [3, 4, 5, 6]]`,
			"[0][1]: -2 is out of range: 0 to 4294967295\n[1]: 4 elements do not fit: __u32[3] holds 3"},
		{"an_enum", Options{}, `"gren"`, `"gren" is not a name of enum color (did you mean "GREEN"?)`},
		{"an_enum", Options{}, `"purple"`, `"purple" is not a name of enum color (there are COLOR_RED, COLOR_GREEN, COLOR_BLUE)`},
		{"an_enum", Options{}, `{}`, `want an integer from -2147483648 to 4294967295 or a name of enum color, have a map`},
		{"bitfields", Options{}, `{"a": 8, "b": -17, "d": "blue", "f": 2}`,
			".a: 8 is out of range: 0 to 7\n.b: -17 is out of range: -16 to 15\n.d: COLOR_BLUE (-16) is out of range: -8 to 15\n.f: want true or false, have 2"},
		{"record", Options{}, `{"knd": 4, "next": 5, "peers": [{"weight": 40000}], "addr": 1, "mac": "01:02:03:04:05:06"}`,
			"there is no member \"knd\" (did you mean \"kind\"?)\naddr, mac share their bytes in a union (set one of them)\n" +
				".peers[0].weight: 40000 is out of range: -32768 to 32767\n.next: it is a pointer, which cannot be set (leave it out)"},
		{"record", Options{}, `"x"`, `want a map with members of struct without a name (kind, addr, port, mac, peers, key, next), have "x"`},
		{"trie4", lpm, `"10.0.0.1/8"`, `"10.0.0.1/8" has bits set after the prefix (the network is 10.0.0.0/8)`},
		{"trie4", lpm, `"10.0.0.0/33"`, `"10.0.0.0/33": prefix length "33" is out of range: 0 to 32`},
		{"trie4", lpm, `"10.0.0.0/08"`, `"10.0.0.0/08": prefix length "08" is out of range: 0 to 32`},
		{"trie4", lpm, `"10.0.0/8"`, `"10.0.0/8" is not an IPv4 prefix or address`},
		{"trie4", lpm, `"2001:db8::/32"`, `"2001:db8::/32" is an IPv6 address, an IPv4 address is wanted`},
		{"trie4", lpm, `{"prefixlen": 33}`, `prefix length 33 is out of range: 0 to 32`},
		{"trie4", lpm, `{"prefixlen": 8, "addr": "10.1.0.0"}`, `bits are set after the prefix of 8 (the network is 10.0.0.0/8)`},
		{"trie_mapped", lpm, `{"prefixlen": 104, "addr": "10.1.0.0"}`, `bits are set after the prefix of 104 (the network is 10.0.0.0/8)`},
		{"trie4", lpm, `8`, `want a map with members of struct lpm4 (prefixlen, addr), have 8`},
		{"trie4", Options{}, `"10.0.0.0/40"`, `"10.0.0.0/40": prefix length "40" is out of range: 0 to 32`},
		{"trie_more", Options{}, `"10.0.0.0/8"`, `want a map with members of struct lpm_more (prefixlen, vlan, port), have "10.0.0.0/8"`},
		{"trie_more", lpm, `"10.0.0.0/8"`, `the key of this LPM trie is more than an address: "10.0.0.0/8" does not do (write a map of its members)`},
		{"trie_more", lpm, `{"prefixlen": 4, "vlan": 65535}`, `bits are set after the prefix of 4 (the network is 240.0.0.0/4)`},
	} {
		b, err := Encode(vars[r.name].Type, tree(t, r.in), r.o)
		var es Errors
		if !errors.As(err, &es) || b != nil {
			t.Errorf("%s: Encode(%s) = %x, %v, want Errors", r.name, r.in, b, err)
			continue
		}
		if got := es.Error(); got != r.want {
			t.Errorf("%s: Encode(%s):\n got %s\nwant %s", r.name, r.in, got, r.want)
		}
	}
}

func TestEncodeBytes(t *testing.T) {
	lpm := Options{LPM: true}
	for _, r := range []struct {
		size int
		o    Options
		in   string
		want string // hex, or the error
	}{
		{1, Options{}, `255`, "ff"},
		{1, Options{}, `-1`, "ff"},
		{1, Options{}, `256`, "256 is out of range: -128 to 255"},
		{2, Options{}, `"0x0102"`, "0201"},
		{2, Options{Network: true}, `258`, "0102"},
		{4, Options{}, `"10.0.0.1"`, "0a000001"},
		{4, Options{}, `[1, 2, 3, 4]`, "01020304"},
		{4, Options{}, `[1, 2, 3]`, "3 bytes are given, want exactly 4"},
		{4, Options{}, `[1, 2, 3, 400]`, "[3]: 400 is out of range: 0 to 255"},
		{6, Options{}, `"02:00:00:00:00:01"`, "020000000001"},
		{8, Options{}, `1`, "0100000000000000"},
		{16, Options{}, `"::1"`, "00000000000000000000000000000001"},
		{16, Options{}, `"10.0.0.1"`, `"10.0.0.1" is an IPv4 address, an IPv6 address is wanted (write ::ffff:10.0.0.1 if the program keeps IPv4 addresses that way)`},
		{16, Options{Tags: []string{TagV4Mapped}}, `"10.0.0.1"`, "00000000000000000000ffff0a000001"},
		{3, Options{}, `"0x010203"`, "010203"},
		{3, Options{}, `"0x0102"`, `"0x0102" has 2 bytes, want 3`},
		{3, Options{}, `1`, "want 0x and 6 hex digits or a list of 3 bytes, have 1 (the object has no type information for it)"},
		{4, Options{}, `{"a": 1}`, "want an integer of 4 bytes, have a map (the object has no type information for it)"},
		{8, lpm, `"10.0.0.0/8"`, "080000000a000000"},
		{8, lpm, `"10.0.0.1"`, "200000000a000001"},
		{20, lpm, `"2001:db8::/32"`, "2000000020010db8000000000000000000000000"},
		{20, Options{LPM: true, Tags: []string{TagV4Mapped}}, `"10.0.0.0/8"`, "6800000000000000000000000000ffff0a000000"},
		{20, Options{LPM: true, Tags: []string{TagV4Mapped}}, `"0.0.0.0/0"`, "6000000000000000000000000000ffff00000000"},
		{6, lpm, `"0x10000000abcd"`, "10000000abcd"},
		{6, lpm, `"0x08000000abcd"`, "bits are set after the prefix of 8"},
		{6, lpm, `"0x11000000abcd"`, "prefix length 17 is out of range: 0 to 16"},
		{4, lpm, `1`, "4 bytes are no key of an LPM trie"},
		{-1, Options{}, `1`, "-1 bytes are too many"},
	} {
		got := ""
		b, err := EncodeBytes(r.size, tree(t, r.in), r.o)
		if got = strings.ToLower(hexOf(b)); err != nil {
			got = err.Error()
		}
		if got != r.want {
			t.Errorf("EncodeBytes(%d, %s) = %s, want %s", r.size, r.in, got, r.want)
		}
		if err != nil {
			continue
		}
		again, err := EncodeBytes(r.size, DecodeBytes(b, r.o), r.o)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("EncodeBytes(DecodeBytes(%x)) = %x, %v", b, again, err)
		}
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// BTF comes from files that anybody may have made: types that cannot be are
// errors, however deep, wide or wrong.
func TestDamagedTypes(t *testing.T) {
	u32 := &btf.Int{Name: "u32", Size: 4}
	self := &btf.Struct{Name: "self", Size: 4}
	self.Members = []btf.Member{{Name: "in", Type: self}}
	hidden := &btf.Struct{Name: "hidden", Size: 4}
	hidden.Members = []btf.Member{{Type: hidden}, {Type: hidden}, {Type: hidden}, {Type: hidden}}
	loop := &btf.Typedef{Name: "loop"}
	loop.Type = loop
	outside := &btf.Struct{Size: 4, Members: []btf.Member{{Name: "x", Type: u32, Offset: 8}}}
	bits := &btf.Struct{Size: 4, Members: []btf.Member{{Name: "x", Type: u32, Offset: 30, BitfieldSize: 3}}}
	bitStruct := &btf.Struct{Size: 4, Members: []btf.Member{{Name: "x", Type: outside, BitfieldSize: 3}}}
	odd := &btf.Struct{Size: 8, Members: []btf.Member{{Name: "x", Type: u32, Offset: 3}}}
	unsized := &btf.Struct{Size: 8, Members: []btf.Member{{Name: "x", Type: &btf.Fwd{Name: "f"}}}}
	deep := map[string]any{}
	for m, i := deep, 0; i < 100; i++ {
		next := map[string]any{}
		m["in"], m = next, next
	}
	for _, r := range []struct {
		name string
		t    btf.Type
		v    any
	}{
		{"contains itself", self, deep},
		{"contains itself, anonymously", hidden, map[string]any{"x": json.Number("1")}},
		{"typedef of itself", loop, json.Number("1")},
		{"member outside", outside, map[string]any{"x": json.Number("1")}},
		{"bitfield outside", bits, map[string]any{"x": json.Number("1")}},
		{"bitfield of a struct", bitStruct, map[string]any{"x": json.Number("1")}},
		{"member between bytes", odd, map[string]any{"x": json.Number("1")}},
		{"member without size", unsized, map[string]any{"x": json.Number("1")}},
		{"huge array", &btf.Array{Type: u32, Nelems: 1 << 31}, []any{}},
		{"huge integer", &btf.Int{Size: 1 << 20}, json.Number("1")},
		{"integer of no bytes", &btf.Int{}, json.Number("0")},
		{"huge enum", &btf.Enum{Size: 9}, json.Number("1")},
		{"float of 3 bytes", &btf.Float{Size: 3}, json.Number("1")},
		{"void", (*btf.Void)(nil), json.Number("1")},
		{"function", &btf.Func{Name: "f"}, json.Number("1")},
		{"nothing", nil, json.Number("1")},
		{"a Go value", u32, 5},
	} {
		if b, err := Encode(r.t, r.v, Options{}); err == nil {
			t.Errorf("%s: Encode = %x, want an error", r.name, b)
		}
		if r.t == nil {
			continue
		}
		if n, err := btf.Sizeof(r.t); err == nil && n < 64 {
			_, _ = Decode(r.t, make([]byte, n), Options{}) // returns
		}
	}
	if _, err := Decode(hidden, make([]byte, 4), Options{}); err == nil {
		t.Error("Decode of a struct that contains itself: no error")
	}
	if _, err := Decode(u32, make([]byte, 3), Options{}); err == nil {
		t.Error("Decode of too few bytes: no error")
	}
}
