package apitest

import (
	"context"
	"fmt"

	"l3af"
)

// chain is what the report says of a hook.
func (n *Node) chain(h l3af.Hook) (*l3af.ChainStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.Report.Chains {
		c := &n.Report.Chains[i]
		if (l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}) == h {
			return c, n.Err
		}
	}
	return nil, fmt.Errorf("chain %s: %w", h, l3af.ErrNotFound)
}

// first is the name of a chain's first program.
func first(c *l3af.ChainStatus) string {
	if len(c.Programs) == 0 {
		return "none"
	}
	return c.Programs[0].Name
}

// RunChain says that the first program of the chain dropped every packet, and
// sends back what it got.
func (n *Node) RunChain(_ context.Context, h l3af.Hook, req *l3af.RunRequest) (*l3af.ChainRun, error) {
	c, err := n.chain(h)
	if err != nil {
		return nil, err
	}
	r := &l3af.ChainRun{Interface: h.Interface, Netns: h.Netns, Hook: h.Kind, ID: c.ID, Packets: []l3af.PacketRun{}, Programs: []l3af.ProgramStatus{}}
	dropped := func(p []byte) l3af.PacketRun {
		return l3af.PacketRun{Verdict: l3af.Drop, Code: 1, Program: first(c), Length: len(p), Data: p}
	}
	for _, p := range req.Packets {
		r.Packets = append(r.Packets, dropped(p))
	}
	if req.Stream != nil {
		for p, err := range req.Stream {
			if err == nil {
				err = req.Each(dropped(p))
			}
			if err != nil {
				return nil, err
			}
		}
	}
	if req.LiveMaps {
		r.Notes = append(r.Notes, "live maps")
	}
	if req.State != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("a document with %d chains", len(req.State.Chains)))
	}
	return r, nil
}

// ExplainChain says how many programs the chain has; its ID is "proposed" where
// it gets a document.
func (n *Node) ExplainChain(_ context.Context, h l3af.Hook, s *l3af.State) (*l3af.ChainPlan, error) {
	c, err := n.chain(h)
	if err != nil {
		return nil, err
	}
	x := &l3af.ChainPlan{Interface: h.Interface, Netns: h.Netns, Hook: h.Kind, ID: c.ID, Segments: 1, Cost: l3af.Cost{Stack: []int{8}}, Programs: []l3af.ProgramPlan{}}
	if s != nil {
		x.ID, x.Running = "proposed", c.ID
	}
	for _, p := range c.Programs {
		x.Programs = append(x.Programs, l3af.ProgramPlan{
			Name: p.Name, Package: p.Package, Linkage: "inlined", Proceed: []l3af.Verdict{l3af.Pass},
			Maps: []l3af.MapPlan{{Name: "m", Type: "Hash"}}, Cost: l3af.Cost{Stack: []int{0}},
		})
	}
	return x, nil
}

// DumpChain gives code that only returns.
func (n *Node) DumpChain(_ context.Context, h l3af.Hook, jited bool) (*l3af.ChainCode, error) {
	c, err := n.chain(h)
	if err != nil {
		return nil, err
	}
	d := &l3af.ChainCode{Interface: h.Interface, Netns: h.Netns, Hook: h.Kind, ID: c.ID, Functions: []l3af.FunctionCode{{
		Name: "l3af_" + c.ID, Segment: 1, Instructions: []l3af.InstructionCode{{Text: "Exit", Program: first(c)}},
	}}}
	if jited {
		d.Jited = []l3af.JitedCode{{Name: "l3af_" + c.ID, Segment: 1, Size: 1, Code: []byte{0xc3}}}
	}
	return d, nil
}
