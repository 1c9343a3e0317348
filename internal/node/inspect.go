package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// Inspector is what looking into chains needs of the machine besides
// [Kernel]. It changes nothing.
type Inspector interface {
	// Run runs packets through a copy of the chain, with maps of its own.
	Run(ctx context.Context, load host.Load, run host.Run) (*host.Ran, error)
	// Cost loads the chain aside and says what that took.
	Cost(load host.Load) (host.Cost, error)
	// Jited gives the machine code that runs at the target.
	// errors.Is(err, os.ErrNotExist): none does.
	Jited(t host.Target) ([]host.Jited, error)
}

// inspector is the node's kernel, if that has programs to look into.
func (n *Node) inspector() (Inspector, error) {
	i, ok := n.kernel.(Inspector)
	if !ok {
		return nil, errors.New("this kernel runs no programs that could be looked into")
	}
	return i, nil
}

// wanted composes the chain that a document wants at a hook; s nil: the state
// in force. running is the ID of the chain that the hook runs, "" for none.
func (n *Node) wanted(ctx context.Context, s *l3af.State, h l3af.Hook) (m *made, c *composer, running string, err error) {
	if s == nil {
		n.view.RLock()
		rev := n.revs.current
		n.view.RUnlock()
		if rev == nil {
			return nil, nil, "", fmt.Errorf("chain %s: nothing was applied: %w", h, l3af.ErrNotFound)
		}
		doc, path := named(&rev.State, h)
		if doc == nil {
			return nil, nil, "", fmt.Errorf("chain %s: %w", h, l3af.ErrNotFound)
		}
		c = newComposer(n.stored(rev))
		m = (&made{path: path, chain: doc}).build(c)
		if m.err != nil {
			return nil, nil, "", m.err
		}
	} else {
		c = newComposer(n.opener(ctx))
		d, err := n.draft(s, c.open)
		if err != nil {
			return nil, nil, "", err
		}
		doc, path := named(d.state, h)
		if doc == nil {
			return nil, nil, "", &l3af.InvalidError{Mistakes: []l3af.Mistake{{
				Path: "chains", Message: fmt.Sprintf("no chain is for %s", h), Hint: "the hook must be one that the document names",
			}}}
		}
		m = d.made[slices.IndexFunc(d.made, func(m *made) bool { return m.path == path })]
	}
	if m.off() {
		return nil, nil, "", fmt.Errorf("chain %s: all its programs are disabled: %w", h, l3af.ErrNotFound)
	}
	attached, err := n.kernel.Attached()
	if err != nil {
		return nil, nil, "", fmt.Errorf("read what is attached: %w", err)
	}
	for _, a := range attached {
		if a.Target == (host.Target{Hook: h}) {
			running = a.ID
		}
	}
	return m, c, running, nil
}

// named finds what a document says of a hook: an exact name wins over globs,
// and of two globs the first. The interface need not be there.
func named(s *l3af.State, h l3af.Hook) (found *l3af.Chain, path string) {
	for i := range s.Chains {
		c := &s.Chains[i]
		if c.Netns != h.Netns || c.Hook != h.Kind || !matches(c.Interface, h.Interface) {
			continue
		}
		if !l3af.IsGlob(c.Interface) || found == nil {
			found, path = c, fmt.Sprintf("chains[%d]", i)
		}
		if !l3af.IsGlob(c.Interface) {
			break
		}
	}
	return found, path
}

