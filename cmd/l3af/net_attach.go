package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/spf13/pflag"

	"l3af/internal/inspect"
	"l3af/internal/near"
)

// netAttachVerbs are made for each command line: they have flags.
func netAttachVerbs() []verb {
	netns, links := "", false
	flags := func(f *pflag.FlagSet) {
		f.StringVar(&netns, "netns", "", "in this network namespace: a name or a path")
	}
	types := "TYPE is one of " + strings.Join(inspect.NetTypes(), ", ") + ";\nPROG is " + progSelection.usage() + "."
	return []verb{{
		name: "attach", args: "TYPE PROG dev IFACE [overwrite | prepend]",
		short: "Attach a program to an interface",
		long: `Attach attaches a program without a link: it stays until it is detached. At XDP
overwrite replaces one that is there. At TCX the program comes behind the others,
or with prepend before them.

` + types,
		example: `  l3af net attach xdpdrv pinned /sys/fs/bpf/filter dev eth0
  l3af net attach tcx_ingress id 412 dev eth0 prepend`,
		flags: flags,
		run:   func(c *call) error { return c.netAttach(netns) },
	}, {
		name: "detach", args: "TYPE [PROG] dev IFACE",
		short: "Detach a program from an interface",
		long: `Detach detaches the program that is there; where there are several, PROG says which.
A program that a link holds goes only with --link: whoever made the link may not
expect it. Plain xdp is the program there is, in whatever mode; that there is none
at XDP is no error.

` + types,
		example: `  l3af net detach xdp dev eth0
  l3af net detach tcx_egress id 412 dev eth0 --link`,
		flags: func(f *pflag.FlagSet) {
			flags(f)
			f.BoolVar(&links, "link", false, "detach the link too that holds the program")
		},
		run: func(c *call) error { return c.netDetach(netns, links) },
	}}
}

// netType takes a type of attachment, or an abbreviation of it.
func (c *call) netType() (string, error) {
	word, err := c.next("type of attachment")
	if err != nil {
		return "", err
	}
	types := inspect.NetTypes()
	i := slices.IndexFunc(types, func(t string) bool { return abbreviates(word, t) })
	if i < 0 {
		return "", &usageError{fmt.Sprintf("unknown type of attachment %q", word), near.Hint(word, types)}
	}
	return types[i], nil
}

// netDevice takes dev IFACE.
func (c *call) netDevice() (string, error) {
	if !c.take("dev") {
		if c.peek() == "" {
			return "", &usageError{"no interface is named", "dev IFACE names it"}
		}
		return "", &usageError{fmt.Sprintf("unknown word %q", c.peek()), "dev IFACE names the interface"}
	}
	return c.next("interface")
}

// device takes the name of an interface of this network namespace.
func (c *call) device() (*net.Interface, error) {
	name, err := c.next("interface")
	if err != nil {
		return nil, err
	}
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return nil, &hinted{fmt.Errorf("interface %s: there is none", name), "ip link lists those of this network namespace"}
	}
	return dev, nil
}

func (c *call) netAttach(netns string) error {
	p := inspect.NetPlace{Netns: netns}
	var err error
	if p.Type, err = c.netType(); err != nil {
		return err
	}
	prog, err := c.selectProgram()
	if err != nil {
		return err
	}
	defer prog.Close()
	if p.Device, err = c.netDevice(); err != nil {
		return err
	}
	xdp := strings.HasPrefix(p.Type, "xdp")
	replace := xdp && c.take("overwrite")
	first := !xdp && c.take("prepend")
	if err := c.end(); err != nil {
		return err
	}
	if err := p.Attach(prog, replace, first); err != nil {
		if errors.Is(err, inspect.ErrOccupied) && xdp {
			return &hinted{err, "overwrite replaces it"}
		}
		return heldHint(unfit(err, prog))
	}
	return c.done()
}

func (c *call) netDetach(netns string, links bool) error {
	p := inspect.NetPlace{Netns: netns}
	var err error
	if p.Type, err = c.netType(); err != nil {
		return err
	}
	id := ebpf.ProgramID(0)
	if !abbreviates(c.peek(), "dev") {
		prog, err := c.selectProgram()
		if err != nil {
			return err
		}
		info, err := prog.Info()
		prog.Close()
		if err != nil {
			return err
		}
		id, _ = info.ID()
	}
	if p.Device, err = c.netDevice(); err != nil {
		return err
	}
	if err := c.end(); err != nil {
		return err
	}
	err = p.Detach(uint32(id), links)
	if errors.Is(err, inspect.ErrEmpty) && id == 0 && strings.HasPrefix(p.Type, "xdp") {
		// Scripts detach what may be there; it is done, to the kernel and bpftool too.
		fmt.Fprintf(c.err, "note: %v\n", err)
		return c.done()
	}
	if err != nil {
		return heldHint(err)
	}
	return c.done()
}

// heldHint says what to do about a program that a link holds.
func heldHint(err error) error {
	held := (*inspect.HeldError)(nil)
	switch {
	case !errors.As(err, &held):
		return err
	case held.Ours:
		return &hinted{err, "it is a chain of l3afd, which attaches it again: change the document with l3af apply"}
	}
	return &hinted{err, fmt.Sprintf("l3af net detach with --link, or l3af link detach id %d, takes it away", held.Link)}
}
