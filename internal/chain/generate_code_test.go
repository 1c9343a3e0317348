package chain

import "github.com/cilium/ebpf/asm"

func (b *body) statement() {
	b.budget--
	n := b.r.IntN(100)
	switch {
	case n < 26:
		b.calculate()
	case n < 38:
		b.stack()
	case n < 44:
		b.indexed()
	case n < 49:
		b.atomic()
	case n < 61:
		b.packet()
	case n < 66:
		b.field()
	case n < 72:
		b.mapped()
	case n < 75:
		b.help()
	case n < 80:
		b.call()
	case n < 84:
		b.move()
	case n < 87:
		b.loop()
	case n < 90:
		b.bail()
	case n < 92 && b.nested > 0:
		b.leave()
	default:
		b.fork()
	}
}

func (b *body) calculate() {
	dst := b.target()
	switch b.r.IntN(10) {
	case 0:
		b.add(asm.LoadImm(dst, int64(b.r.Uint64()), asm.DWord))
	case 1:
		b.add(asm.LoadImm(dst, int64(b.r.Uint32())<<32|int64(uint32(b.verdicts())), asm.DWord))
	case 2:
		b.add(asm.Mov.Imm(dst, b.constant()))
	case 3:
		b.add(asm.Mov.Imm32(dst, b.constant()))
	case 4:
		src := b.number()
		b.add([]asm.Instruction{asm.Mov.Reg(dst, src), asm.Mov.Reg32(dst, src), asm.MovSX8.Reg(dst, src),
			asm.MovSX16.Reg(dst, src), asm.MovSX32.Reg(dst, src), asm.MovSX8.Reg32(dst, src)}[b.r.IntN(6)])
	case 5:
		dst = b.writable()
		b.add([]asm.Instruction{asm.Neg.Imm(dst, 0), asm.Neg.Imm32(dst, 0), asm.HostTo(asm.BE, dst, asm.Half),
			asm.HostTo(asm.BE, dst, asm.DWord), asm.HostTo(asm.LE, dst, asm.Word), asm.BSwap(dst, asm.Word)}[b.r.IntN(6)])
	default:
		dst = b.writable()
		op, narrow := arith[b.r.IntN(len(arith))], b.r.IntN(2) == 0
		if b.r.IntN(2) == 0 {
			src := b.number()
			if narrow {
				b.add(op.Reg32(dst, src))
			} else {
				b.add(op.Reg(dst, src))
			}
			break
		}
		n := b.constant()
		switch op {
		case asm.LSh, asm.RSh, asm.ArSh:
			n &= 31
		case asm.Div, asm.Mod, asm.SDiv, asm.SMod:
			n |= 1
		}
		if narrow {
			b.add(op.Imm32(dst, n))
		} else {
			b.add(op.Imm(dst, n))
		}
	}
	b.have |= set1(dst)
}

// writable is a register that holds a number and may be changed.
func (b *body) writable() asm.Register {
	if b.r.IntN(3) == 0 && (b.have &^ b.locked).has(asm.R0) {
		return asm.R0
	}
	if r, ok := b.pick(b.have &^ b.locked); ok {
		return r
	}
	r := b.target()
	b.add(asm.Mov.Imm(r, b.constant()))
	b.have |= set1(r)
	return r
}

