package kernel

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/host"
)

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
		hint = " (the MTU of the interface, or of its peer, is too large for native XDP)"
	}
	return nil, fmt.Errorf("attach in %s mode: %w%s", mode, err, hint)
}
