package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSplitWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                                 nil,
		"  # all of it":                    nil,
		"prog show":                        {"prog", "show"},
		"\tprog  show # which\r":           {"prog", "show"},
		`map update name m key '{a: 1}' x`: {"map", "update", "name", "m", "key", "{a: 1}", "x"},
		`a "" b'c`:                         {"a", "", "b'c"},
	} {
		if got, err := splitWords(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", line, got, err, want)
		}
	}
	if got, err := splitWords(`map "update`); err == nil {
		t.Errorf("a quote that does not end: %q", got)
	}
}

// Commands run in their order up to the first that fails.
func TestEachCommand(t *testing.T) {
	var ran []string
	n, err := eachCommand(strings.NewReader("# first\none \\\n  more\n\ntwo\nbad\nnever\n"), func(args []string) error {
		ran = append(ran, strings.Join(args, " "))
		if args[0] == "bad" {
			return errors.New("no")
		}
		return nil
	})
	if n != 2 || err == nil || err.Error() != "line 6: no" || !slices.Equal(ran, []string{"one more", "two", "bad"}) {
		t.Errorf("%d, %v: %q", n, err, ran)
	}
	if _, err := eachCommand(strings.NewReader(`one \`), func([]string) error { return nil }); err == nil {
		t.Error("a line that goes on and does not")
	}
}

// Splitting words never fails in a way that is not an error, and loses nothing.
func FuzzSplitWords(f *testing.F) {
	f.Add(`map update name m key '{a: 1}' # x`)
	f.Add(`"`)
	f.Fuzz(func(t *testing.T, line string) {
		list, err := splitWords(line)
		if err != nil {
			return
		}
		for _, w := range list {
			if !strings.Contains(line, w) {
				t.Errorf("%q has no %q", line, w)
			}
		}
	})
}
