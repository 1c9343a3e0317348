package chain

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
)

// budget is what the programs of one random chain share, because the chain
// shares it: maps, and room in front of the packet, which a packet that is
// handed from program to program by hand gets anew each time.
type budget struct {
	maps, moves int
	deep        bool // the program uses up to 512 bytes of stack, and no subprograms
}

// generator writes one random program that the verifier should accept. What it
// does depends on nothing but its input: it reads no memory it has not written,
// makes no pointer a number, and asks the kernel nothing that may change.
type generator struct {
	r        *rand.Rand
	kind     l3af.HookKind
	room     *budget
	spec     *ebpf.CollectionSpec
	verdicts func() int32 // mostly those that let a packet pass
	subs     []sub
	symbolic bool // jumps by symbol, else by distance
	typed    bool // functions have BTF
	lines    bool // some instructions have line info
	labels   int
	sources  []string // names of the maps
}

// leaves is the array that tail calls of random programs go by: its first
// entry holds a program, its second none.
const leaves = "leaves"

// sub is a function that the program may call with (ctx, number, number[, 8 bytes of stack]).
type sub struct {
	name    string
	pointer bool
	depth   int // of calls below
}

// randomProgram makes a member without a proceed set. The program's name is how
// it must be linked.
func randomProgram(r *rand.Rand, kind l3af.HookKind, name string, proceed []l3af.Verdict, room *budget) Member {
	g := &generator{r: r, kind: kind, room: room,
		symbolic: r.IntN(2) == 0, typed: r.IntN(2) == 0, lines: r.IntN(3) == 0}
	g.verdicts = func() int32 {
		switch r.IntN(20) {
		case 0:
			return []int32{17, -5, 255, 0x7fffffff, -0x80000000, 0x10002}[r.IntN(6)]
		case 1:
			return int32(r.IntN(len(kind.Verdicts()))) + kind.FirstCode()
		}
		code, _ := kind.Code(proceed[r.IntN(len(proceed))])
		return code
	}
	typ := ebpf.SchedCLS
	if kind == l3af.XDP {
		typ = ebpf.XDP
	}
	g.spec = &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{}, Programs: map[string]*ebpf.ProgramSpec{}}
	if r.IntN(2) == 0 {
		g.addMaps()
	}
	if r.IntN(8) == 0 && room.maps > 0 {
		room.maps--
		g.spec.Maps[leaves] = &ebpf.MapSpec{Name: leaves, Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 2}
	}
	var fns []asm.Instructions
	if !room.deep {
		for i := range r.IntN(4) {
			global := g.typed && r.IntN(2) == 0
			s := sub{name: fmt.Sprintf("f%d", i), pointer: !global && r.IntN(2) == 0}
			fns = append(fns, g.function(&s, global))
			g.subs = append(g.subs, s)
		}
	}
	entry := g.function(nil, true)
	// A function that is never called is no part of the program.
	called := map[string]bool{}
	for i := range entry {
		called[entry[i].Reference()] = called[entry[i].Reference()] || entry[i].IsFunctionReference()
	}
	for i, f := range slices.Backward(fns) {
		if called[g.subs[i].name] {
			for j := range f {
				called[f[j].Reference()] = called[f[j].Reference()] || f[j].IsFunctionReference()
			}
		}
	}
	starts := map[int]bool{0: true}
	for i, f := range fns {
		if called[g.subs[i].name] {
			starts[len(entry)] = true
			entry = append(entry, f...)
		}
	}
	if g.lines {
		for i := range entry {
			if starts[i] || r.IntN(4) == 0 {
				entry[i] = entry[i].WithSource(asm.Comment(fmt.Sprintf("line %d", i)))
			}
		}
	}
	linkage := Inlined
	if room.deep || g.spec.Maps[leaves] != nil {
		linkage = "any"
	}
	g.spec.Programs["main"] = &ebpf.ProgramSpec{Name: linkage, Type: typ, License: "GPL", Instructions: entry}
	return Member{Name: name, Entry: "main", Spec: g.spec}
}

