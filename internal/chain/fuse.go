package chain

import (
	"fmt"
	"slices"
	"sort"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
)

// fusion is the code of one segment in the making.
type fusion struct {
	kind     l3af.HookKind
	parts    []*part
	called   []bool
	first    int // index of parts[0] in the chain
	next     int // which entry of the chain's PROG_ARRAY goes on; -1: this is the last segment
	lean     bool
	context  asm.Register // holds the context all along; R10: the frame's first slot does
	counters layout
	count    bool
	symbols  [][]string // of the functions of each part
	infos    [][]string // their BTF names
	bodies   []int      // where the entry functions of the parts begin in the segment's, then where they end
}

func newFusion(c *composition, s segment) *fusion {
	f := &fusion{
		kind: c.kind, parts: slices.Clone(c.parts[s.from:s.to]), first: s.from, next: -1, lean: s.lean,
		counters: newLayout(c.kind), count: !c.options.NoCounters,
	}
	taken := map[string]bool{}
	var inlined []function
	for i, p := range f.parts {
		if s.loops[i].on() {
			p = p.marked()
			f.parts[i] = p
		}
		f.called = append(f.called, s.why[i] != "")
		if !f.called[i] {
			inlined = append(inlined, p.funcs[0])
		}
		symbols := make([]string, len(p.funcs))
		for i, fn := range p.funcs {
			symbols[i] = fmt.Sprintf("%s:%s:%d", p.Name, fn.name, i)
		}
		f.symbols = append(f.symbols, symbols)
		f.infos = append(f.infos, functionNames(p.Name, p.funcs, taken))
	}
	f.context = spareRegister(inlined)
	return f
}

