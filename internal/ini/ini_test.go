package ini

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Setenv("L3AF_TEST_DIR", "/env")
	for _, c := range []struct {
		text string
		want []Entry
		err  string // all of it
	}{
		{text: ""},
		{text: "\ufeff# a comment\n; another\n\n[ web ]\n", want: nil},
		{text: "[web]\nmetrics-addr: localhost:8898 # said so\r\nurl = http://h/#frag;x\n",
			want: []Entry{{"web", "metrics-addr", "localhost:8898", 2}, {"web", "url", "http://h/#frag;x", 3}}},
		{text: "[a]\nk: v\n   more\n\tand more ; but not this\n[b]\n k=2", want: []Entry{{"a", "k", "v\nmore\nand more", 2}, {"b", "k", "2", 6}}},
		{text: "[a]\nk:\nk: =\n", want: []Entry{{"a", "k", "", 2}, {"a", "k", "=", 3}}},
		{text: "[DEFAULT]\nbase: /usr\n[a]\nk: %(lib)s/${L3AF_TEST_DIR}\nlib: %(base)s/lib\n",
			want: []Entry{{"DEFAULT", "base", "/usr", 2}, {"a", "k", "/usr/lib//env", 4}, {"a", "lib", "/usr/lib", 5}}},
		{text: "[a]\nk: %(k)s\n", err: "line 2: k: %(k)s: references go round in a circle"},
		{text: "k: v\n[a\n= v\n[a]\nword\nk: %(none)s", err: "line 1: \"k\" comes before the first section\nline 2: a section is written [name], not \"[a\"\n" +
			"line 3: neither a section nor a key with a value: \"= v\"\nline 5: neither a section nor a key with a value: \"word\"\n" +
			"line 6: k: %(none)s: there is no such key in [a] or [DEFAULT]"},
		{text: "[a]\n\xff: v", err: "the file is not UTF-8 text"},
	} {
		got, err := Parse([]byte(c.text))
		if fmt.Sprint(err) != c.err && (err != nil || c.err != "") {
			t.Errorf("%q: error\n%v\nwant\n%s", c.text, err, c.err)
		}
		if err == nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %+v, want %+v", c.text, got, c.want)
		}
	}
}

// What was read reads the same when it is written plainly.
func FuzzParse(f *testing.F) {
	f.Add("[l3afd]\npid-file: /run/l3afd.pid\nbpf-dir=%(d)s\nd: /dev/shm # tmpfs\n")
	f.Add("[a]\nk: %(k)s\n  more\n[b]\n;c\n")
	f.Add("[DEFAULT]\na: %(b)s%(b)s\nb: %(c)s%(c)s\nc: xxxxxxxxxx\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := Parse([]byte(text))
		if err != nil {
			return
		}
		var plain strings.Builder
		for _, e := range entries {
			if e.Section == "" || e.Key == "" || len(e.Value) > maxValue+len(text) {
				t.Fatalf("read %+v", e)
			}
			if strings.ContainsAny(e.Section+e.Key+e.Value, "#;\n%$") || e.Section != strings.TrimSpace(e.Section) {
				return // has no plain form
			}
			fmt.Fprintf(&plain, "[%s]\n%s=%s\n", e.Section, e.Key, e.Value)
		}
		again, err := Parse([]byte(plain.String()))
		if err != nil || len(again) != len(entries) {
			t.Fatalf("%q read again: %+v, %v", plain.String(), again, err)
		}
		for i, e := range again {
			if e.Line = entries[i].Line; e != entries[i] {
				t.Errorf("got %+v, then %+v", entries[i], e)
			}
		}
	})
}