func (g *generator) addMaps() {
	for i := range 1 + g.r.IntN(3) {
		if g.room.maps == 0 {
			return
		}
		g.room.maps--
		name := fmt.Sprintf("map%d", i)
		m := []*ebpf.MapSpec{
			{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 4},
			{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 8},
			{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 2},
			{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1},
		}[g.r.IntN(4)]
		m.Name = name
		g.spec.Maps[name] = m
		g.sources = append(g.sources, name)
	}
}

// body is one function in the making.
type body struct {
	*generator
	ins    []asm.Instruction
	to     []int       // label each instruction jumps to, 0: none
	places map[int]int // of labels
	ctx    asm.Register
	spill  int16 // where ctx is kept if not in a register; 0: it is in one
	have   regs  // registers that hold numbers
	locked regs  // registers that may not be written
	slots  []int16
	array  int16 // a region of the stack, 32 bytes
	dead   bool  // nothing leads here
	exits  []int // labels of exits made before
	shared int   // label of the exit at the end, if used
	nested int
	entry  bool
	calls  bool
	budget int // statements left
}

type regs uint16

func (s regs) has(r asm.Register) bool { return s&(1<<r) != 0 }
func set1(r asm.Register) regs         { return 1 << r }

const (
	everything regs = 0x3ff
	scratch    regs = 0x3f // r0 to r5, lost by calls
)

// function makes the entry function (s nil) or a subprogram.
func (g *generator) function(s *sub, global bool) asm.Instructions {
	b := &body{generator: g, places: map[int]int{}, entry: s == nil, budget: 8 + g.r.IntN(25)}
	depth := 96
	name := "main"
	if s == nil {
		depth = 240
		if g.room.deep {
			depth = []int{496, 504, 512}[g.r.IntN(3)]
		}
	} else {
		name, b.budget = s.name, 3+g.r.IntN(8)
	}
	b.frame(depth)
	if g.r.IntN(3) == 0 {
		b.add(asm.StoreMem(asm.R10, b.spill, asm.R1, asm.DWord))
	} else {
		b.spill, b.ctx = 0, asm.R6+asm.Register(g.r.IntN(4))
		b.locked = set1(b.ctx)
		b.add(asm.Mov.Reg(b.ctx, asm.R1))
	}
	for _, at := range b.slots {
		if s != nil && g.r.IntN(2) == 0 {
			b.add(asm.StoreMem(asm.R10, at, asm.R2+asm.Register(g.r.IntN(2)), asm.DWord))
		} else {
			b.add(storeImm(asm.R10, at, int64(int32(g.r.Uint32()))>>g.r.IntN(28), asm.DWord))
		}
	}
	for i := int16(0); i < 32; i += 8 {
		b.add(storeImm(asm.R10, b.array+i, int64(g.r.IntN(1000)), asm.DWord))
	}
	if s != nil {
		b.have = set1(asm.R2) | set1(asm.R3)
		if s.pointer {
			b.add(asm.LoadMem(asm.R0, asm.R4, 0, asm.DWord), asm.Add.Imm(asm.R0, 3))
			b.add(asm.StoreMem(asm.R4, 0, asm.R0, asm.DWord))
			b.have |= set1(asm.R0)
		}
	}
	for b.budget > 0 && !b.dead {
		b.statement()
	}
	if !b.dead {
		b.leave()
	}
	if b.shared != 0 {
		b.place(b.shared)
		b.add(asm.Return())
	}
	if s != nil && b.calls {
		s.depth = 1
	}
	out := b.assemble(name)
	if g.typed {
		context := "__sk_buff"
		if g.kind == l3af.XDP {
			context = "xdp_md"
		}
		number := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
		proto := &btf.FuncProto{Return: number, Params: []btf.FuncParam{
			{Name: "ctx", Type: &btf.Pointer{Target: &btf.Struct{Name: context}}}}}
		linkage := btf.StaticFunc
		if global {
			linkage = btf.GlobalFunc
		}
		if s != nil {
			long := &btf.Int{Name: "unsigned long", Size: 8}
			proto.Params = append(proto.Params, btf.FuncParam{Name: "a", Type: long}, btf.FuncParam{Name: "b", Type: long})
			if s.pointer {
				proto.Params = append(proto.Params, btf.FuncParam{Name: "p", Type: &btf.Pointer{Target: long}})
			}
		}
		out[0] = btf.WithFuncMetadata(out[0], &btf.Func{Name: name, Type: proto, Linkage: linkage})
	}
	return out
}

