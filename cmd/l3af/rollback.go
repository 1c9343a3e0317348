package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

func newRollback(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback [REVISION]",
		Short: "Apply an earlier state again, as a new revision",
		Long: `Rollback applies an earlier state again, as a new revision: the one before the
one in force, or the one that is named. Packages are what they were then.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
				return err
			}
			if len(args) == 1 {
				if n, err := strconv.Atoi(args[0]); err != nil || n < 1 {
					return &usageError{fmt.Sprintf("%q is not a revision", args[0]), "a revision is a number; l3af history lists them"}
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			to := 0
			if len(args) == 1 {
				to, _ = strconv.Atoi(args[0]) // checked by Args
			}
			ctx := cmd.Context()
			current, err := a.revision(ctx)
			if err != nil {
				return err
			}
			applied, err := a.client().Rollback(ctx, to, current)
			if err != nil {
				return fmt.Errorf("rollback: %w", err)
			}
			return a.showApplied(ctx, applied, false)
		},
	}
}
