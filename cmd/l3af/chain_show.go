package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"l3af"
)

// shownChains is what chain show prints as JSON.
type shownChains struct {
	Seconds float64      `json:"seconds"` // over which rates were measured; 0: they were not
	Chains  []shownChain `json:"chains"`
}

type shownChain struct {
	l3af.ChainStatus
	Programs []shownProgram `json:"programs"`
}

// shownProgram is a program with what happened per second.
type shownProgram struct {
	l3af.ProgramStatus
	Rate  float64                  `json:"rate"`
	Rates map[l3af.Verdict]float64 `json:"rates"`
}

func newChainShow(a *app) *cobra.Command {
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "show [IFACE[/HOOK]]",
		Short: "Show the programs of each hook in order, and what they do now",
		Long: `Show has a block for each hook: its programs in the order packets meet them,
how each is linked, how often it ran, its verdicts, after which of them the next
program runs, and its maps. Rates are per second, measured between two looks.`,
		Example: `  l3af chain show
  l3af chain show eth0
  l3af chain show eth0/xdp --interval 5s
  l3af chain show --interval 0 -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return &usageError{what: fmt.Sprintf("unexpected argument %q", args[1])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if every < 0 {
				return &usageError{"--interval must be 0 or more", "0 measures no rates"}
			}
			place, kind := "", l3af.HookKind("")
			if len(args) == 1 {
				var err error
				if place, kind, err = placeArg(args[0]); err != nil {
					return err
				}
			}
			s, err := a.look(cmd.Context(), place, kind, every)
			if err != nil {
				return err
			}
			return a.show(s, func(wide bool) error { return printChains(a.out, s, wide) })
		},
	}
	cmd.Flags().DurationVar(&every, "interval", time.Second, "time between the two looks; 0: one look, no rates")
	return cmd
}

// look reads the chains of a place, twice where rates are wanted.
func (a *app) look(ctx context.Context, place string, kind l3af.HookKind, every time.Duration) (*shownChains, error) {
	read := func() ([]l3af.ChainStatus, time.Time, error) {
		st, err := a.client().Status(ctx)
		if err != nil {
			return nil, time.Time{}, err
		}
		var list []l3af.ChainStatus
		for _, c := range st.Chains {
			at := c.Interface
			if c.Netns != "" {
				at = c.Netns + ":" + at
			}
			if (place == "" || place == at) && (kind == "" || kind == c.Hook) {
				list = append(list, c)
			}
		}
		return list, time.Now(), nil
	}
	before, begin, err := read()
	if err != nil {
		return nil, err
	}
	if len(before) == 0 && place != "" {
		what := place
		if kind != "" {
			what += "/" + string(kind)
		}
		return nil, &hinted{fmt.Errorf("chain %s: %w", what, l3af.ErrNotFound), "l3af chain show lists the chains; NETNS:IFACE names an interface in a network namespace"}
	}
	s := &shownChains{}
	now := before
	if every > 0 && len(before) > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(every):
		}
		var end time.Time
		if now, end, err = read(); err != nil {
			return nil, err
		}
		s.Seconds = end.Sub(begin).Seconds()
	}
	s.Chains = make([]shownChain, len(now))
	for i, c := range now {
		s.Chains[i] = rated(c, before, s.Seconds)
	}
	return s, nil
}

// rated adds what happened since before. A program that was not there then
// has no rate.
func rated(c l3af.ChainStatus, before []l3af.ChainStatus, seconds float64) shownChain {
	was := map[string]l3af.ProgramStatus{}
	for _, b := range before {
		if hookName(b) == hookName(c) {
			for _, p := range b.Programs {
				was[p.Name] = p
			}
		}
	}
	rate := func(now, then uint64) float64 {
		if seconds <= 0 || now < then {
			return 0
		}
		return float64(now-then) / seconds
	}
	shown := shownChain{ChainStatus: c, Programs: []shownProgram{}}
	for _, p := range c.Programs {
		s := shownProgram{ProgramStatus: p, Rates: map[l3af.Verdict]float64{}}
		if b, ok := was[p.Name]; ok {
			s.Rate = rate(p.Packets, b.Packets)
			for v, n := range p.Verdicts {
				if r := rate(n, b.Verdicts[v]); r > 0 {
					s.Rates[v] = r
				}
			}
		}
		shown.Programs = append(shown.Programs, s)
	}
	return shown
}

func printChains(w io.Writer, s *shownChains, wide bool) error {
	if len(s.Chains) == 0 {
		_, err := fmt.Fprintln(w, "no chains")
		return err
	}
	var errs []error
	for i := range s.Chains {
		if i > 0 {
			fmt.Fprintln(w)
		}
		errs = append(errs, printChain(w, &s.Chains[i], s.Seconds > 0, wide))
	}
	return errors.Join(errs...)
}

func printChain(w io.Writer, c *shownChain, rates, wide bool) error {
	head := []string{hookName(c.ChainStatus)}
	if c.Mode != "" {
		head = append(head, string(c.Mode))
	}
	head = append(head, c.State)
	if c.ID != "" {
		head = append(head, "chain "+c.ID, fmt.Sprintf("program %d", c.ProgramID), fmt.Sprintf("link %d", c.LinkID), plural(c.Segments, "segment"))
	}
	fmt.Fprintln(w, strings.Join(head, "  "))
	if c.ModeNote != "" {
		fmt.Fprintln(w, "  note: "+strings.TrimSpace(c.ModeNote))
	}
	for _, p := range c.Programs {
		if p.Why != "" {
			fmt.Fprintf(w, "  note: %s is %s: %s\n", p.Name, p.Linkage, p.Why)
		}
	}
	if c.Error != "" {
		fmt.Fprintln(w, "  error: "+strings.ReplaceAll(strings.TrimSpace(c.Error), "\n", "\n    "))
	}
	columns := []string{"", "PROGRAM", "LINKAGE", "RUNS"}
	numbers := []int{0, 3}
	if c.Segments > 1 {
		columns, numbers = []string{"", "PROGRAM", "LINKAGE", "SEGMENT", "RUNS"}, []int{0, 3, 4}
	}
	if rates {
		numbers = append(numbers, len(columns))
		columns = append(columns, "PER SECOND")
	}
	columns = append(columns, "VERDICTS", "GOES ON AFTER", "MAPS")
	if wide {
		columns = append(columns, "PACKAGE")
	}
	t := newTable(columns...).numbers(numbers...)
	for i, p := range c.Programs {
		row := []string{fmt.Sprintf("  %d", i+1), p.Name, dash(cmp.Or(p.State, p.Linkage))}
		if c.Segments > 1 {
			row = append(row, number(p.Segment))
		}
		row = append(row, fmt.Sprint(p.Packets))
		if rates {
			row = append(row, perSecond(p.Rate))
		}
		var said []string
		for _, v := range append(c.Hook.Verdicts(), l3af.Other) {
			if n := p.Verdicts[v]; n > 0 {
				text := fmt.Sprintf("%s %d", v, n)
				if r := p.Rates[v]; r > 0 {
					text += " (" + perSecond(r) + "/s)"
				}
				said = append(said, text)
			}
		}
		var goes []string
		if i+1 < len(c.Programs) {
			for _, v := range p.Proceed {
				goes = append(goes, string(v))
			}
		}
		row = append(row, dash(strings.Join(said, ", ")), dash(strings.Join(goes, ", ")), dash(strings.Join(p.Maps, ", ")))
		if wide {
			row = append(row, dash(p.Package))
		}
		t.add(row...)
	}
	if err := t.print(w); err != nil {
		return err
	}
	for _, p := range c.Programs {
		for _, m := range p.Monitor {
			fmt.Fprintf(w, "  monitor: %s %s[%s] %s %s\n", p.Name, m.Map, m.Key, m.Aggregator, strconv.FormatFloat(m.Value, 'f', -1, 64))
		}
	}
	return nil
}

// perSecond writes a rate with the digits that mean something.
func perSecond(r float64) string {
	switch {
	case r == 0:
		return "0"
	case r < 10:
		return fmt.Sprintf("%.1f", r)
	}
	return fmt.Sprintf("%.0f", r)
}