// frame chooses what lies where on the stack: the deepest places are as likely
// as the first.
func (b *body) frame(depth int) {
	places := b.r.Perm(depth/8 - 4)
	at := func() int16 {
		p := places[0]
		places = places[1:]
		return -int16(p+1) * 8
	}
	b.array = int16(-depth)
	if b.r.IntN(3) == 0 { // the array at the top, the rest below
		b.array = -32
		for i := range places {
			places[i] += 4
		}
	}
	b.spill = at()
	for range 2 + b.r.IntN(4) {
		b.slots = append(b.slots, at())
	}
}

func (b *body) add(ins ...asm.Instruction) {
	for _, i := range ins {
		b.ins, b.to = append(b.ins, i), append(b.to, 0)
	}
}

func (b *body) label() int {
	b.labels++
	return b.labels
}

func (b *body) place(l int) { b.places[l] = len(b.ins) }

func (b *body) jump(ins asm.Instruction, to int) {
	b.ins, b.to = append(b.ins, ins), append(b.to, to)
}

// assemble gives jumps their distances, or symbols.
func (b *body) assemble(name string) asm.Instructions {
	offsets := make([]int, len(b.ins)+1)
	for i := range b.ins {
		offsets[i+1] = offsets[i] + int(b.ins[i].Width())
	}
	for i, l := range b.to {
		if l == 0 {
			continue
		}
		to := b.places[l]
		distance := offsets[to] - offsets[i] - 1
		long := b.ins[i].OpCode.Class() == asm.Jump32Class && b.ins[i].OpCode.JumpOp() == asm.Ja
		symbol := fmt.Sprintf("%s_L%d", name, to)
		switch {
		case b.symbolic && long:
			b.ins[i].Constant = -1
			b.ins[i] = b.ins[i].WithReference(symbol)
		case b.symbolic:
			b.ins[i].Offset = -1
			b.ins[i] = b.ins[i].WithReference(symbol)
		case long:
			b.ins[i].Constant = int64(distance)
		default:
			b.ins[i].Offset = int16(distance)
		}
		if b.symbolic {
			b.ins[to] = b.ins[to].WithSymbol(symbol)
		}
	}
	b.ins[0] = b.ins[0].WithSymbol(name)
	return b.ins
}

// storeImm is asm.StoreImm, which knows no eight bytes.
func storeImm(dst asm.Register, offset int16, value int64, size asm.Size) asm.Instruction {
	return asm.Instruction{OpCode: asm.OpCode(asm.StClass).SetMode(asm.MemMode).SetSize(size), Dst: dst, Offset: offset, Constant: value}
}

