package chain

import (
	"fmt"

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

// fuse makes the entry function: the bodies in order, and after each but the
// last a join that knows from the verdict how the chain goes on. The straight
// line through a join is one comparison and one load; what ends the chain lies
// behind the last body, in reach of a conditional jump unless near is set.
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
	for i, p := range f.parts {
		join := ends[i]
		if i < last {
			join = l.label()
		}
		if err := l.splice(p.funcs[0], f.symbols[i], join); err != nil {
			return nil, refuse(p.Name, "%v", err)
		}
		if i == last {
			break
		}
		l.place(join)
		next := l.label()
		counted := make([]label, len(p.codes)-1)
		for j := range counted {
			counted[j] = next
			if f.count {
				counted[j] = l.label()
			}
		}
		first := len(l.ins)
		if len(counted) == 0 && !near {
			l.jump(asm.JNE.Imm32(asm.R0, p.codes[0], ""), ends[i])
		} else {
			l.jump(asm.JEq.Imm32(asm.R0, p.codes[0], ""), next)
			for j, at := range counted {
				if !near {
					l.jump(asm.JEq.Imm32(asm.R0, p.codes[j+1], ""), at)
					continue
				}
				skip := l.label()
				l.jump(asm.JNE.Imm32(asm.R0, p.codes[j+1], ""), skip)
				l.jump(asm.Ja.Label(""), at)
				l.place(skip)
			}
			l.jump(asm.Ja.Label(""), ends[i])
		}
		l.ins[first] = l.ins[first].WithSource(asm.Comment("l3af: does the chain go on after " + names[i] + "?"))
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
