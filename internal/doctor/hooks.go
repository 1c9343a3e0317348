package doctor

import (
	"context"
	"fmt"
	"strings"

	"l3af"
	"l3af/internal/inspect"
)

// hooks looks for programs of others where our chains run.
func (e *examination) hooks(context.Context) {
	if e.status == nil {
		e.say(Note, "", "not looked at: l3afd does not answer")
		return
	}
	net, err := inspect.ReadNet(inspect.NetOptions{})
	if err != nil {
		e.say(Warning, "run l3af doctor as root", "hooks were not looked at: %v", err)
		return
	}
	for _, c := range e.status.Chains {
		at := namespace(net, c.Netns)
		if c.State != l3af.Running || at == nil {
			continue
		}
		target := l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}.String()
		if c.Hook == l3af.XDP {
			e.xdp(target, &c, at)
		} else {
			e.tc(target, &c, at)
		}
	}
}

// namespace finds a network namespace by the name or path of the document.
func namespace(n *inspect.Net, name string) *inspect.Net {
	if name == "" {
		return n
	}
	for i := range n.Netns {
		if o := &n.Netns[i]; o.Name == name || o.Path == name {
			return &o.Net
		}
	}
	return nil
}

// xdp looks for programs that an interface has in other modes.
func (e *examination) xdp(target string, c *l3af.ChainStatus, n *inspect.Net) {
	for _, x := range n.XDP {
		for _, m := range x.Multi {
			if x.Devname == c.Interface && m.ID != c.ProgramID {
				e.say(Note, "l3af net show tells who holds it", "%s: program %s of others is there too, in mode %s", target, named(m.ID, m.Name), m.Mode)
			}
		}
	}
}

// tc looks for what runs before and after our chain. The verdict ok of TCX is
// final: only unspec lets packets go on (enum tcx_action_base in linux/bpf.h).
func (e *examination) tc(target string, c *l3af.ChainStatus, n *inspect.Net) {
	side := strings.TrimPrefix(string(c.Hook), "tc-")
	before := true
	for _, at := range n.TC {
		switch {
		case at.Devname != c.Interface:
		case at.Kind == "tcx/"+side && at.TCXProgram.ProgID == c.ProgramID:
			before = false
		case at.Kind == "tcx/"+side && before:
			e.say(Note, "l3af net show tells who holds it", "%s: program %s of others runs before the chain, which sees only what it lets pass on", target, named(at.ProgID, at.Name))
		case at.Kind == "tcx/"+side:
			e.say(Warning, "a chain whose last program returns unspec lets packets go on to it", "%s: program %s of others stands behind the chain, and never sees packets whose verdict is ok", target, named(at.ProgID, at.Name))
		case at.Kind == "clsact/"+side:
			e.say(Warning, "a chain whose last program returns unspec lets packets go on to it", "%s: a filter of others, %s, stands behind the chain, and never sees packets whose verdict is ok", target, at.Name)
		}
	}
}

func named(id uint32, name string) string {
	if name == "" {
		return fmt.Sprint(id)
	}
	return fmt.Sprintf("%s (%d)", name, id)
}
