package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"l3af/internal/bench"
)

func newBench(a *app) *cobra.Command {
	var opts bench.Options
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what a packet pays for a chain, in every way to compose one",
		Long: `Bench loads the same small program in chains of growing length, composed in
every way there is, and runs packets through them in the kernel
(BPF_PROG_TEST_RUN). Nothing is attached. The fastest of several rounds counts,
and every figure is also given as a ratio to one program alone, measured in the
same run: compare those.`,
		Args: noArgs,
	}
	cmd.Flags().IntSliceVar(&opts.Sizes, "programs", bench.Sizes, "lengths of the chains, out of the default ones")
	cmd.Flags().IntVar(&opts.Repeat, "repeat", 500_000, "packets per measurement")
	cmd.Flags().IntVar(&opts.Rounds, "rounds", 7, "measurements, of which the fastest counts")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, n := range opts.Sizes {
			if !slices.Contains(bench.Sizes, n) {
				return &usageError{fmt.Sprintf("no chain of %d programs to measure", n), fmt.Sprintf("lengths are %v", bench.Sizes)}
			}
		}
		if opts.Repeat < 1 || opts.Rounds < 1 {
			return &usageError{"--repeat and --rounds must be at least 1", ""}
		}
		if os.Geteuid() != 0 {
			return &hinted{errors.New("bench: needs root, to load BPF programs"), "run it with sudo"}
		}
		if terminal(a.err) {
			opts.Progress = func(line string) { fmt.Fprintf(a.err, "\r\x1b[K%s", line) }
			defer fmt.Fprint(a.err, "\r\x1b[K")
		} else {
			opts.Progress = func(line string) { fmt.Fprintln(a.err, line) }
		}
		report, err := bench.Run(cmd.Context(), opts)
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		return a.show(report, func(bool) error { return a.printBench(report) })
	}
	return cmd
}

func (a *app) printBench(r *bench.Report) error {
	fmt.Fprintf(a.out, "%d-byte packet, %d repeats, fastest of %d rounds; one program alone: %.1f ns a packet\n\n",
		r.Packet, r.Repeat, r.Rounds, r.Alone)
	t := newTable("PROGRAMS", "COMPOSITION", "NS/PACKET", "RATIO", "NS/HOP").numbers(0, 2, 3, 4)
	for _, row := range r.Rows {
		if row.Skipped != "" {
			t.add(strconv.Itoa(row.Programs), row.Composition, "-", "-", row.Skipped)
			continue
		}
		hop := "-"
		if row.Programs > 1 {
			hop = fmt.Sprintf("%.2f", row.PerHop)
		}
		t.add(strconv.Itoa(row.Programs), row.Composition,
			fmt.Sprintf("%.1f", row.Nanoseconds), fmt.Sprintf("%.2f", row.Ratio), hop)
	}
	return t.print(a.out)
}
