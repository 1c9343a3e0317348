package chain

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
)

// The counter map of a chain.
const (
	CountersRef  = "/counters"     // its Ref in Chain.Maps; no member's map has it
	CountersName = "counters"      // its Name in Chain.Maps
	CountersType = "l3af_counters" // the BTF struct that describes its value
)

const (
	cellSize = 8
	// maxCounters is the most a per-CPU map's value may have: PCPU_MIN_UNIT_SIZE.
	maxCounters   = 32 << 10
	proceedPrefix = "proceed"
	verdictSlot   = -4 // upper half of the saved context's slot
)

// layout is where a chain counts: for each program one cell for each verdict
// of the hook in order of their codes, then one for all other return codes.
type layout struct {
	kind     l3af.HookKind
	verdicts int // named ones
}

func newLayout(kind l3af.HookKind) layout { return layout{kind, len(kind.Verdicts())} }

// stride is the size of one program's cells.
func (c layout) stride() int { return (c.verdicts + 1) * cellSize }

// offset is where a program's verdict is counted.
func (c layout) offset(program int, code int32) int {
	return program*c.stride() + int(code-c.kind.FirstCode())*cellSize
}

// spec makes the map: one entry per CPU, whose BTF tells the names and proceed
// sets of the programs, so that the counters of a chain can be read when
// nothing else of it is left.
func (c layout) spec(programs []Linked) *ebpf.MapSpec {
	u64 := &btf.Int{Name: "unsigned long long", Size: cellSize}
	cells := append(c.kind.Verdicts(), l3af.Other)
	types := map[string]*btf.Struct{}
	value := &btf.Struct{Name: CountersType, Size: uint32(len(programs) * c.stride())}
	for i, p := range programs {
		name := proceedName(p.Proceed)
		if types[name] == nil {
			st := &btf.Struct{Name: name, Size: uint32(c.stride())}
			for j, v := range cells {
				st.Members = append(st.Members, btf.Member{Name: string(v), Type: u64, Offset: btf.Bits(j * cellSize * 8)})
			}
			types[name] = st
		}
		value.Members = append(value.Members, btf.Member{
			Name: identifier(p.Name), Type: types[name], Offset: btf.Bits(i * c.stride() * 8),
		})
	}
	return &ebpf.MapSpec{
		Name:       CountersType,
		Type:       ebpf.PerCPUArray,
		KeySize:    4,
		ValueSize:  value.Size,
		MaxEntries: 1,
		Key:        &btf.Int{Name: "unsigned int", Size: 4},
		Value:      value,
	}
}

func proceedName(proceed []l3af.Verdict) string {
	name := proceedPrefix
	for _, v := range proceed {
		name += "_" + string(v)
	}
	return name
}

// cells is where the cells of a part begin.
func (f *fusion) cells(part int) int { return (f.first + part) * f.counters.stride() }

// end emits the end of a segment, where the chain ends with a verdict, w0 or
// one that is known, which is counted and returned. In the chain's last segment
// the code before falls into the last part's end. At out, behind that, w0 is
// returned as it is.
func (f *fusion) end(l *listing, ends *chainEnds, out label) {
	all := ends.inUse(l, f.next < 0)
	counted := l.label()
	cells := asm.R6
	if f.lean {
		cells = asm.R1
	}
	ended := func(e chainEnd) {
		l.place(e.at)
		var ins []asm.Instruction
		if e.known {
			ins = append(ins, asm.Mov.Imm32(asm.R0, e.code))
		}
		if f.count {
			ins = append(ins, asm.Mov.Imm32(cells, int32(f.cells(e.part))))
		}
		if len(ins) > 0 {
			l.add(glue("l3af: "+f.parts[e.part].Name+" ended the chain", ins...)...)
		}
	}
	// The first one lies before the counting.
	if len(all) > 0 {
		ended(all[0])
		l.place(counted)
		switch {
		case !f.count:
		case f.lean:
			l.add(glue("l3af: count the verdict and return it", asm.Mov.Reg(asm.R2, asm.R0))...)
			l.add(asm.Call.Label(countSymbol))
		default:
			// The first slot holds the key and, above it, the verdict. r6 holds where
			// the program's cells begin. One register that calls preserve is enough:
			// each costs a push and a pop per packet.
			l.add(glue("l3af: count the verdict and return it", asm.StoreMem(asm.R10, verdictSlot, asm.R0, asm.Word))...)
			f.counters.count(l)
		}
	}
	l.place(out)
	l.add(glue("l3af: return the verdict", asm.Return())...)
	for _, e := range all[min(1, len(all)):] {
		ended(e)
		l.jump(asm.Ja.Label(""), counted)
	}
}

