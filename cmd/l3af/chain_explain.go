package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"l3af"
)

func newChainExplain(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "explain HOOK",
		Short: "Say how a chain came about, and what each program costs",
		Long: `Explain says for each program of a chain how it is linked and why, its maps, and
what it costs alone: instructions, stack, what the kernel's verifier has to look
at, and the time it takes to load. The first line of costs is the whole chain's.
The programs are loaded aside for that; nothing at the hook changes. With -f it
is the chain that a document has for the hook, which nobody needs to apply.`,
		Example: `  l3af chain explain eth0/xdp
  l3af chain explain eth0/xdp -f state.yaml`,
		Args: oneHook,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := hookArg(args[0])
			if err != nil {
				return err
			}
			var proposed *l3af.State
			if file != "" {
				if proposed, err = a.document(cmd.Context(), file); err != nil {
					return err
				}
			}
			x, err := a.client().ExplainChain(cmd.Context(), h, proposed)
			if err != nil {
				return err
			}
			return a.show(x, func(bool) error { return printPlan(a.out, h, x) })
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "explain the chain that this document has for the hook; - reads standard input")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return cmd
}

func printPlan(w io.Writer, h l3af.Hook, x *l3af.ChainPlan) error {
	fmt.Fprintf(w, "%s  chain %s  %s\n", h, x.ID, plural(x.Segments, "segment"))
	if note := notRunning(x.ID, x.Running); note != "" {
		fmt.Fprintln(w, "note: "+note)
	}
	fmt.Fprintln(w)
	t := newTable("", "INSTRUCTIONS", "MAPS", "STACK", "VERIFIED", "VERIFIER", "LOAD", "MACHINE CODE").numbers(1, 2, 3, 4, 5, 6, 7)
	var troubles []string
	add := func(name string, c l3af.Cost) {
		if c.Error != "" {
			troubles = append(troubles, name+": "+c.Error)
			t.add(name, "-", "-", "-", "-", "-", "-", "-")
			return
		}
		stack := make([]string, len(c.Stack))
		for i, n := range c.Stack {
			stack[i] = fmt.Sprint(n)
		}
		t.add(name, fmt.Sprint(c.Instructions), fmt.Sprint(c.Maps), dash(strings.Join(stack, "+")), fmt.Sprint(c.Verified),
			micros(c.VerifyTime), micros(c.LoadTime), fmt.Sprintf("%d B", c.Jited))
	}
	add("chain", x.Cost)
	for _, p := range x.Programs {
		add(p.Name, p.Cost)
	}
	if err := t.print(w); err != nil {
		return err
	}
	for i, p := range x.Programs {
		fmt.Fprintf(w, "\n%d  %s  %s\n", i+1, p.Name, p.Package)
		link := p.Linkage
		if p.Segment > 0 && x.Segments > 1 {
			link += fmt.Sprintf(" in segment %d", p.Segment)
		}
		if p.Why != "" {
			link += ": " + p.Why
		}
		fmt.Fprintf(w, "   linkage  %s\n", link)
		goes := make([]string, len(p.Proceed))
		for i, v := range p.Proceed {
			goes[i] = string(v)
		}
		if i+1 < len(x.Programs) {
			fmt.Fprintf(w, "   goes on  after %s, to %s\n", strings.Join(goes, ", "), x.Programs[i+1].Name)
		} else {
			fmt.Fprintln(w, "   goes on  never: it is the last")
		}
		if p.Priority != nil {
			fmt.Fprintf(w, "   asks     for priority %d (XDP_RUN_CONFIG); the document's order holds\n", *p.Priority)
		}
		for j, m := range p.Maps {
			label := "maps"
			if j > 0 {
				label = ""
			}
			kind := ""
			if !m.Pinned {
				kind = ", part of the program"
			}
			fmt.Fprintf(w, "   %-7s  %s: %s, %d x (%d + %d bytes)%s\n", label, m.Name, m.Type, m.MaxEntries, m.KeySize, m.ValueSize, kind)
		}
	}
	for _, e := range troubles {
		fmt.Fprintln(w, "\nerror: "+strings.ReplaceAll(strings.TrimSpace(e), "\n", "\n    "))
	}
	return nil
}

func micros(n int64) string {
	return (time.Duration(n) * time.Microsecond).String()
}
