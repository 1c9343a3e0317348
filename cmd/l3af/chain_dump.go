package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"l3af"
)

func newChainDump(a *app) *cobra.Command {
	var jited bool
	cmd := &cobra.Command{
		Use:   "dump HOOK",
		Short: "Print the code of a chain: where each program begins, and source lines",
		Long: `Dump prints the code of a chain as it is given to the kernel: its functions, where
each program begins in them, and the source lines that objects have. With
--jited it prints the machine code that the kernel made of the chain that runs.`,
		Example: `  l3af chain dump eth0/xdp
  l3af chain dump eth0/xdp --jited`,
		Args: oneHook,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := hookArg(args[0])
			if err != nil {
				return err
			}
			d, err := a.client().DumpChain(cmd.Context(), h, jited)
			if err != nil {
				return err
			}
			return a.show(d, func(bool) error {
				fmt.Fprintf(a.out, "%s  chain %s\n", h, d.ID)
				if note := notRunning(d.ID, d.Running); note != "" {
					fmt.Fprintln(a.out, "note: "+note)
				}
				if jited {
					return printJited(printable{a.out}, d.Jited)
				}
				return printCode(printable{a.out}, d.Functions)
			})
		},
	}
	cmd.Flags().BoolVar(&jited, "jited", false, "the machine code, by function")
	return cmd
}

func printCode(w io.Writer, functions []l3af.FunctionCode) error {
	var b strings.Builder
	for _, f := range functions {
		fmt.Fprintf(&b, "\nsegment %d  %s\n", f.Segment, f.Name)
		owner := "no program" // none is called that
		for _, ins := range f.Instructions {
			owner = printSource(&b, owner, ins.Program, ins.Source)
			fmt.Fprintf(&b, "%6d: %s\n", ins.Offset, ins.Text)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printSource prints whose the code is from here on, where that changes, and the
// line of source that begins; it returns whose it is.
func printSource(b *strings.Builder, was, is, source string) string {
	if is != was {
		b.WriteString(strings.TrimRight("  ---- "+is, " ") + "\n")
	}
	if source != "" {
		fmt.Fprintf(b, "        ; %s\n", source)
	}
	return is
}

func printJited(w io.Writer, functions []l3af.JitedCode) error {
	var b strings.Builder
	for _, f := range functions {
		fmt.Fprintf(&b, "\nsegment %d  %s  %d bytes\n", f.Segment, f.Name, f.Size)
		if f.Code == nil {
			b.WriteString("  the kernel does not give its code (kernel.kptr_restrict)\n")
			continue
		}
		if len(f.Instructions) == 0 { // of a kind of machine whose code is not read
			for at := 0; at < len(f.Code); at += 16 {
				fmt.Fprintf(&b, "%6x: % x\n", at, f.Code[at:min(at+16, len(f.Code))])
			}
		}
		owner := "no program"
		for _, i := range f.Instructions {
			owner = printSource(&b, owner, i.Program, i.Source)
			fmt.Fprintf(&b, "%6x: %s\n", i.Offset, i.Text)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