// count emits the counting of the verdict in its slot, which it loads to w0.
// r6 holds where the program's cells begin.
func (c layout) count(l *listing) {
	l.add(lookup(asm.Word)...)
	named, done := l.label(), l.label()
	l.jump(asm.JEq.Imm(asm.R0, 0, ""), done)
	l.add(asm.LoadMem(asm.R1, asm.R10, verdictSlot, asm.Word))
	if first := c.kind.FirstCode(); first != 0 {
		l.add(asm.Add.Imm32(asm.R1, -first))
	}
	l.jump(asm.JLT.Imm32(asm.R1, int32(c.verdicts), ""), named)
	l.add(asm.Mov.Imm32(asm.R1, int32(c.verdicts)))
	l.place(named)
	l.add(asm.LSh.Imm(asm.R1, 3), asm.Add.Reg(asm.R6, asm.R1), asm.Add.Reg(asm.R0, asm.R6))
	l.add(increment(0)...)
	l.place(done)
	l.add(asm.LoadMem(asm.R0, asm.R10, verdictSlot, asm.Word))
}

// The function that counts in a segment that leaves its stack to its callees.
const (
	countSymbol = "l3af:count"
	countName   = "l3af_count" // members' functions have two underscores behind the member's name
)

// counter makes that function: w0 = the verdict w2, which is counted in the
// cells at w1.
func (f *fusion) counter() named {
	l := &listing{}
	l.add(asm.Mov.Reg(asm.R6, asm.R1), asm.StoreMem(asm.R10, verdictSlot, asm.R2, asm.Word))
	f.counters.count(l)
	l.add(asm.Return())
	_ = l.link()
	number := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	return named{ins: l.ins, symbol: countSymbol, name: countName, info: &btf.Func{
		Type: &btf.FuncProto{Return: number, Params: []btf.FuncParam{{Name: "cells", Type: number}, {Name: "verdict", Type: number}}},
	}}
}

// callCount emits a call of it; set writes r2.
func (f *fusion) callCount(l *listing, part int, set asm.Instruction) {
	l.add(asm.Mov.Imm32(asm.R1, int32(f.cells(part))), set, asm.Call.Label(countSymbol))
}

// pass emits, out of the way, the counting of the verdicts of a part after
// which the chain goes on at next, which expects nothing but the saved context.
func (f *fusion) pass(l *listing, part int, at []label, next label) {
	for i, code := range f.parts[part].codes[1:] {
		if !l.leads(at[i]) {
			continue
		}
		l.place(at[i])
		if f.lean {
			first := len(l.ins)
			f.callCount(l, part, asm.Mov.Imm(asm.R2, code))
			l.ins[first] = l.ins[first].WithSource(asm.Comment("l3af: count a verdict and go on"))
			l.jump(asm.Ja.Label(""), next)
			continue
		}
		done, first := l.label(), len(l.ins)
		if f.context == asm.R10 { // its slot will hold the key
			l.add(asm.LoadMem(asm.R6, asm.R10, -frameShift, asm.DWord))
		}
		l.add(lookup(asm.DWord)...)
		if f.context == asm.R10 {
			l.add(asm.StoreMem(asm.R10, -frameShift, asm.R6, asm.DWord))
		}
		l.ins[first] = l.ins[first].WithSource(asm.Comment("l3af: count a verdict and go on"))
		l.jump(asm.JEq.Imm(asm.R0, 0, ""), done)
		l.add(increment(f.counters.offset(f.first+part, code))...)
		l.place(done)
		l.jump(asm.Ja.Label(""), next)
	}
}

