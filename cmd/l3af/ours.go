package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"l3af/internal/inspect"
)

// daemonPatience is how long a command that does not need the daemon waits for it.
const daemonPatience = 300 * time.Millisecond

// packages adds to what is ours what only the daemon knows: packages and the
// revision. Without an answer they are left out.
func (c *call) packages(chains []*inspect.Chain) {
	chains = slices.DeleteFunc(chains, func(o *inspect.Chain) bool { return o == nil || len(o.Programs) == 0 })
	if len(chains) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, daemonPatience)
	defer cancel()
	st, err := c.client().Status(ctx)
	if err != nil {
		return
	}
	packages := map[string]string{} // by hook and program
	for _, s := range st.Chains {
		for _, p := range s.Programs {
			packages[hookName(s)+" "+p.Name] = p.Package
		}
	}
	for _, o := range chains {
		o.Programs = slices.Clone(o.Programs) // other objects of the chain have them too
		for i := range o.Programs {
			for _, at := range o.At {
				if name, ok := packages[at+" "+o.Programs[i].Name]; ok {
					o.Programs[i].Package, o.Revision = name, st.Revision
					break
				}
			}
		}
	}
}

// printChainOf is the line of text below an object that is ours.
func printChainOf(w io.Writer, o *inspect.Chain) {
	if o == nil {
		return
	}
	fmt.Fprint(w, "\n\tchain")
	if o.ID != "" {
		fmt.Fprint(w, " "+o.ID)
	}
	if len(o.At) > 0 {
		fmt.Fprint(w, "  at "+strings.Join(o.At, ","))
	}
	for _, f := range [][2]string{{"program", o.Program}, {"instance", o.Instance}, {"map", o.Map}} {
		if f[1] != "" {
			fmt.Fprintf(w, "  %s %s", f[0], f[1])
		}
	}
	var members []string
	for _, m := range o.Programs {
		if m.Package != "" {
			m.Name += "(" + m.Package + ")"
		}
		members = append(members, m.Name)
	}
	if len(members) > 0 {
		fmt.Fprint(w, "  programs "+strings.Join(members, ", "))
	}
	if o.Revision > 0 {
		fmt.Fprintf(w, "  revision %d", o.Revision)
	}
}
