package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"l3af"
)

func newEvents(a *app) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Follow what happens on the node, recent events first",
		Long: `Events follows what happens on the node, recent events first, until it is
interrupted. With -o json it prints one object a line.

When l3afd stops, or another takes over, it goes on with the next one: no event
is printed twice, and none is lost but what a daemon that was killed did not tell.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.client().Follow(cmd.Context(), wait, a.printEvent)
			if cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	waitFlag(cmd, &wait)
	return cmd
}

// waitFlag is for commands that go on with the next daemon.
func waitFlag(cmd *cobra.Command, wait *time.Duration) {
	cmd.Flags().DurationVar(wait, "wait", 30*time.Second, "how long to wait for the next l3afd when this one goes")
}

func (a *app) printEvent(e l3af.Event) error {
	if a.output == formatJSON {
		j := json.NewEncoder(a.out)
		j.SetEscapeHTML(false)
		return j.Encode(e)
	}
	if a.output == formatYAML {
		fmt.Fprintln(a.out, "---")
		return printYAML(a.out, e)
	}
	at := e.Time.Local().Format(time.TimeOnly)
	if a.output == formatWide {
		at = e.Time.Format(time.RFC3339Nano)
	}
	what := e.Target
	if what == "" && e.Revision > 0 {
		what = fmt.Sprintf("revision %d", e.Revision)
	}
	_, err := fmt.Fprintf(a.out, "%s  %-9s  %s  %s\n", at, e.Kind, dash(what), e.Message)
	return err
}
