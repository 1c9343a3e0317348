package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func newHistory(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "List the states that were applied, newest first",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.client().Revisions(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(all, func(wide bool) error {
				t := newTable("REVISION", "TIME", "BY", "STATE").numbers(0)
				for _, r := range all {
					at := r.Time.Local().Format(time.DateTime)
					if wide {
						at = r.Time.Format(time.RFC3339Nano)
					}
					what := plural(len(r.State.Chains), "chain") + ", " + plural(len(r.State.Probes), "probe")
					t.add(fmt.Sprint(r.Number), at, dash(r.By), what)
				}
				return t.print(a.out)
			})
		},
	}
}
