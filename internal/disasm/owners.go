package disasm

import (
	"strings"

	"github.com/cilium/ebpf/btf"

	"l3af/internal/chain"
)

// Owners say whose code a program's instructions are, where it is a chain of
// ours: the kernel keeps what the composer wrote beside them as lines of source.
type Owners struct {
	code    *Program
	members []string // none: it is no chain
}

// OwnersOf reads what the kernel keeps of a program.
func OwnersOf(p *Program) *Owners {
	o := &Owners{code: p}
	var comments []chain.Comment
	for _, l := range p.Lines {
		if len(p.Functions) > 1 && l.Offset >= p.Functions[1].Offset {
			break
		}
		comments = append(comments, chain.Comment{Offset: l.Offset, Text: l.Line.Line()})
	}
	o.members = chain.Members(comments)
	return o
}

// Function is the program whose function k is; "" for the entry, which is of many.
func (o *Owners) Function(k int) string {
	f := o.code.Functions[k].Func
	if k == 0 || f == nil || len(o.members) == 0 {
		return ""
	}
	return chain.MemberOf(f.Name, o.members)
}

// Follow is the program whose the code is from a line of function k on, nil
// for none, when it was owner's before.
func (o *Owners) Follow(k int, owner string, line *btf.Line) string {
	if k > 0 || line == nil || len(o.members) == 0 {
		return owner
	}
	c := chain.Comment{Text: strings.TrimSpace(line.Line())}
	if program, _, ok := c.Begins(); ok {
		return program
	}
	if c.Ours() {
		return ""
	}
	return owner
}