// base gives a way to address a place on the stack: r10 or a copy, in one of
// the forms compilers and people write.
func (b *body) base(at int16, not ...asm.Register) (asm.Register, int16) {
	if b.r.IntN(2) == 0 {
		return asm.R10, at
	}
	free := everything &^ b.locked
	for _, r := range not {
		free &^= set1(r)
	}
	p, ok := b.pick(free)
	if !ok {
		return asm.R10, at
	}
	b.have &^= set1(p)
	switch n := b.r.IntN(7); {
	case n == 0:
		b.add(asm.Mov.Reg(p, asm.R10), asm.Add.Imm(p, int32(at)))
		return p, 0
	case n == 1 && b.entry:
		// In a subprogram the verifier (adjust_ptr_min_max_vals in Linux 6.18)
		// takes the sum for a pointer into the entry's frame.
		b.add(asm.Mov.Imm(p, int32(at)), asm.Add.Reg(p, asm.R10))
		return p, 0
	case n == 2:
		b.add(asm.Mov.Reg(p, asm.R10))
		return p, at
	case n == 3:
		b.add(asm.Mov.Reg(p, asm.R10), asm.Add.Imm(p, int32(at)-8), asm.Add.Imm(p, 16))
		return p, -8
	case n == 4: // the addition is jumped to
		if x, ok := b.pick(b.have &^ set1(p)); ok {
			l := b.label()
			b.add(asm.Mov.Reg(p, asm.R10))
			b.jump(asm.JSGT.Imm(x, 5, ""), l)
			b.add(asm.Mov.Reg(p, asm.R10))
			b.place(l)
			b.add(asm.Add.Imm(p, int32(at)))
			return p, 0
		}
	case n == 5: // another addition comes between
		if x, ok := b.pick(b.have &^ b.locked &^ set1(p)); ok {
			b.add(asm.Mov.Reg(p, asm.R10), asm.Add.Imm(x, 16), asm.Add.Imm(p, int32(at)))
			return p, 0
		}
	}
	b.add(asm.Mov.Reg(p, asm.R10), asm.Add.Imm(p, 4), asm.Add.Imm(p, int32(at)))
	return p, -4
}

func (b *body) stack() {
	at, size := b.slot(), b.size()
	at += b.within(size)
	switch b.r.IntN(5) {
	case 0:
		p, off := b.base(at)
		b.add(storeImm(p, off, int64(b.constant()), size))
	case 1, 2:
		src := b.number()
		p, off := b.base(at, src)
		b.add(asm.StoreMem(p, off, src, size))
	default:
		p, off := b.base(at)
		dst := b.target()
		if size != asm.DWord && b.r.IntN(3) == 0 {
			b.add(asm.LoadMemSX(dst, p, off, size))
		} else {
			b.add(asm.LoadMem(dst, p, off, size))
		}
		b.have |= set1(dst)
	}
}

// indexed reads or writes the array at a place known at run time only.
func (b *body) indexed() {
	src := b.number()
	i, ok := b.pick(everything &^ b.locked &^ set1(src))
	p, ok2 := b.pick(everything &^ b.locked &^ set1(src) &^ set1(i))
	if !ok || !ok2 {
		return
	}
	b.have &^= set1(i) | set1(p)
	b.add(asm.Mov.Reg(i, src), asm.And.Imm(i, 0x18))
	if b.r.IntN(2) == 0 {
		b.add(asm.Mov.Reg(p, asm.R10), asm.Add.Imm(p, int32(b.array)), asm.Add.Reg(p, i))
	} else {
		b.add(asm.Mov.Reg(p, asm.R10), asm.Add.Reg(p, i), asm.Add.Imm(p, int32(b.array)))
	}
	if b.r.IntN(2) == 0 {
		b.add(asm.StoreMem(p, 0, src, asm.DWord))
	} else {
		dst := b.target()
		b.add(asm.LoadMem(dst, p, 0, asm.DWord))
		b.have |= set1(dst)
	}
}

var fetching = []asm.AtomicOp{asm.FetchAdd, asm.FetchAnd, asm.FetchOr, asm.FetchXor, asm.Xchg}

