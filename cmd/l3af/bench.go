package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"l3af"
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
	flags := cmd.PersistentFlags()
	flags.IntSliceVar(&opts.Sizes, "programs", nil, "lengths of the chains, out of the default ones")
	flags.IntVar(&opts.Repeat, "repeat", 500_000, "packets per measurement")
	flags.IntVar(&opts.Rounds, "rounds", 7, "measurements, of which the fastest counts")
	cmd.RunE = measured(a, &opts, bench.Sizes, func(ctx context.Context) error {
		report, err := bench.Run(ctx, opts)
		if err != nil {
			return err
		}
		return a.show(report, func(bool) error { return a.printBench(report) })
	})
	cmd.AddCommand(newBenchLive(a, &opts), newBenchBuild(a, &opts))
	return cmd
}

func newBenchLive(a *app, opts *bench.Options) *cobra.Command {
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(bench.LiveSizes, bench.TCSizes))))
	return &cobra.Command{
		Use:   "live",
		Short: "Measure real packets: native XDP and TC, where the kernel can chain programs itself",
		Long: `Live sends packets over a veth pair in a network namespace of its own: at XDP
from one end to the programs at the other, at TC to those of the end itself.
Behind the programs the stack drops the packets. Rates are those of one CPU that
does nothing else; compare the ratios to no program at all.`,
		Args: noArgs,
		RunE: measured(a, opts, all, func(ctx context.Context) error {
			var reports []*bench.Live
			for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
				report, err := bench.RunLive(ctx, kind, *opts)
				if err != nil {
					return err
				}
				reports = append(reports, report)
			}
			return a.show(reports, func(bool) error {
				for i, r := range reports {
					if i > 0 {
						fmt.Fprintln(a.out)
					}
					if err := a.printLive(r); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
}

func newBenchBuild(a *app, opts *bench.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Measure composing and loading chains, and the memory they take",
		Long: `Build composes and loads chains of the benchmark's small programs and of the
programs that l3af ships, and closes them again. Memory is what the kernel counts
for the programs and their maps, and what l3afd keeps of a chain that runs.`,
		Args: noArgs,
		RunE: measured(a, opts, bench.Sizes, func(ctx context.Context) error {
			report, err := bench.RunBuild(ctx, *opts)
			if err != nil {
				return err
			}
			return a.show(report, func(bool) error { return a.printBuild(report) })
		}),
	}
}

// measured checks the flags and tells what is being measured. sizes are the
// lengths of chains there are.
func measured(a *app, opts *bench.Options, sizes []int, run func(context.Context) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		for _, n := range opts.Sizes {
			if !slices.Contains(sizes, n) {
				return &usageError{fmt.Sprintf("no chain of %d programs to measure", n), fmt.Sprintf("lengths are %v", sizes)}
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
		if err := run(cmd.Context()); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		return nil
	}
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

func (a *app) printLive(r *bench.Live) error {
	fmt.Fprintf(a.out, "%s: %d packets, fastest of %d rounds; without a program: %.2f million packets a second\n\n",
		r.Hook, r.Frames, r.Rounds, r.None/1e6)
	t := newTable("PROGRAMS", "COMPOSITION", "MPPS", "RATIO", "NS ADDED").numbers(0, 2, 3, 4)
	for _, row := range r.Rows {
		if row.Skipped != "" {
			t.add(strconv.Itoa(row.Programs), row.Composition, "-", "-", row.Skipped)
			continue
		}
		t.add(strconv.Itoa(row.Programs), row.Composition,
			fmt.Sprintf("%.2f", row.Rate/1e6), fmt.Sprintf("%.2f", row.Ratio), fmt.Sprintf("%.0f", row.Nanoseconds))
	}
	return t.print(a.out)
}

func (a *app) printBuild(r *bench.Build) error {
	fmt.Fprintf(a.out, "fastest of %d rounds; memory in KiB\n\n", r.Rounds)
	t := newTable("PROGRAMS", "OF", "SEGMENTS", "INSTRUCTIONS", "COMPOSE MS", "LOAD MS", "PROGRAMS KIB", "MAPS KIB", "KEPT KIB").numbers(0, 2, 3, 4, 5, 6, 7, 8)
	kib := func(n float64) string { return fmt.Sprintf("%.1f", n/1024) }
	for _, row := range r.Rows {
		t.add(strconv.Itoa(row.Programs), row.Of, strconv.Itoa(row.Segments), strconv.Itoa(row.Instructions),
			fmt.Sprintf("%.2f", row.Compose/1000), fmt.Sprintf("%.2f", row.Load/1000),
			kib(float64(row.ProgramMemory)), kib(float64(row.MapMemory)), kib(float64(row.Kept)))
	}
	return t.print(a.out)
}
