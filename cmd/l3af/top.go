package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"l3af/internal/near"
	"l3af/internal/top"
)

// topOptions are the flags of top.
type topOptions struct {
	interval time.Duration
	count    uint
	sort     string
	filter   string
}

const minInterval = 50 * time.Millisecond

func newTop(a *app) *cobra.Command {
	o := &topOptions{}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "See live how much programs and chains run",
		Long: `Top shows how often each program of this machine runs, for how long, and what
chains of ours drop. The daemon is not needed. The kernel's statistics of run time
are on for as long as top is open; with them each run of each program takes some 70
ns more, which is not counted as its run time.

Keys: r t c d n i sort by runs, ns per run, CPU, drops, name and id; / filters;
arrows select, Enter draws the history of the selected one; q ends.

Where the output is no terminal it is a table per interval, of programs that ran.
With -o json it is a line per interval with one document of all programs, and with
--count one array.`,
		Example: `  l3af top
  l3af top --sort drops --filter xdp/
  l3af top --count 1 -o json | jq '.[0].programs[] | select(.cpu > 0.01)'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.top(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.DurationVar(&o.interval, "interval", time.Second, "time between two looks")
	f.UintVar(&o.count, "count", 0, "end after so many intervals")
	f.StringVar(&o.sort, "sort", string(top.ByCPU), "sort by "+strings.Join(top.Keys(), ", "))
	f.StringVar(&o.filter, "filter", "", "show only what has this text in its id, type, hook or name")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(top.Keys(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) top(ctx context.Context, o *topOptions) error {
	switch {
	case o.interval < minInterval:
		return &usageError{what: fmt.Sprintf("--interval %s: must be %s at least", o.interval, minInterval)}
	case !slices.Contains(top.Keys(), o.sort):
		return &usageError{fmt.Sprintf("--sort %q: there is no such key", o.sort), near.Hint(o.sort, top.Keys())}
	}
	s, err := top.Open()
	if err != nil {
		return fmt.Errorf("top: %w", err)
	}
	defer s.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	show := a.topPlain(o)
	if keyboard, ok := a.in.(*os.File); ok && terminal(a.out) && term.IsTerminal(int(keyboard.Fd())) && a.output != formatJSON && a.output != formatYAML {
		screen, err := newScreen(a.out, keyboard, &top.View{Sort: top.Key(o.sort), Filter: o.filter}, stop)
		if err != nil {
			return fmt.Errorf("top: %w", err)
		}
		defer screen.close()
		show = screen
	}
	err = sample(ctx, s, o, show)
	return firstError(err, show.end())
}

// topShower shows looks as they come. end is called when there are no more.
type topShower interface {
	show(l *top.Look) error
	end() error
}

// sample looks once an interval, until it has done so often enough or is told
// to end. The first look has no rates, and is shown on screens only.
func sample(ctx context.Context, s *top.Sampler, o *topOptions, show topShower) error {
	tick := time.NewTicker(o.interval)
	defer tick.Stop()
	for n := uint(0); ; n++ {
		l, err := s.Look()
		if err != nil {
			return fmt.Errorf("top: %w", err)
		}
		if err := show.show(l); err != nil {
			return err
		}
		if n > 0 && n == o.count {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// plainTop prints looks one below the other.
type plainTop struct {
	*app
	*topOptions
	looks []*top.Look // with --count, for one array
	n     int
}

func (a *app) topPlain(o *topOptions) topShower {
	return &plainTop{app: a, topOptions: o, looks: []*top.Look{}}
}

func (p *plainTop) show(l *top.Look) error {
	if l.Seconds == 0 {
		return nil
	}
	all := len(l.Programs)
	l.Programs = top.Select(l.Programs, p.filter, top.Key(p.topOptions.sort))
	p.n++
	switch {
	case p.output == formatJSON || p.output == formatYAML:
		if p.count > 0 {
			p.looks = append(p.looks, l)
			return nil
		}
		if p.output == formatYAML {
			fmt.Fprintln(p.out, "---")
			return printYAML(p.out, l)
		}
		e := json.NewEncoder(p.out)
		e.SetEscapeHTML(false)
		return e.Encode(l)
	}
	rows, idle := [][]string{top.Head()}, 0
	for i := range l.Programs {
		if r := &l.Programs[i]; r.Runs > 0 {
			rows = append(rows, r.Cells())
		} else {
			idle++
		}
	}
	var b strings.Builder
	if p.n > 1 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%s  %s, %d of those shown did not run\n", l.Time.Format(time.TimeOnly), plural(all, "program"), idle)
	for _, line := range top.Columns(rows) {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(p.out, b.String())
	return err
}

func (p *plainTop) end() error {
	switch {
	case p.count == 0:
		return nil
	case p.output == formatJSON:
		return printJSON(p.out, p.looks)
	case p.output == formatYAML:
		return printYAML(p.out, p.looks)
	}
	return nil
}
