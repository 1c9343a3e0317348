package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"l3af/internal/doc"
	"l3af/internal/near"
)

// notInFile are the flags that a configuration file cannot set.
var notInFile = []string{"config", "version"}

// readConfig sets the flags that the file names and the command line does not.
// notes are what an operator should know about the file.
func readConfig(file string, flags *flag.FlagSet, given map[string]bool) (notes []string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var keys map[string]any
	if isINI(text) {
		keys, notes, err = fromINI(text)
	} else {
		keys, err = fromYAML(text)
	}
	if err != nil {
		return nil, err
	}
	return notes, set(flags, keys, given)
}

func fromYAML(text []byte) (map[string]any, error) {
	tree, err := doc.Parse(text)
	if err != nil {
		return nil, err
	}
	keys, ok := tree.(map[string]any)
	if !ok {
		return nil, errors.New("must be keys and values")
	}
	return keys, nil
}

// isINI reports whether a file begins with a section, as no YAML of ours does.
func isINI(text []byte) bool {
	for line := range bytes.Lines(bytes.TrimPrefix(text, []byte("\ufeff"))) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && line[0] != ';' {
			return line[0] == '['
		}
	}
	return false
}

// set sets flags by the keys of a file, and tells every mistake.
func set(flags *flag.FlagSet, keys map[string]any, given map[string]bool) error {
	known := keysOf(flags)
	var mistakes []error
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		wrong := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(key+": "+format, args...)) }
		if !slices.Contains(known, key) {
			if hint := near.Hint(key, known); strings.HasPrefix(hint, "did you") {
				wrong("unknown key (%s)", hint)
			} else {
				wrong("unknown key (l3afd -help lists them)")
			}
			continue
		}
		f := flags.Lookup(key)
		words, ok := wordsOf(f, keys[key])
		if !ok {
			wrong("must be %s", kindOf(f))
		}
		if !ok || given[key] {
			continue
		}
		for _, w := range words {
			if err := flags.Set(key, w); err != nil {
				wrong("%.80q is not %s", w, kindOf(f))
			}
		}
	}
	return errors.Join(mistakes...)
}

// keysOf are the keys that a file may have.
func keysOf(flags *flag.FlagSet) []string {
	var keys []string
	flags.VisitAll(func(f *flag.Flag) {
		if !slices.Contains(notInFile, f.Name) {
			keys = append(keys, f.Name)
		}
	})
	return keys
}

// wordsOf are what a flag is set to by a value of a file.
func wordsOf(f *flag.Flag, v any) (words []string, ok bool) {
	if l, isList := v.([]any); isList {
		_, ok := f.Value.(*list)
		for _, e := range l {
			s, isText := e.(string)
			words, ok = append(words, s), ok && isText
		}
		return words, ok
	}
	switch v := v.(type) {
	case string:
		return []string{v}, true
	case bool:
		return []string{strconv.FormatBool(v)}, kindOf(f) == "true or false"
	case json.Number:
		return []string{v.String()}, kindOf(f) == "a number"
	}
	return nil, false
}

// kindOf says what a flag takes.
func kindOf(f *flag.Flag) string {
	getter, ok := f.Value.(flag.Getter)
	if !ok {
		return "a list of texts"
	}
	switch getter.Get().(type) {
	case bool:
		return "true or false"
	case int:
		return "a number"
	case time.Duration:
		return "a time such as 30s or 5m"
	}
	return "text"
}