// pick chooses a register of s; ok is false if there is none.
func (b *body) pick(s regs) (asm.Register, bool) {
	var all []asm.Register
	for r := asm.R0; r <= asm.R9; r++ {
		if s.has(r) {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	return all[b.r.IntN(len(all))], true
}

// target is a register to write, often r0.
func (b *body) target() asm.Register {
	if b.r.IntN(4) == 0 && !b.locked.has(asm.R0) {
		return asm.R0
	}
	r, _ := b.pick(everything &^ b.locked)
	return r
}

// number is a register that holds a number.
func (b *body) number() asm.Register {
	if r, ok := b.pick(b.have); ok {
		return r
	}
	r := b.target()
	b.add(asm.Mov.Imm(r, b.constant()))
	b.have |= set1(r)
	return r
}

func (b *body) constant() int32 {
	switch b.r.IntN(4) {
	case 0:
		return b.verdicts()
	case 1:
		return int32(b.r.IntN(64)) - 8
	case 2:
		return []int32{-1, 0, 1, 0x7fffffff, -0x80000000, 255, 0xffff}[b.r.IntN(7)]
	}
	return int32(b.r.Uint32())
}

func (b *body) slot() int16 { return b.slots[b.r.IntN(len(b.slots))] }

// context gives a register that holds ctx: its own, or tmp.
func (b *body) context(tmp asm.Register) asm.Register {
	if b.spill == 0 {
		return b.ctx
	}
	b.add(asm.LoadMem(tmp, asm.R10, b.spill, asm.DWord))
	b.have &^= set1(tmp)
	return tmp
}

// arg1 puts ctx into r1.
func (b *body) arg1() {
	if r := b.context(asm.R1); r != asm.R1 {
		b.add(asm.Mov.Reg(asm.R1, r))
	}
	b.have &^= set1(asm.R1)
}

// called is what a call leaves: a number in r0.
func (b *body) called() { b.have = b.have&^scratch | set1(asm.R0) }

func (b *body) helper(fn asm.BuiltinFunc) {
	b.add(fn.Call())
	b.called()
}

var (
	sizes = []asm.Size{asm.Byte, asm.Half, asm.Word, asm.DWord}
	arith = []asm.ALUOp{asm.Add, asm.Sub, asm.Mul, asm.Div, asm.Or, asm.And, asm.LSh, asm.RSh, asm.ArSh, asm.Mod, asm.Xor, asm.Mov, asm.SDiv, asm.SMod}
	tests = []asm.JumpOp{asm.JEq, asm.JNE, asm.JSet, asm.JGT, asm.JGE, asm.JLT, asm.JLE, asm.JSGT, asm.JSGE, asm.JSLT, asm.JSLE}
)

func (b *body) size() asm.Size { return sizes[b.r.IntN(4)] }

// within gives an aligned place of a size in eight bytes.
func (b *body) within(s asm.Size) int16 {
	n := s.Sizeof()
	return int16(b.r.IntN(8/n) * n)
}

// randomMembers makes a chain of 1 to 40 members, some of them repeated.
func randomMembers(r *rand.Rand, kind l3af.HookKind) []Member {
	n := 1 + r.IntN(6)
	switch r.IntN(8) {
	case 0:
		n = 1 + r.IntN(40)
	case 1, 2:
		n = 1 + r.IntN(15)
	}
	room := &budget{maps: 90, moves: 9}
	deep := r.IntN(3) == 0
	all := kind.Verdicts()
	var members []Member
	for i := range n {
		var m Member
		if len(members) > 0 && r.IntN(5) == 0 {
			m = members[r.IntN(len(members))]
			if uses := len(m.Spec.Maps) + 1; uses > room.maps || moves(m) > room.moves {
				continue
			} else if uses > 1 {
				room.maps -= uses
			}
			room.moves -= moves(m)
		} else {
			var proceed []l3af.Verdict
			for _, j := range r.Perm(len(all))[:1+r.IntN(4)] {
				proceed = append(proceed, all[j])
			}
			room.deep = deep && r.IntN(2) == 0
			m = randomProgram(r, kind, "", proceed, room)
			m.Proceed = proceed
		}
		m.Name = fmt.Sprintf("m%d", i)
		if r.IntN(6) == 0 {
			m.Proceed = slices.Clone(m.Proceed)
			r.Shuffle(len(m.Proceed), func(i, j int) { m.Proceed[i], m.Proceed[j] = m.Proceed[j], m.Proceed[i] })
		}
		members = append(members, m)
	}
	return members
}

// moves counts the calls of a program that may take room from the packet.
func moves(m Member) int {
	n := 0
	for _, ins := range m.Spec.Programs[m.Entry].Instructions {
		if ins.IsBuiltinCall() {
			switch asm.BuiltinFunc(ins.Constant) {
			case asm.FnXdpAdjustHead, asm.FnXdpAdjustMeta, asm.FnXdpAdjustTail, asm.FnSkbChangeTail:
				n++
			}
		}
	}
	return n
}
