package main

import (
	"context"
	"encoding/json"
	"errors"
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
//
// When it has mistakes the daemon is asked for those that only it can see, so
// that all are told at once.
func (a *app) document(ctx context.Context, file string) (*l3af.State, error) {
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
	if from, err = filepath.Abs(from); err != nil {
		return nil, err
	}
	anchorAll(tree, from)
	s, err := l3af.ParseState(tree)
	if err == nil {
		return s, nil
	}
	if text, marshalErr := json.Marshal(tree); marshalErr == nil {
		more := (*l3af.InvalidError)(nil)
		if _, planErr := a.client().PlanDocument(ctx, text); errors.As(planErr, &more) {
			err = more
		}
	}
	return nil, fmt.Errorf("read %s: %w", name, err)
}

// anchorAll makes every relative path of a package in a document's tree
// absolute.
func anchorAll(tree any, from string) {
	switch v := tree.(type) {
	case map[string]any:
		for key, member := range v {
			if ref, ok := member.(string); ok && key == "package" {
				anchor(&ref, from)
				v[key] = ref
			} else if key == "chains" || key == "programs" || key == "probes" {
				anchorAll(member, from)
			}
		}
	case []any:
		for _, member := range v {
			anchorAll(member, from)
		}
	}
}

// anchor makes a relative path absolute: the daemon has another working
// directory.
func anchor(ref *string, from string) {
	if *ref != "" && !scheme.MatchString(*ref) && !filepath.IsAbs(*ref) {
		*ref = filepath.Join(from, *ref)
	}
}