// fuse makes the entry function: the bodies in order, or the calls of those
// that are called. Where a body's verdict is a constant it goes straight on, to
// the next body or to the chain's end, and r0 is not even set; else to a join
// behind it that looks at the verdict, one comparison. Slots of the frame that a
// body exposes are cleared before it. What ends the chain lies behind the last
// body, in reach of a conditional jump unless near is set.
//
// The error is a [*rangeError] when a jump does not reach.
func (f *fusion) fuse(near bool) (*listing, error) {
	size := 0
	for _, p := range f.parts {
		size += len(p.funcs[0].ins) + 32 // glue, and copies of the frame pointer
	}
	l := newListing(size)
	ends := newChainEnds(l, f.parts)
	out := l.label() // the only exit; r0 is set
	last := len(f.parts) - 1
	switch {
	case last == 0 && f.next < 0:
	case f.context != asm.R10:
		l.add(glue("l3af: keep the context", asm.Mov.Reg(f.context, asm.R1))...)
	default:
		l.add(glue("l3af: save the context", asm.StoreMem(asm.R10, -frameShift, asm.R1, asm.DWord))...)
	}
	entries := make([]function, len(f.parts))
	told := make([]bool, len(f.parts)) // it finds the context where it is kept
	for i, p := range f.parts {
		entries[i] = p.funcs[0]
		if i > 0 && !f.called[i] && f.context != asm.R10 {
			entries[i], told[i] = entries[i].findsContext(f.context)
		}
	}
	var passes []func()
	var bodies []int
	var left slots // what the bodies so far may have left in the frame
	for i, p := range f.parts {
		bodies = append(bodies, len(l.ins))
		entry := entries[i]
		if !f.called[i] {
			for at := range (left & p.frame.exposed).offsets() {
				l.add(zeroed(at - frameShift))
			}
			left |= p.frame.touched
		}
		if i == last && f.next < 0 {
			if f.called[i] {
				l.add(f.call(i))
			} else if err := l.splice(p.Name, entry, f.symbols[i], planExits(entry, ends.of[i], ends.of[i], undecided)); err != nil {
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
		joined := true
		if f.called[i] {
			l.add(f.call(i))
		} else {
			ways := planExits(entry, join, next, func(code int32) (label, bool) {
				switch j := slices.Index(p.codes, code); {
				case j == 0:
					return next, true
				case near: // what else there is may be too far for a conditional jump
					return nowhere, false
				case j > 0:
					return counted[j-1], true
				}
				return ends.known(l, i, code), true
			})
			if !ways.joined && !ways.leads(append(counted, next)...) {
				// The program always ends the chain. The kernel refuses code that
				// nothing leads to, so let it look at the verdict all the same.
				ways = planExits(entry, join, next, undecided)
			}
			if err := l.splice(p.Name, entry, f.symbols[i], ways); err != nil {
				return nil, refuse(p.Name, "%v", err)
			}
			joined = ways.joined
		}
		if joined {
			l.place(join)
			f.join(l, i, near, next, counted, ends.of[i])
		}
		l.place(next)
		if i < last && !told[i+1] {
			l.add(glue("l3af: run "+f.parts[i+1].Name, f.again())...)
		} else if i == last {
			f.goOn(l, out)
		}
		if f.count && len(counted) > 0 {
			passes = append(passes, func() { f.pass(l, i, counted, next) })
		}
	}
	bodies = append(bodies, len(l.ins))
	f.end(l, ends, out)
	for _, pass := range passes {
		pass()
	}
	offset, at := 0, 0
	f.bodies = f.bodies[:0]
	for i, ins := range l.ins {
		for at < len(bodies) && bodies[at] == i {
			f.bodies = append(f.bodies, offset)
			at++
		}
		offset += int(ins.Width())
	}
	return l, l.link()
}

// again emits r1 = the context.
func (f *fusion) again() asm.Instruction {
	if f.context != asm.R10 {
		return asm.Mov.Reg(asm.R1, f.context)
	}
	return asm.LoadMem(asm.R1, asm.R10, -frameShift, asm.DWord)
}

func (f *fusion) call(i int) asm.Instruction {
	return asm.Call.Label(f.symbols[i][0]).WithSource(asm.Comment(markCall + f.parts[i].Name))
}

// partAt is the part whose entry function holds an offset, in raw
// instructions, of the segment's entry function; -1 for none.
func (f *fusion) partAt(offset int) int {
	if i := sort.SearchInts(f.bodies, offset+1) - 1; i < len(f.parts) {
		return i
	}
	return -1
}

// goOn emits the jump to the next segment. Where that is not there the chain
// ends, rather than that a packet passes what was to see it.
func (f *fusion) goOn(l *listing, out label) {
	l.add(glue("l3af: go on in the next segment", f.again())...)
	l.add(asm.LoadMapPtr(asm.R2, 0).WithReference(SegmentsRef),
		asm.Mov.Imm(asm.R3, int32(f.next)),
		asm.FnTailCall.Call())
	last := len(f.parts) - 1
	other := f.kind.FirstCode() - 1
	if f.count && f.lean {
		f.callCount(l, last, asm.Mov.Imm(asm.R2, other))
	} else if f.count {
		counted := l.label()
		l.add(lookup(asm.Word)...)
		l.jump(asm.JEq.Imm(asm.R0, 0, ""), counted)
		l.add(increment(f.cells(last) + f.counters.verdicts*cellSize)...)
		l.place(counted)
	}
	broken, _ := f.kind.Code(l3af.Aborted)
	if f.kind != l3af.XDP {
		broken, _ = f.kind.Code(l3af.Shot)
	}
	l.add(glue("l3af: the next segment is not there", asm.Mov.Imm32(asm.R0, broken))...)
	l.jump(asm.Ja.Label(""), out)
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
func (f *fusion) join(l *listing, i int, near bool, next label, counted []label, end label) {
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
	l.ins[first] = l.ins[first].WithSource(asm.Comment("l3af: does the chain go on after " + f.parts[i].Name + "?"))
}

// functions lists all functions of the segment, the fused entry first.
func (f *fusion) functions(entry *listing) ([]named, error) {
	all := []named{{ins: entry.ins, info: entryInfo(f.kind)}}
	for i, p := range f.parts {
		var info *btf.Func
		if f.called[i] {
			info = entryInfo(f.kind)
		}
		fns, err := kept(p, f.symbols[i], f.infos[i], info)
		if err != nil {
			return nil, err
		}
		all = append(all, fns...)
	}
	if f.lean && f.count {
		all = append(all, f.counter())
	}
	return all, nil
}

// entryInfo describes a function that the hook could run: a global one, which
// the kernel verifies by itself.
func entryInfo(kind l3af.HookKind) *btf.Func {
	context := "__sk_buff"
	if kind == l3af.XDP {
		context = "xdp_md"
	}
	return &btf.Func{
		Type: &btf.FuncProto{
			Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
			Params: []btf.FuncParam{{Name: "ctx", Type: &btf.Pointer{Target: &btf.Struct{Name: context}}}},
		},
		Linkage: btf.GlobalFunc,
	}
}

// named is a function with its names in the chain. The entry's come last: they
// hold the chain's ID.
type named struct {
	ins    []asm.Instruction
	symbol string    // what calls refer to
	name   string    // in BTF
	info   *btf.Func // to be renamed; nil: the object has none
}

// kept takes over the functions of a program. Its entry is among them only if
// it is described.
func kept(p *part, symbols, names []string, entry *btf.Func) ([]named, error) {
	var all []named
	for i, fn := range p.funcs {
		info := fn.info
		if i == 0 {
			if entry == nil {
				continue
			}
			info = entry
		}
		l := newListing(len(fn.ins))
		if err := l.keep(fn, symbols); err != nil {
			return nil, refuse(p.Name, "%s %v", fn.name, err)
		}
		all = append(all, named{l.ins, symbols[i], names[i], info})
	}
	return all, nil
}
