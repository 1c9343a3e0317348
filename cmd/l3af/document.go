package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"l3af"
	"l3af/internal/doc"
)

// scheme matches references that are not paths: builtin:acl, https://….
var scheme = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*:`)

// maxDocument bounds what is read; the daemon takes no more either.
const maxDocument = 16 << 20

// document reads the state that -f names; "-" is standard input. Paths in it
// are relative to the folder of the file, or to the working directory.
func (a *app) document(file string) (*l3af.State, error) {
	if file == "" {
		return nil, &usageError{"no document: -f is missing", "name a file with -f FILE, or read standard input with -f -"}
	}
	name, from, in := file, filepath.Dir(file), a.in
	if file == "-" {
		name, from = "standard input", "."
	} else {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > maxDocument {
		return nil, fmt.Errorf("read %s: longer than %d MiB", name, maxDocument>>20)
	}
	tree, err := doc.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	s, err := l3af.ParseState(tree)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if from, err = filepath.Abs(from); err != nil {
		return nil, err
	}
	for i := range s.Chains {
		for j := range s.Chains[i].Programs {
			anchor(&s.Chains[i].Programs[j].Package, from)
		}
	}
	for i := range s.Probes {
		anchor(&s.Probes[i].Package, from)
	}
	return s, nil
}

// anchor makes a relative path absolute: the daemon has another working
// directory.
func anchor(ref *string, from string) {
	if *ref != "" && !scheme.MatchString(*ref) && !filepath.IsAbs(*ref) {
		*ref = filepath.Join(from, *ref)
	}
}