// lookup emits r0 = the counters of this CPU. The key is written to the slot
// of the saved context, in the given size; r1 to r5 are lost.
func lookup(size asm.Size) []asm.Instruction {
	return []asm.Instruction{
		{OpCode: asm.OpCode(asm.StClass).SetMode(asm.MemMode).SetSize(size), Dst: asm.R10, Offset: -frameShift},
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -frameShift),
		asm.LoadMapPtr(asm.R1, 0).WithReference(CountersRef),
		asm.FnMapLookupElem.Call(),
	}
}

// increment emits the counting in the cell at r0 and an offset, less than
// maxCounters. It need not be atomic: the cell is this CPU's own, and a chain is
// not interrupted by itself between load and store.
func increment(offset int) []asm.Instruction {
	return []asm.Instruction{
		asm.LoadMem(asm.R1, asm.R0, int16(offset), asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, int16(offset), asm.R1, asm.DWord),
	}
}

// ReadCounts decodes the counters of a chain. t is the struct [CountersType]
// from the BTF of the map, perCPU its value (key 0) on each CPU as the kernel
// gives it, in the machine's byte order.
//
// What was not counted is derived: the first verdict of a proceed set occurred
// as often as the next program ran, less the other verdicts of the set. A
// packet that is in the chain while the map is read makes such a number differ
// by one for the moment, so a reader who promises counts that only grow must
// keep the greatest.
func ReadCounts(t *btf.Struct, perCPU [][]byte) ([]Count, error) {
	counts := make([]Count, len(t.Members))
	var reached uint64 // how often the program after this one ran
	for i := len(t.Members) - 1; i >= 0; i-- {
		m := t.Members[i]
		st, ok := btf.As[*btf.Struct](m.Type)
		if !ok {
			return nil, fmt.Errorf("counters of %s: not a struct", m.Name)
		}
		name, err := unidentifier(m.Name)
		if err != nil {
			return nil, fmt.Errorf("counters: %w", err)
		}
		proceed, err := proceedOf(st.Name)
		if err != nil {
			return nil, fmt.Errorf("counters of %s: %w", name, err)
		}
		c := Count{Name: name, Verdicts: make(map[l3af.Verdict]uint64, len(st.Members))}
		var passed uint64
		for _, cell := range st.Members {
			sum, err := sum(perCPU, m.Offset+cell.Offset)
			if err != nil {
				return nil, fmt.Errorf("counters of %s: %s: %w", name, cell.Name, err)
			}
			v := l3af.Verdict(cell.Name)
			if i < len(t.Members)-1 && slices.Contains(proceed, v) {
				passed += sum
			} else {
				c.Packets += sum
			}
			if sum > 0 {
				c.Verdicts[v] = sum
			}
		}
		if i < len(t.Members)-1 {
			if reached > passed {
				c.Verdicts[proceed[0]] += reached - passed
			}
			c.Packets += max(reached, passed)
		}
		reached = c.Packets
		counts[i] = c
	}
	return counts, nil
}

func proceedOf(name string) ([]l3af.Verdict, error) {
	parts := strings.Split(name, "_")
	if len(parts) < 2 || parts[0] != proceedPrefix {
		return nil, fmt.Errorf("%q names no proceed set", name)
	}
	proceed := make([]l3af.Verdict, len(parts)-1)
	for i, p := range parts[1:] {
		proceed[i] = l3af.Verdict(p)
	}
	return proceed, nil
}

// sum adds up one cell over all CPUs.
func sum(perCPU [][]byte, at btf.Bits) (uint64, error) {
	var n uint64
	offset := int(at.Bytes())
	for _, value := range perCPU {
		if at%8 != 0 || offset+cellSize > len(value) {
			return 0, fmt.Errorf("offset %d lies outside a value of %d bytes", offset, len(value))
		}
		n += binary.NativeEndian.Uint64(value[offset:])
	}
	return n, nil
}
