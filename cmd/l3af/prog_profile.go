package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

var progProfileVerbs = []verb{{
	name: "profile", args: "PROG [duration SECONDS] [METRIC…]",
	short: "Measure how often programs run, and for how long",
	long: `Profile measures programs for some seconds, or until it is interrupted. PROG is
` + progSelection.usage() + `.

The kernel's statistics of run time are switched on for as long as it measures, if
they are not on already. With them each run of each program of the machine takes
some 70 ns more, which is not counted as its run time.

The only METRIC is run_time_ns, all CPUs together. Counters of the processor, as
bpftool has them, are not measured: that takes programs at the beginning and end of
others (fentry), which is not allowed everywhere.`,
	example: `  l3af prog profile name acl duration 5`,
	run:     (*call).progProfile,
}}

// hardwareMetrics are those of bpftool.
var hardwareMetrics = []string{"cycles", "instructions", "l1d_loads", "llc_misses", "itlb_misses", "dtlb_misses"}

// profiled is what was measured of a program: bpftool's keys, then ours.
type profiled struct {
	Metric string `json:"metric"`
	RunCnt uint64 `json:"run_cnt"`
	Value  uint64 `json:"value"`
	// Enabled and Running are how long it was measured, ns.
	Enabled int64   `json:"enabled"`
	Running int64   `json:"running"`
	ID      uint32  `json:"id"`
	PerRun  float64 `json:"per_run"` // ns
	CPU     float64 `json:"cpu"`     // CPUs that it keeps busy: 1 is one
}

func (c *call) progProfile() error {
	list, err := c.selectPrograms()
	if err != nil {
		return err
	}
	defer closeAll(list)
	var seconds uint64
	for len(c.words) > 0 {
		switch word := c.peek(); {
		case c.take("duration"):
			if seconds, err = c.number("duration", 31); err != nil {
				return err
			}
		case c.take("run_time_ns"):
		case slices.Contains(hardwareMetrics, word):
			return &hinted{fmt.Errorf("%s cannot be measured: only run_time_ns can", word), "l3af prog profile --help says why"}
		default:
			return &usageError{fmt.Sprintf("unknown word %q", word), "there is duration and run_time_ns"}
		}
	}
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return fmt.Errorf("switch statistics on: %w", err)
	}
	defer stats.Close()
	before, err := readStats(list)
	if err != nil {
		return err
	}
	begin := time.Now()
	var end <-chan time.Time
	if seconds > 0 {
		end = time.After(time.Duration(seconds) * time.Second)
	}
	select {
	case <-end:
	case <-c.ctx.Done():
	}
	after, err := readStats(list)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	all := make([]profiled, len(list))
	for i, p := range list {
		info, err := p.Info()
		if err != nil {
			return err
		}
		id, _ := info.ID()
		runs, ns := after[i].RunCount-before[i].RunCount, uint64(after[i].Runtime-before[i].Runtime)
		all[i] = profiled{Metric: "run_time_ns", RunCnt: runs, Value: ns, Enabled: took.Nanoseconds(), Running: took.Nanoseconds(),
			ID: uint32(id), CPU: float64(ns) / float64(took.Nanoseconds())}
		if runs > 0 {
			all[i].PerRun = float64(ns) / float64(runs)
		}
	}
	return c.answer(all, func(w io.Writer) error {
		var b strings.Builder
		for _, p := range all {
			if len(all) > 1 {
				fmt.Fprintf(&b, "\nprogram %d\n", p.ID)
			}
			fmt.Fprintf(&b, "%18d run_cnt\n%18d run_time_ns\n", p.RunCnt, p.Value)
			fmt.Fprintf(&b, "%18.1f ns per run\n%17.3f%% of one CPU\n", p.PerRun, 100*p.CPU)
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}

func readStats(list []*ebpf.Program) ([]*ebpf.ProgramStats, error) {
	all := make([]*ebpf.ProgramStats, len(list))
	for i, p := range list {
		var err error
		if all[i], err = p.Stats(); err != nil {
			return nil, fmt.Errorf("read statistics: %w", err)
		}
	}
	return all, nil
}
