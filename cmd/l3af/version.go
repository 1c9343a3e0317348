package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"l3af/internal/version"
)

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := version.Read()
			return a.show(v, func(bool) error {
				_, err := fmt.Fprintf(a.out, "l3af %s\ngo %s %s/%s\nrevision %s\n",
					v.Version, v.Go, runtime.GOOS, runtime.GOARCH, dash(v.Revision))
				return err
			})
		},
	}
}
