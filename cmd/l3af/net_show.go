package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/pflag"

	"l3af/internal/inspect"
)

// theCurrent is the value of --netns that means the namespace of the process.
const theCurrent = "."

// netShowVerbs are made for each command line: they have a flag.
func netShowVerbs() []verb {
	netns := ""
	return []verb{{
		name: "show", aliases: []string{"list"}, args: "[dev IFACE]",
		short: "Show what is attached to the network, in all network namespaces",
		long: `Show has the programs at XDP with their mode, at TCX and netkit, in filters of
qdiscs, the flow dissector, and those at netfilter, whether links hold them or not.
(With --bpftool-compat those at netfilter are of all namespaces, as of bpftool.)

JSON is an array of one object, as of bpftool: what the current network namespace
has. The other namespaces that have something are in its member netns, each
with the same members. So is the text: the current one comes first.`,
		example: `  l3af net show
  l3af net show dev eth0 --netns .
  l3af -j net show | jq '.[0].xdp[].id'
  l3af -j net show | jq '.[0].netns[] | {name, xdp}'`,
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&netns, "netns", "", "only this network namespace: a name, a path, or . for the current one")
		},
		run: func(c *call) error { return c.netShow(netns) },
	}}
}

func (c *call) netShow(netns string) error {
	o, err := c.netOptions(netns)
	if err != nil {
		return err
	}
	if o.Ours, err = inspect.ReadOurs(); err != nil {
		return err
	}
	n, err := inspect.ReadNet(o)
	switch {
	case errors.Is(err, fs.ErrNotExist) && o.Device == "":
		return &hinted{err, "network namespaces are named as by ip netns, or by a path"}
	case errors.Is(err, fs.ErrNotExist) && o.Only != "":
		return &hinted{
			fmt.Errorf("interface %s of network namespace %s: there is none", o.Device, o.Only),
			"network namespaces are named as by ip netns, or by a path",
		}
	case err != nil:
		return err
	}
	if n.Unplaced != nil {
		fmt.Fprintf(c.err, "note: programs at netfilter are those of all network namespaces: %v\n", n.Unplaced)
	}
	c.packages(n.Chains())
	return c.answer([]*inspect.Net{n}, func(w io.Writer) error {
		var b strings.Builder
		printNet(&b, n)
		for i := range n.Netns {
			other := &n.Netns[i]
			name := other.Name
			if name == "" {
				name = fmt.Sprintf("%s  pid %d", other.Path, other.PID)
			}
			fmt.Fprintf(&b, "netns %s:\n\n", word(name))
			printNet(&b, &other.Net)
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}

func (c *call) netOptions(netns string) (inspect.NetOptions, error) {
	var o inspect.NetOptions
	if c.take("dev") {
		var err error
		if o.Device, err = c.next("interface"); err != nil {
			return o, err
		}
	}
	if err := c.end(); err != nil {
		return o, err
	}
	o.All = c.opts.compat
	if o.Own = netns == theCurrent || netns == "" && c.opts.compat; !o.Own {
		o.Only = netns
	}
	return o, nil
}

// printNet prints a namespace as bpftool does, for scripts that read that.
func printNet(w io.Writer, n *inspect.Net) {
	fmt.Fprintln(w, "xdp:")
	for _, x := range n.XDP {
		fmt.Fprintf(w, "%s(%d)", x.Devname, x.Ifindex)
		if x.Mode != "" {
			fmt.Fprintf(w, " %s id %d", x.Mode, x.ID)
			printNetProgram(w, x.Name, x.LinkID, x.Chain)
		}
		for _, m := range x.Multi {
			fmt.Fprintf(w, " %s id %d", m.Mode, m.ID)
		}
		for _, m := range x.Multi {
			printNetProgram(w, m.Name, m.LinkID, m.Chain)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "\ntc:")
	for _, t := range n.TC {
		fmt.Fprintf(w, "%s(%d) %s", t.Devname, t.Ifindex, t.Kind)
		if t.Name != "" {
			fmt.Fprint(w, " "+word(t.Name))
		}
		switch {
		case t.TCXProgram != nil:
			fmt.Fprintf(w, " prog_id %d", t.ProgID)
			printFlags(w, "prog_flags", t.ProgFlags)
			if t.LinkID > 0 {
				fmt.Fprintf(w, " link_id %d", t.LinkID)
			}
			printFlags(w, "link_flags", t.LinkFlags)
		case t.TCFilter != nil:
			printFilter(w, t.TCFilter)
		}
		printChainOf(w, t.Chain)
		fmt.Fprintln(w)
	}
	for _, s := range []struct {
		head  string
		of    []inspect.NetProgram
		empty bool // the head is there in any case
	}{{"flow_dissector:", n.FlowDissector, true}, {"sk_lookup:", n.SkLookup, false}} {
		if len(s.of) == 0 && !s.empty {
			continue
		}
		fmt.Fprintln(w, "\n"+s.head)
		for _, p := range s.of {
			fmt.Fprintf(w, "id %d", p.ID)
			printNetProgram(w, p.Name, p.LinkID, p.Chain)
			fmt.Fprintln(w)
		}
	}
	fmt.Fprintln(w, "\nnetfilter:")
	for _, f := range n.Netfilter {
		fmt.Fprintf(w, "\t%s prog_id %d", netfilterText(&f.NetfilterLink), f.ID)
		if f.NetnsIno != 0 {
			fmt.Fprintf(w, " netns_ino %d", f.NetnsIno)
		}
		printNetProgram(w, f.Name, f.LinkID, f.Chain)
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

// printNetProgram says below a line what bpftool does not say of a program.
func printNetProgram(w io.Writer, name string, link uint32, chain *inspect.Chain) {
	var more []string
	if name != "" {
		more = append(more, "name "+name)
	}
	if link > 0 {
		more = append(more, fmt.Sprintf("link_id %d", link))
	}
	if len(more) > 0 {
		fmt.Fprint(w, "\n\t"+strings.Join(more, "  "))
	}
	printChainOf(w, chain)
}

func printFlags(w io.Writer, name string, flags []uint32) {
	for _, f := range flags {
		fmt.Fprintf(w, " %s %#x", name, f)
	}
}

func printFilter(w io.Writer, f *inspect.TCFilter) {
	if f.ID > 0 {
		fmt.Fprintf(w, " id %d", f.ID)
	}
	if len(f.Act) > 0 {
		fmt.Fprint(w, " act [")
		for _, a := range f.Act {
			fmt.Fprintf(w, "%s id %d", a.Name, a.ID)
		}
		fmt.Fprint(w, "]")
	}
	fmt.Fprintf(w, "\n\tprio %d  handle %#x  protocol %s", f.Prio, f.Handle, f.Protocol)
	if f.TCChain > 0 {
		fmt.Fprintf(w, "  tc_chain %d", f.TCChain)
	}
	if f.DirectAction {
		fmt.Fprint(w, "  direct-action")
	}
	if f.Block > 0 {
		fmt.Fprintf(w, "  block %d", f.Block)
	}
}
