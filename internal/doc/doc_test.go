package doc

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

type (
	m = map[string]any
	l = []any
)

func TestParse(t *testing.T) {
	for in, want := range map[string]any{
		"a: 1":                     m{"a": json.Number("1")},
		`{"a": [1.50, "x", null]}`: m{"a": l{json.Number("1.50"), "x", nil}},
		"{a: 1, b: [x, y],}":       m{"a": json.Number("1"), "b": l{"x", "y"}},
		// Every digit counts.
		"18446744073709551615":                      json.Number("18446744073709551615"),
		"-9223372036854775808":                      json.Number("-9223372036854775808"),
		"[0xffffffffffffffff, -0x8000000000000000]": l{json.Number("18446744073709551615"), json.Number("-9223372036854775808")},
		"[0o17, 0b101, 1_000, +7, 1.10, .5, 1e3]":   l{json.Number("15"), json.Number("5"), json.Number("1000"), json.Number("7"), json.Number("1.10"), json.Number("0.5"), json.Number("1e3")},
		"340282366920938463463374607431768211455":   json.Number("340282366920938463463374607431768211455"),
		`{"n": 9007199254740993}`:                   m{"n": json.Number("9007199254740993")},
		// What looks like something else stays text.
		"[02:00:00:00:00:01, 10.0.0.1, 2001:db8::/32, 2026-01-02, 12:30, yes, 0x, \"7\"]": l{"02:00:00:00:00:01", "10.0.0.1", "2001:db8::/32", "2026-01-02", "12:30", "yes", "0x", "7"},
		"[true, False, ~, null, '']":                          l{true, false, nil, nil, ""},
		"{80: a, true: b, 0x10: c}":                           m{"80": "a", "true": "b", "0x10": "c"},
		"!!str 7":                                             "7",
		"a: &x {b: 1}\nc: *x":                                 m{"a": m{"b": json.Number("1")}, "c": m{"b": json.Number("1")}},
		"a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}":               m{"a": m{"b": json.Number("1"), "c": json.Number("2")}, "d": m{"b": json.Number("1"), "c": json.Number("3")}},
		"a: &x {b: 1}\ne: &y {b: 2, f: 3}\nd: {<<: [*x, *y]}": m{"a": m{"b": json.Number("1")}, "e": m{"b": json.Number("2"), "f": json.Number("3")}, "d": m{"b": json.Number("1"), "f": json.Number("3")}},
		"\ufeffa: b":                                          m{"a": "b"},
		`{"s": "\ud83d\ude00\/\u0041"}`:                       m{"s": "😀/A"},
		"---\na: b\n...\n":                                    m{"a": "b"},
	} {
		got, err := Parse([]byte(in))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, %v; want %#v", in, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+",", 10) + "]\n"
	}
	for in, want := range map[string]string{
		"":                      "empty",
		" \n# only words\n":     "empty",
		"---\n":                 "empty",
		"a: 1\nb: 2\na: 3":      `line 3: the key "a" is on line 1 already`,
		"{\"a\": 1,\n\"a\": 2}": `line 2: the key "a" is there already`,
		"a: b\n---\nc: d\n":     "second document",
		"a: &x [*x]":            "contains itself",
		"a:\n- *x":              "line 2: unknown anchor",
		"a: 1\nb: \x01":         "line 2: control",
		bomb:                    "aliases make the document too large",
		"? [a]\n: b":            "line 1: a key must be",
		"\na: {? : b}":          "line 2: a key is missing",
		"a: 010":                "write 0o10 or 10",
		"a: 00":                 "write 0o0 or 0",
		"a: .inf":               "not a number",
		"a: !mine x":            "tag !mine",
		"a: !!binary aGk=":      "tag !!binary",
		"a: !!set {x}":          "tag !!set",
		"a: {<<: 3}":            "<< takes",
		"a:\n  b: 1\n\tc: 2":    "line 3: a tab",
		"a: b: c":               "line 1: mapping values",
		"a: [1, 2":              "line ",
		"\xff\xfa":              "UTF-8",
		strings.Repeat("[", 101) + strings.Repeat("]", 101):           "line 1: more than 100",
		"x: " + strings.Repeat("[", 101) + strings.Repeat("]", 101):   "line 1: more than 100",
		strings.Repeat(`{"a":`, 102) + "1" + strings.Repeat("}", 102): "more than 100",
		strings.Repeat("[", 1<<20):                                    "depth",
	} {
		_, err := Parse([]byte(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", in, err, want)
		}
	}
}

func TestYAML(t *testing.T) {
	v := struct {
		Z    string                  `json:"z"`
		A    int                     `json:"a"`
		List []string                `json:"list"`
		Maps m                       `json:"maps"`
		Log  string                  `json:"log"`
		Nil  *int                    `json:"nil"`
		Sub  []struct{ X, B string } `json:"sub"`
	}{
		Z: "yes", A: -1, List: []string{"pass", "<b>&", "7"},
		Maps: m{"deny": l{m{"key": "10.0.0.0/8", "value": json.Number("18446744073709551615")}}, "allow": l{}},
		Log:  "func#0 @0\n  0: R1=ctx()\nlast",
		Sub:  []struct{ X, B string }{{"a", "b: c"}, {"#", " x"}},
	}
	const want = `z: "yes"
a: -1
list: [pass, <b>&, "7"]
maps:
  allow: []
  deny:
  - {key: 10.0.0.0/8, value: 18446744073709551615}
log: |-
  func#0 @0
    0: R1=ctx()
  last
nil: null
sub:
- X: a
  B: 'b: c'
- X: '#'
  B: " x"
`
	got, err := YAML(v)
	if err != nil || string(got) != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
}

// Whatever is read is small enough, and printed it reads the same again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"apiVersion: l3af/v1\nchains:\n- interface: eth0\n  hook: xdp\n  programs:\n  - {name: acl, package: 'builtin:acl', proceed: [pass]}\n",
		`{"a": [1, 2.5, -3e7, true, null, "x\ny"], "b": {"key": 1, "value": "two"}}`,
		"a: &x {b: 0x1F}\nc: {<<: *x, d: |\n  text\n   more\n}\n", "? k\n: v", "- |+\n  a\n\n", "\"\\x85\\u2028\"", "- -1\n- - a",
		"1e999", "'\n'", "a: !!float 3", "\ufeff[]", "{\"\":\" \"}", "- \"\ufffd\"",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		tree, err := Parse(data)
		if err != nil {
			if tree != nil {
				t.Fatal("a tree and an error")
			}
			return
		}
		check(t, tree, 0)
		text, err := YAML(tree)
		if err != nil {
			t.Fatalf("print %#v: %v", tree, err)
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("read back: %v\n%s\n%#v", err, text, tree)
		}
		if !reflect.DeepEqual(again, tree) {
			t.Fatalf("read back %#v\nwas %#v\n%s", again, tree, text)
		}
	})
}

func check(t *testing.T, v any, depth int) {
	if depth > 2*maxDepth+2 {
		t.Fatal("too deep")
	}
	switch v := v.(type) {
	case nil, bool, string:
	case json.Number:
		if !json.Valid([]byte(v)) {
			t.Fatalf("not a number: %q", v)
		}
	case []any:
		for _, e := range v {
			check(t, e, depth+1)
		}
	case map[string]any:
		for _, e := range v {
			check(t, e, depth+1)
		}
	default:
		t.Fatalf("a %T in the tree", v)
	}
}