// RunChain runs packets through a copy of the chain of a hook: that of the
// state in force, or of req.State. Nothing at the hook changes.
func (n *Node) RunChain(ctx context.Context, h l3af.Hook, req *l3af.RunRequest) (*l3af.ChainRun, error) {
	kernel, err := n.inspector()
	if err != nil {
		return nil, err
	}
	m, c, running, err := n.wanted(ctx, req.State, h)
	if err != nil {
		return nil, err
	}
	load, err := m.load(c, host.Target{Hook: h})
	if err != nil {
		return nil, err
	}
	r := &l3af.ChainRun{
		Interface: h.Interface, Netns: h.Netns, Hook: h.Kind, ID: m.id, Running: running,
		Packets: []l3af.PacketRun{}, Programs: []l3af.ProgramStatus{},
	}
	packets, each := req.Stream, req.Each
	if packets == nil {
		packets = func(yield func([]byte, error) bool) {
			for _, p := range req.Packets {
				if !yield(p, nil) {
					return
				}
			}
		}
		each = func(p l3af.PacketRun) error {
			r.Packets = append(r.Packets, p)
			return nil
		}
	}
	ran, err := kernel.Run(ctx, load, host.Run{Packets: packets, LiveMaps: req.LiveMaps, Each: func(packet []byte, p host.RanPacket) error {
		if p.Err != nil {
			return each(l3af.PacketRun{Error: p.Err.Error(), Length: len(packet)})
		}
		one := l3af.PacketRun{Verdict: h.Kind.Verdict(p.Code), Code: p.Code, Program: m.light.Programs[p.Program].Name, Length: len(p.Data)}
		if !bytes.Equal(p.Data, packet) {
			one.Data = p.Data
		}
		return each(one)
	}})
	if rejected := (*ebpf.VerifierError)(nil); errors.As(err, &rejected) {
		return nil, &l3af.InvalidError{Mistakes: []l3af.Mistake{{Path: m.path, Message: "the kernel refuses the chain: " + err.Error()}}}
	}
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", h, err)
	}
	r.Notes = ran.Notes
	if req.State == nil && running != m.id {
		r.Notes = append(r.Notes, "the hook does not run this chain now: see l3af status")
	}
	docs := m.running()
	for i, c := range ran.Counts {
		p := l3af.ProgramStatus{Name: c.Name, Package: docs[i].Package, Linkage: m.light.Programs[i].Linkage, Packets: c.Packets, Verdicts: c.Verdicts}
		if p.Verdicts == nil {
			p.Verdicts = map[l3af.Verdict]uint64{}
		}
		r.Programs = append(r.Programs, p)
	}
	return r, nil
}

// ExplainChain says how the chain of a hook came about and what it costs: as
// a whole, and each of its programs alone. For that they are loaded aside. It is
// the chain of the state in force, or of s.
func (n *Node) ExplainChain(ctx context.Context, h l3af.Hook, s *l3af.State) (*l3af.ChainPlan, error) {
	kernel, err := n.inspector()
	if err != nil {
		return nil, err
	}
	m, c, running, err := n.wanted(ctx, s, h)
	if err != nil {
		return nil, err
	}
	load, err := m.load(c, host.Target{Hook: h})
	if err != nil {
		return nil, err
	}
	x := &l3af.ChainPlan{
		Interface: h.Interface, Netns: h.Netns, Hook: h.Kind, ID: m.id, Running: running, Programs: []l3af.ProgramPlan{},
	}
	var whole *chain.Chain
	x.Cost, whole = costOf(kernel, load)
	x.Segments = len(whole.Specs())
	for i, doc := range m.running() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		linked := whole.Programs[i]
		p := l3af.ProgramPlan{
			Name: doc.Name, Package: doc.Package, Proceed: linked.Proceed,
			Linkage: linked.Linkage, Segment: linked.Segment, Why: linked.Why, Maps: []l3af.MapPlan{},
		}
		for j := range m.light.Maps {
			if of := &m.light.Maps[j]; of.Member == doc.Name {
				p.Maps = append(p.Maps, l3af.MapPlan{
					Name: of.Name, Type: of.Spec.Type.String(), KeySize: of.Spec.KeySize, ValueSize: of.Spec.ValueSize,
					MaxEntries: of.Spec.MaxEntries, Pinned: of.Pinned,
				})
			}
		}
		_, bound, wrong := c.program(h.Kind, *doc, m.programPath(doc.Name))
		if len(wrong) > 0 {
			return nil, &l3af.InvalidError{Mistakes: wrong}
		}
		p.Entry, p.Priority = bound.Member.Entry, bound.Priority
		alone, err := chain.Compose(h.Kind, []chain.Member{bound.Member})
		if err != nil {
			return nil, err
		}
		p.Cost, _ = costOf(kernel, host.Load{Target: host.Target{Hook: h}, Mode: m.mode(), Chain: alone, Contents: bound.Contents})
		x.Programs = append(x.Programs, p)
	}
	return x, nil
}

// costOf is what a chain costs, and the chain as the kernel takes it; as it
// was composed first where the kernel refuses it.
func costOf(kernel Inspector, load host.Load) (l3af.Cost, *chain.Chain) {
	c, err := kernel.Cost(load)
	if c.Stack == nil {
		c.Stack = []int{}
	}
	if c.Chain == nil {
		c.Chain = load.Chain
	}
	return l3af.Cost{
		Instructions: c.Instructions, Maps: c.Maps, Stack: c.Stack, Verified: c.Verified,
		VerifyTime: c.VerifyTime.Microseconds(), LoadTime: c.LoadTime.Microseconds(), Jited: c.Jited, Error: text(err),
	}, c.Chain
}

