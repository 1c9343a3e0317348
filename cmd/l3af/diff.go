package main

import (
	"errors"
	"fmt"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"l3af"
	"l3af/internal/doc"
)

// difference is what diff prints as JSON or YAML.
type difference struct {
	Different bool   `json:"different"`
	Diff      string `json:"diff"` // unified; "" when there is none
}

func newDiff(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Compare a document with the state in force",
		Long: `Diff compares a document with the state in force, both written the same way.
It exits 0 when they say the same, 1 when they do not.`,
		Example: "  l3af diff -f state.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.document(cmd.Context(), file)
			if err != nil {
				return err
			}
			name, old := "nothing", []byte(nil)
			switch r, err := a.client().State(cmd.Context()); {
			case err == nil:
				name = fmt.Sprintf("revision %d", r.Number)
				if old, err = doc.YAML(r.State); err != nil {
					return err
				}
			case !errors.Is(err, l3af.ErrNotFound):
				return err
			}
			new, err := doc.YAML(*s)
			if err != nil {
				return err
			}
			d := diff.Diff(name, old, file, new)
			err = a.show(difference{d != nil, string(d)}, func(bool) error {
				_, err := a.out.Write(d)
				return err
			})
			if err == nil && d != nil {
				err = errDifferent
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "the document, YAML or JSON; - reads standard input")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return cmd
}
