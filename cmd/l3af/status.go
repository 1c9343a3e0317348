package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"l3af"
	"l3af/client"
)

func newStatus(a *app) *cobra.Command {
	var watch bool
	var every, wait time.Duration
	var times int
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what runs, and what each program let through and dropped",
		Long: `Status shows what runs at each hook, read back from the kernel: the chain and
its state, and for each of its programs how many packets it saw and its
verdicts. With --watch it goes on with the next l3afd when this one goes.`,
		Example: `  l3af status
  l3af status --watch
  l3af status -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return &usageError{"--interval must be 100ms or more", "an interval is written like 500ms or 2s"}
			}
			if times < 0 {
				return &usageError{"--times must be 0 or more", "0 means until interrupted"}
			}
			if !watch {
				st, err := a.client().Status(cmd.Context())
				if err != nil {
					return err
				}
				return a.showStatus(a.out, st)
			}
			return a.watch(cmd.Context(), every, wait, times)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again, until interrupted")
	cmd.Flags().DurationVar(&every, "interval", time.Second, "time between two looks of --watch")
	cmd.Flags().IntVar(&times, "times", 0, "end --watch after so many looks")
	waitFlag(cmd, &wait)
	return cmd
}

// watch shows the status again and again: in place on a terminal, else one
// after the other. There may be no daemon for as long as wait.
func (a *app) watch(ctx context.Context, every, wait time.Duration, times int) error {
	inPlace := terminal(a.out)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ; n++ {
		st, err := a.client().Status(ctx)
		for gone := time.Now(); client.Gone(err) && n > 1 && time.Since(gone) < wait && ctx.Err() == nil; {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
				st, err = a.client().Status(ctx)
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		var b bytes.Buffer
		switch {
		case a.output == formatJSON:
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			err = e.Encode(st)
		case a.output == formatYAML:
			b.WriteString("---\n")
			err = printYAML(&b, st)
		default:
			if inPlace {
				b.WriteString("\x1b[H\x1b[2J") // home, clear
			} else if n > 1 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "%s  ", time.Now().Format(time.TimeOnly))
			err = a.showStatus(&b, st)
		}
		if err == nil {
			_, err = b.WriteTo(a.out)
		}
		if err != nil || n == times {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *app) showStatus(w io.Writer, st *l3af.Status) error {
	switch a.output {
	case formatJSON:
		return printJSON(w, st)
	case formatYAML:
		return printYAML(w, st)
	}
	if st.Revision == 0 {
		fmt.Fprintln(w, "no revision: nothing was applied yet")
	} else {
		fmt.Fprintf(w, "revision %d\n", st.Revision)
	}
	wide := a.output == formatWide
	var troubles []string
	if len(st.Chains) > 0 {
		fmt.Fprintln(w)
		if err := chainTable(st.Chains, wide).print(w); err != nil {
			return err
		}
	}
	for _, c := range st.Chains {
		if c.Error != "" {
			troubles = append(troubles, trouble(hookName(c), c.Error))
		}
	}
	if len(st.Probes) > 0 {
		fmt.Fprintln(w)
		if err := probeTable(st.Probes, wide).print(w); err != nil {
			return err
		}
	}
	for _, p := range st.Probes {
		if p.Error != "" {
			troubles = append(troubles, trouble("probe/"+p.Name, p.Error))
		}
	}
	agents, ill := agentTable(st)
	if len(agents.rows) > 1 {
		fmt.Fprintln(w)
		if err := agents.print(w); err != nil {
			return err
		}
	}
	troubles = append(troubles, ill...)
	troubles = append(troubles, st.Errors...)
	if len(troubles) > 0 {
		fmt.Fprintln(w)
	}
	for _, t := range troubles {
		fmt.Fprintln(w, "error: "+strings.ReplaceAll(strings.TrimSpace(t), "\n", "\n    "))
	}
	return nil
}

// chainTable has a line for each program; what concerns its chain stands on
// the first.
func chainTable(chains []l3af.ChainStatus, wide bool) *table {
	head := []string{"HOOK", "MODE", "STATE", "CHAIN"}
	if wide {
		head = append(head, "PROG", "LINK", "SEGMENTS")
	}
	head = append(head, "PROGRAM", "PACKETS", "VERDICTS")
	if wide {
		head = append(head, "LINKAGE", "PACKAGE")
	}
	t := newTable(head...)
	if wide {
		t.numbers(4, 5, 6, 8)
	} else {
		t.numbers(5)
	}
	for _, c := range chains {
		first := []string{hookName(c), dash(string(c.Mode)), c.State, dash(c.ID)}
		if wide {
			first = append(first, number(c.ProgramID), number(c.LinkID), number(c.Segments))
		}
		programs := c.Programs
		if len(programs) == 0 {
			programs = []l3af.ProgramStatus{{Name: "-"}}
		}
		for i, p := range programs {
			row := slices.Clone(first)
			if i > 0 {
				clear(row)
			}
			packets := fmt.Sprint(p.Packets)
			if p.Name == "-" {
				packets = "-"
			}
			said := dash(verdicts(c.Hook, p.Verdicts))
			if p.State != "" {
				said += "  " + p.State
			}
			row = append(row, p.Name, packets, said)
			if wide {
				row = append(row, dash(p.Linkage), dash(p.Package))
			}
			t.add(row...)
		}
	}
	return t
}

func probeTable(probes []l3af.ProbeStatus, wide bool) *table {
	head := []string{"PROBE", "ATTACH", "STATE", "ID"}
	if wide {
		head = append(head, "PROG", "LINK")
	}
	t := newTable(head...).numbers(4, 5)
	for _, p := range probes {
		row := []string{p.Name, dash(p.Attach), p.State, dash(p.ID)}
		if wide {
			row = append(row, number(p.ProgramID), number(p.LinkID))
		}
		t.add(row...)
	}
	return t
}

// agentTable has a line for each agent, and tells what is wrong with those
// that should run and do not.
func agentTable(st *l3af.Status) (t *table, troubles []string) {
	t = newTable("AGENT", "STATE", "PID", "RESTARTS", "CPU").numbers(2, 3, 4)
	add := func(at string, a *l3af.AgentStatus) {
		if a == nil {
			return
		}
		cpu := "-"
		if a.CPUSeconds > 0 {
			cpu = fmt.Sprintf("%.2fs", a.CPUSeconds)
		}
		t.add(at, a.State, number(uint32(a.PID)), fmt.Sprint(a.Restarts), cpu)
		if a.Error != "" && a.State == "restarting" {
			troubles = append(troubles, trouble("agent of "+at, a.Error))
		}
	}
	for _, c := range st.Chains {
		for _, p := range c.Programs {
			add(hookName(c)+" "+p.Name, p.Agent)
		}
	}
	for _, p := range st.Probes {
		add("probe/"+p.Name, p.Agent)
	}
	return t, troubles
}

// verdicts gives "pass 1100, drop 100", in the order of the return codes.
func verdicts(kind l3af.HookKind, n map[l3af.Verdict]uint64) string {
	var parts []string
	for _, v := range append(kind.Verdicts(), l3af.Other) {
		if n[v] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", v, n[v]))
		}
	}
	return strings.Join(parts, ", ")
}
