package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// tooLarge explains ERANGE: what does not fit in a page comes in fragments.
const tooLarge = " (the MTU of the interface, or of its peer, is too large for native XDP)"

// explainFrags names, where the MTU is too large for a chain, the programs of
// it that do not know packets in fragments; "" where there are none.
func explainFrags(c *chain.Chain) string {
	var whole []string
	for _, p := range c.Programs {
		if p.Whole {
			whole = append(whole, p.Name)
		}
	}
	if c.Kind != l3af.XDP || len(whole) == 0 {
		return ""
	}
	names := strings.Join(whole[:min(len(whole), 5)], ", ")
	if more := len(whole) - 5; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	if len(whole) == len(c.Programs) {
		names = "all"
	}
	return fmt.Sprintf("; packets that large come in fragments, which a chain gets only if all its programs are made for them "+
		"(SEC(\"xdp.frags\")); not made for them: %s", names)
}

// explainRange adds to an error of too large an MTU what can be done.
func explainRange(c *chain.Chain, err error) error {
	if !errors.Is(err, unix.ERANGE) {
		return err
	}
	hint := explainFrags(c)
	if !strings.Contains(err.Error(), tooLarge) {
		hint = tooLarge + hint
	}
	return fmt.Errorf("%w%s", err, hint)
}

// attachXDP makes a link in the wanted mode; auto is native where the driver
// can, else generic, and the result says why.
func attachXDP(t host.Target, dev *device, want l3af.Mode, prog *ebpf.Program) (link.Link, host.Result, error) {
	first := want
	if want == l3af.Auto {
		first = l3af.Native
	}
	l, err := attachXDPMode(dev, first, prog)
	if err == nil {
		return l, host.Result{Mode: first}, nil
	}
	if want != l3af.Auto || busy(err) {
		return nil, host.Result{}, err
	}
	l, errGeneric := attachXDPMode(dev, l3af.Generic, prog)
	if errGeneric != nil {
		return nil, host.Result{}, errors.Join(err, errGeneric)
	}
	return l, host.Result{Mode: l3af.Generic, Note: err.Error()}, nil
}

func attachXDPMode(dev *device, mode l3af.Mode, prog *ebpf.Program) (link.Link, error) {
	flags := map[l3af.Mode]link.XDPAttachFlags{
		l3af.Native:  link.XDPDriverMode,
		l3af.Generic: link.XDPGenericMode,
		l3af.Offload: link.XDPOffloadMode,
	}[mode]
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: dev.index, Flags: flags})
	if err == nil {
		return l, nil
	}
	// The kernel's words go to netlink users only; links get the number.
	hint := ""
	switch {
	case mode == l3af.Native && errors.Is(err, unix.EOPNOTSUPP):
		hint = fmt.Sprintf(" (%s has no native XDP)", dev.driver())
	case mode == l3af.Native && errors.Is(err, unix.ERANGE):
		hint = tooLarge
	}
	return nil, fmt.Errorf("attach in %s mode: %w%s", mode, err, hint)
}
