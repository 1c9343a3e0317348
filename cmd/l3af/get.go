package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"l3af"
)

func newGet(a *app) *cobra.Command {
	var number int
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Print the state in force as a document",
		Example: `  l3af get > state.yaml
  l3af get --revision 3`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("revision") && number < 1 {
				return &usageError{"--revision must be 1 or more", "l3af history lists the revisions there are"}
			}
			r, err := a.find(cmd, number)
			if err != nil {
				return err
			}
			if a.output == formatJSON {
				return printJSON(a.out, r.State)
			}
			return printYAML(a.out, r.State)
		},
	}
	cmd.Flags().IntVar(&number, "revision", 0, "of this revision instead")
	return cmd
}

// find is the revision with a number; 0 is the one in force.
func (a *app) find(cmd *cobra.Command, number int) (*l3af.Revision, error) {
	if number == 0 {
		r, err := a.client().State(cmd.Context())
		if errors.Is(err, l3af.ErrNotFound) {
			return nil, &hinted{errors.New("get: nothing was applied yet"), "apply a document first: l3af apply -f FILE"}
		}
		return r, err
	}
	r, err := a.client().Revision(cmd.Context(), number)
	if errors.Is(err, l3af.ErrNotFound) {
		return nil, &hinted{fmt.Errorf("get revision %d: not found", number), "l3af history lists the revisions there are"}
	}
	return r, err
}
