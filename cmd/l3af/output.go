package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"l3af/internal/doc"
)

// The output formats.
const (
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

var formats = []string{formatTable, formatWide, formatJSON, formatYAML}

// show prints v as JSON or YAML when that is asked for; else it calls people.
func (a *app) show(v any, people func(wide bool) error) error {
	switch a.output {
	case formatJSON:
		return printJSON(a.out, v)
	case formatYAML:
		return printYAML(a.out, v)
	}
	return people(a.output == formatWide)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printYAML(w io.Writer, v any) error {
	text, err := doc.YAML(v)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// plural gives "1 chain", "2 chains".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// output is a writer that remembers its first failure, so that a full disk is
// told whatever was printed.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("write output: %w", err)
	}
	return n, err
}

// terminal says whether a person looks at w.
func terminal(w io.Writer) bool {
	if o, ok := w.(*output); ok {
		w = o.Writer
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
