package chain

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
)

// fusion is a chain's code in the making.
type fusion struct {
	parts    []*part
	counters layout
	count    bool
	symbols  [][]string // of the functions of each part; the entry's is unused
	infos    [][]string // their BTF names
}

func newFusion(parts []*part, counters layout, count bool) *fusion {
	f := &fusion{parts: parts, counters: counters, count: count}
	taken := map[string]bool{}
	for _, p := range parts {
		symbols := make([]string, len(p.funcs))
		for i, fn := range p.funcs {
			symbols[i] = fmt.Sprintf("%s:%s:%d", p.Name, fn.name, i)
		}
		f.symbols = append(f.symbols, symbols)
		f.infos = append(f.infos, functionNames(p.Name, p.funcs, taken))
	}
	return f
}

// fuse makes the entry function: the bodies in order. Where a body's verdict is
// a constant it goes straight on, to the next body or to the chain's end; else
// to a join behind it that looks at the verdict, one comparison. Slots of the
// frame that a body exposes are cleared before it. What ends the chain lies behind the last body, in reach of a conditional jump unless near
// is set.
func (f *fusion) fuse(near bool) (*listing, error) {
	l := &listing{}
	names := make([]string, len(f.parts))
	ends := make([]label, len(f.parts))
	for i, p := range f.parts {
		names[i], ends[i] = p.Name, l.label()
	}
	last := len(f.parts) - 1
	if last > 0 {
		l.add(glue("l3af: save the context", asm.StoreMem(asm.R10, -frameShift, asm.R1, asm.DWord))...)
	}
	var passes []func()
	var left slots // what the bodies so far may have left in the frame
	for i, p := range f.parts {
		entry, use := p.funcs[0], frameUseOf(p.funcs[0], p.mapSize)
		for at := range (left & use.exposed).offsets() {
			l.add(zeroed(at - frameShift))
		}
		left |= use.touched
		if i == last {
			if err := l.splice(entry, f.symbols[i], planExits(entry, ends[i], ends[i], undecided)); err != nil {
				return nil, refuse(p.Name, "%v", err)
			}
			break
		}
		next := l.label()
		counted := make([]label, len(p.codes)-1)
		for j := range counted {
			counted[j] = next
			if f.count {
				counted[j] = l.label()
			}
		}
		join := l.label()
		out := planExits(entry, join, next, func(code int32) (label, bool) {
			switch j := slices.Index(p.codes, code); {
			case j == 0:
				return next, true
			case near: // what else there is may be too far for a conditional jump
				return nowhere, false
			case j > 0:
				return counted[j-1], true
			}
			return ends[i], true
		})
		if !out.joined && !out.leads(append(counted, next)...) {
			// The program always ends the chain. The kernel refuses code that
			// nothing leads to, so let it look at the verdict all the same.
			out = planExits(entry, join, next, undecided)
		}
		if err := l.splice(entry, f.symbols[i], out); err != nil {
			return nil, refuse(p.Name, "%v", err)
		}
		if out.joined {
			l.place(out.join)
			f.join(l, i, near, next, counted, ends[i], names[i])
		}
		l.place(next)
		l.add(glue("l3af: run "+names[i+1], asm.LoadMem(asm.R1, asm.R10, -frameShift, asm.DWord))...)
		if f.count && len(counted) > 0 {
			passes = append(passes, func() { f.counters.pass(l, i, p.codes[1:], counted, next) })
		}
	}
	if f.count {
		f.counters.count(l, ends, names)
		for _, pass := range passes {
			pass()
		}
	} else {
		for _, end := range ends {
			l.place(end)
		}
		l.add(glue("l3af: return the verdict", asm.Return())...)
	}
	return l, l.link()
}

// zeroed zeroes a slot of the frame.
func zeroed(offset int16) asm.Instruction {
	return asm.Instruction{
		OpCode: asm.OpCode(asm.StClass).SetMode(asm.MemMode).SetSize(asm.DWord), Dst: asm.R10, Offset: offset,
	}
}

// undecided sends every verdict to the join.
func undecided(int32) (label, bool) { return nowhere, false }

// join looks at the verdict of program i: it falls into the next body or goes
// to a label of counted, in the order of the proceed set, or to end.
func (f *fusion) join(l *listing, i int, near bool, next label, counted []label, end label, name string) {
	codes := f.parts[i].codes
	first := len(l.ins)
	if len(counted) == 0 && !near {
		l.jump(asm.JNE.Imm32(asm.R0, codes[0], ""), end)
	} else {
		l.jump(asm.JEq.Imm32(asm.R0, codes[0], ""), next)
		for j, at := range counted {
			if !near {
				l.jump(asm.JEq.Imm32(asm.R0, codes[j+1], ""), at)
				continue
			}
			skip := l.label()
			l.jump(asm.JNE.Imm32(asm.R0, codes[j+1], ""), skip)
			l.jump(asm.Ja.Label(""), at)
			l.place(skip)
		}
		l.jump(asm.Ja.Label(""), end)
	}
	l.ins[first] = l.ins[first].WithSource(asm.Comment("l3af: does the chain go on after " + name + "?"))
}

// functions lists all functions of the chain, the fused entry first.
func (f *fusion) functions(entry *listing, kind l3af.HookKind) []named {
	context := "__sk_buff"
	if kind == l3af.XDP {
		context = "xdp_md"
	}
	all := []named{{
		ins: entry.ins,
		info: &btf.Func{
			Type: &btf.FuncProto{
				Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
				Params: []btf.FuncParam{{Name: "ctx", Type: &btf.Pointer{Target: &btf.Struct{Name: context}}}},
			},
			Linkage: btf.GlobalFunc,
		},
	}}
	for i, p := range f.parts {
		all = append(all, kept(p, f.symbols[i], f.infos[i])...)
	}
	return all
}

// named is a function with its names in the chain. The entry's come last: they
// hold the chain's ID.
type named struct {
	ins    []asm.Instruction
	symbol string    // what calls refer to
	name   string    // in BTF
	info   *btf.Func // to be renamed; nil: the object has none
}

// kept takes over the functions of a program but its entry.
func kept(p *part, symbols, names []string) []named {
	var all []named
	for i, fn := range p.funcs {
		if i == 0 {
			continue
		}
		l := &listing{}
		l.keep(fn, symbols)
		all = append(all, named{l.ins, symbols[i], names[i], fn.info})
	}
	return all
}
