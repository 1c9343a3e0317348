package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l3af"
	"l3af/internal/host"
)

func tcxAttachType(kind l3af.HookKind) ebpf.AttachType {
	if kind == l3af.TCEgress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// attachTCX makes a link behind those that are there.
func attachTCX(t host.Target, dev *device, prog *ebpf.Program) (link.Link, error) {
	l, err := link.AttachTCX(link.TCXOptions{Interface: dev.index, Program: prog, Attach: tcxAttachType(t.Hook.Kind)})
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	return l, nil
}

// tcxLinks lists the ids of the links on a TCX hook in the thread's network
// namespace.
func tcxLinks(kind l3af.HookKind, dev *device) ([]link.ID, error) {
	res, err := link.QueryPrograms(link.QueryOptions{Target: dev.index, Attach: tcxAttachType(kind)})
	if err != nil {
		return nil, fmt.Errorf("list TCX of %s: %w", dev.name, err)
	}
	var ids []link.ID
	for _, p := range res.Programs {
		if id, ok := p.LinkID(); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