// DumpChain gives the code of the chain of a hook as it is given to the
// kernel, and the machine code that the kernel made of it when jited is set.
func (n *Node) DumpChain(ctx context.Context, h l3af.Hook, jited bool) (*l3af.ChainCode, error) {
	kernel, err := n.inspector()
	if err != nil {
		return nil, err
	}
	m, c, running, err := n.wanted(ctx, nil, h)
	if err != nil {
		return nil, err
	}
	load, err := m.load(c, host.Target{Hook: h})
	if err != nil {
		return nil, err
	}
	_, taken := costOf(kernel, load)
	d := &l3af.ChainCode{
		Interface: h.Interface, Netns: h.Netns, Hook: h.Kind, ID: m.id, Running: running,
		Functions: listing(taken),
	}
	if !jited {
		return d, nil
	}
	list, err := kernel.Jited(host.Target{Hook: h})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("machine code of %s: no chain runs there: %w", h, l3af.ErrNotFound)
	} else if err != nil {
		return nil, fmt.Errorf("machine code of %s: %w", h, err)
	}
	for _, j := range list {
		d.Jited = append(d.Jited, l3af.JitedCode(j))
	}
	return d, nil
}

// listing gives the functions of a chain.
func listing(c *chain.Chain) []l3af.FunctionCode {
	var list []l3af.FunctionCode
	for s, code := range c.Specs() {
		owner := "" // whose the instruction is
		start, offset := 0, 0
		for i := range code.Instructions {
			ins := &code.Instructions[i]
			if i == 0 || ins.Symbol() != "" {
				f := l3af.FunctionCode{Name: ins.Symbol(), Segment: s + 1, Instructions: []l3af.InstructionCode{}}
				if i == 0 {
					f.Name = code.Name
				} else {
					owner = memberOf(c, f.Name)
				}
				list = append(list, f)
				start = offset
			}
			f := &list[len(list)-1]
			one := l3af.InstructionCode{Offset: offset - start, Text: instruction(ins, offset-start)}
			if src := ins.Source(); src != nil {
				one.Source = strings.TrimSpace(src.String())
			}
			comment := chain.Comment{Offset: offset, Text: one.Source}
			if name, line, ok := comment.Begins(); ok {
				owner, one.Source = name, line
			} else if comment.Ours() {
				owner = ""
			}
			one.Program = owner
			f.Instructions = append(f.Instructions, one)
			offset += int(ins.Width())
		}
	}
	return list
}

// programs lists what is loaded for a try.
func (m *made) programs() []l3af.TriedProgram {
	if m.probe != nil {
		return []l3af.TriedProgram{{Name: m.probe.Name, Package: m.probe.Package}}
	}
	docs := m.running()
	list := make([]l3af.TriedProgram, len(docs))
	for i, p := range docs {
		list[i] = l3af.TriedProgram{Name: p.Name, Package: p.Package, Linkage: m.light.Programs[i].Linkage}
	}
	return list
}

// mapsOf names the maps of a program that outlive it, in their order.
func mapsOf(c *chain.Chain, member string) []string {
	var names []string
	for i := range c.Maps {
		if m := &c.Maps[i]; m.Member == member && m.Pinned {
			names = append(names, m.Name)
		}
	}
	return names
}

// memberOf is the program whose function a symbol names: member:function:n.
func memberOf(c *chain.Chain, symbol string) string {
	for _, p := range c.Programs {
		if strings.HasPrefix(symbol, p.Name+":") {
			return p.Name
		}
	}
	return ""
}

// instruction writes an instruction at an offset of its function, and where it
// jumps to.
func instruction(ins *asm.Instruction, at int) string {
	text := strings.TrimSpace(fmt.Sprint(*ins))
	op := ins.OpCode
	if !op.Class().IsJump() || op.JumpOp() == asm.Call || op.JumpOp() == asm.Exit {
		return text
	}
	distance := int(ins.Offset)
	if op.JumpOp() == asm.Ja && op.Class() == asm.Jump32Class {
		distance = int(ins.Constant)
	}
	return fmt.Sprintf("%s -> %d", text, at+1+distance)
}