func (b *body) atomic() {
	size := []asm.Size{asm.Word, asm.DWord}[b.r.IntN(2)]
	at := b.slot() + b.within(size)
	src := b.writable()
	switch b.r.IntN(6) {
	case 0:
		p, off := b.base(at, src)
		b.add(raw([]asm.AtomicOp{asm.AddAtomic, asm.AndAtomic, asm.OrAtomic, asm.XorAtomic}[b.r.IntN(4)].Mem(p, src, size, off)))
	case 1:
		if b.locked.has(asm.R0) {
			return
		}
		b.add(asm.Mov.Imm(asm.R0, b.constant()))
		b.have |= set1(asm.R0)
		p, off := b.base(at, src, asm.R0)
		b.add(raw(asm.CmpXchg.Mem(p, src, size, off)))
	case 2:
		p, off := b.base(at, src)
		b.add(raw(asm.LoadAcquire(src, p, size, off)))
	case 3:
		p, off := b.base(at, src)
		b.add(raw(asm.StoreRelease(p, src, size, off)))
	default:
		p, off := b.base(at, src)
		b.add(raw(fetching[b.r.IntN(len(fetching))].Mem(p, src, size, off)))
	}
}

// condition is a random test of numbers.
func (b *body) condition() asm.Instruction {
	op, narrow := tests[b.r.IntN(len(tests))], b.r.IntN(2) == 0
	x := b.number()
	if b.r.IntN(3) == 0 {
		y := b.number()
		if narrow {
			return op.Reg32(x, y, "")
		}
		return op.Reg(x, y, "")
	}
	if narrow {
		return op.Imm32(x, b.constant(), "")
	}
	return op.Imm(x, b.constant(), "")
}

// fork goes two ways, which come together again unless they leave.
func (b *body) fork() {
	if b.nested > 3 {
		b.calculate()
		return
	}
	b.nested++
	defer func() { b.nested-- }()
	other, end := b.label(), b.label()
	b.jump(b.condition(), other)
	before := b.have
	for range 1 + b.r.IntN(3) {
		if !b.dead {
			b.statement()
		}
	}
	have, dead := b.have, b.dead
	b.have, b.dead = before, false
	if b.r.IntN(3) == 0 { // nothing on the other way
		b.place(other)
	} else {
		if !dead {
			if b.r.IntN(5) == 0 {
				b.jump(asm.LongJump(""), end)
			} else {
				b.jump(asm.Ja.Label(""), end)
			}
		}
		b.place(other)
		for range 1 + b.r.IntN(2) {
			if !b.dead {
				b.statement()
			}
		}
	}
	switch {
	case dead:
	case b.dead:
		b.have, b.dead = have, false
	default:
		b.have &= have
	}
	b.place(end)
	if !b.dead {
		// So that a label is never where nothing follows.
		b.add(storeImm(asm.R10, b.slot(), int64(b.constant()), asm.Word))
	}
}

// loop runs some statements a few times.
func (b *body) loop() {
	i, ok := b.pick((everything &^ scratch) &^ b.locked)
	if !ok || b.nested > 1 {
		b.calculate()
		return
	}
	b.nested += 2
	was := b.locked
	defer func() { b.nested, b.locked = b.nested-2, was }()
	b.locked |= set1(i)
	n := int32(2 + b.r.IntN(6))
	top, end := b.label(), b.label()
	b.add(asm.Mov.Imm(i, 0))
	b.have |= set1(i)
	start := b.have
	b.place(top)
	may := b.r.IntN(3) == 0
	if may {
		b.jump(asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.JCOND)}, end)
	}
	for range 1 + b.r.IntN(3) {
		if !b.dead {
			b.statement()
		}
	}
	if !b.dead {
		// What the next turn expects must be there.
		for r := asm.R0; r <= asm.R9; r++ {
			if (start &^ b.have).has(r) {
				b.add(asm.Mov.Imm(r, b.constant()))
			}
		}
		b.add(asm.Add.Imm(i, 1))
		if may {
			b.jump(asm.JGE.Imm(i, n, ""), end)
			b.jump(asm.Ja.Label(""), top)
		} else {
			b.jump(asm.JLT.Imm(i, n, ""), top)
		}
	}
	dead := b.dead && !may
	b.have, b.dead = start, false
	b.place(end)
	b.dead = dead
	if !dead {
		b.add(storeImm(asm.R10, b.slot(), int64(b.constant()), asm.Word))
	}
}
