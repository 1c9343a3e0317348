package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"l3af/internal/doctor"
	"l3af/internal/kernel"
)

func newDoctor(a *app) *cobra.Command {
	var bpffs string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong on this machine, and say what to do",
		Long: `Doctor looks at the kernel's features, limits, mounts, the daemon, what is not as
the state says, pins and links that are left, and programs of others at hooks of
ours. It changes nothing.

The exit code is 1 when something does not work (a problem), else 0; with --strict
warnings count too.`,
		Example: `  l3af doctor
  l3af doctor -o json | jq '.findings[] | select(.level == "problem")'`,
		Args: noArgs,
	}
	strict := cmd.Flags().Bool("strict", false, "exit with 1 for warnings too")
	all := cmd.Flags().Bool("all", false, "show what is well, too")
	cmd.Flags().StringVar(&bpffs, "bpffs", kernel.DefaultBpffs, "where l3afd has its pins")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		findings := doctor.Examine(cmd.Context(), doctor.Machine{Client: a.client(), Bpffs: bpffs})
		worst := doctor.Worst(findings)
		report := struct {
			Worst    doctor.Level     `json:"worst"`
			Findings []doctor.Finding `json:"findings"`
		}{worst, findings}
		err := a.show(report, func(wide bool) error { return printFindings(printable{a.out}, findings, *all || wide) })
		if err == nil && (worst == doctor.Problem || *strict && worst == doctor.Warning) {
			return errDifferent
		}
		return err
	}
	return cmd
}

func printFindings(w io.Writer, findings []doctor.Finding, all bool) error {
	var errs []error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format, args...)
		errs = append(errs, err)
	}
	well := 0
	for _, f := range findings {
		if f.Level == doctor.OK && !all {
			well++
			continue
		}
		line("%-8s %-7s %s\n", f.Level, f.Check, strings.ReplaceAll(f.Message, "\n", "\n                 "))
		if f.Fix != "" {
			line("                 → %s\n", f.Fix)
		}
	}
	if well == len(findings) {
		line("nothing is wrong (%s)\n", plural(well, "check"))
	}
	return errors.Join(errs...)
}
