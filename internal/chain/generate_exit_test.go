package chain

import "github.com/cilium/ebpf/asm"

// bail perhaps ends the function in the middle, with a verdict in r0.
func (b *body) bail() {
	if b.locked.has(asm.R0) {
		return
	}
	b.verdict()
	b.have |= set1(asm.R0)
	op := b.condition()
	b.jump(op, b.out())
}

// out is the label of an exit: the one at the end, or one that is there.
func (b *body) out() int {
	if len(b.exits) > 0 && b.r.IntN(2) == 0 {
		return b.exits[b.r.IntN(len(b.exits))]
	}
	if b.shared == 0 {
		b.shared = b.label()
	}
	return b.shared
}

// leave ends the function.
func (b *body) leave() {
	b.verdict()
	b.have |= set1(asm.R0)
	switch b.r.IntN(6) {
	case 0:
		b.jump(asm.Ja.Label(""), b.out())
	case 1: // perhaps, and else with another verdict
		b.jump(b.condition(), b.out())
		b.verdict()
		b.exit()
	case 2: // over the second verdict to the exit behind it
		l := b.label()
		b.jump(b.condition(), l)
		b.verdict()
		b.exits = append(b.exits, l)
		b.place(l)
		b.add(asm.Return())
	case 3: // a jump to a jump to an exit
		l := b.label()
		b.jump(b.condition(), l)
		b.add(asm.Mov.Imm(asm.R0, b.verdicts()))
		b.exit()
		b.place(l)
		b.jump(asm.Ja.Label(""), b.out())
	default:
		b.exit()
	}
	b.dead = true
}

func (b *body) exit() {
	l := b.label()
	b.exits = append(b.exits, l)
	b.place(l)
	b.add(asm.Return())
}

// verdict puts a return code into r0, in one of many ways: some let it look as
// if r0 were known, or as if it were not.
func (b *body) verdict() {
	v := b.verdicts()
	other := b.verdicts()
	tmp, _ := b.pick(everything &^ b.locked &^ set1(asm.R0))
	slot := b.slot()
	if b.r.IntN(2) == 0 {
		b.add(asm.Mov.Imm(asm.R0, other))
		b.have |= set1(asm.R0)
	}
	store := func() { b.add(storeImm(asm.R10, slot, int64(v), asm.Word)) }
	lose := func() { b.have &^= set1(tmp) }
	switch b.r.IntN(25) {
	case 0, 1, 2:
		b.add(asm.Mov.Imm(asm.R0, v))
	case 3:
		b.add(asm.Mov.Imm32(asm.R0, v))
	case 4:
		b.add(asm.LoadImm(asm.R0, int64(1+b.r.IntN(9))<<32|int64(uint32(v)), asm.DWord))
	case 5:
		b.add(asm.Mov.Imm(tmp, v), asm.Mov.Reg(asm.R0, tmp))
		b.have |= set1(tmp)
	case 6:
		store()
		b.add(asm.LoadMem(asm.R0, asm.R10, slot, asm.Word))
	case 7:
		store()
		b.add(asm.LoadMem(asm.R0, asm.R10, slot, asm.DWord)) // with what is above
	case 8:
		store()
		b.add(asm.LoadMemSX(asm.R0, asm.R10, slot, asm.Word))
	case 9:
		b.add(asm.Mov.Imm(asm.R0, v-7), asm.Add.Imm(asm.R0, 7))
	case 10:
		b.add(asm.Mov.Imm(asm.R0, v^0x55), asm.Xor.Imm32(asm.R0, 0x55))
	case 11:
		b.add(asm.Mov.Imm(asm.R0, ^v+1), asm.Neg.Imm32(asm.R0, 0))
	case 12: // the old value comes back in the source register
		store()
		b.add(asm.Mov.Imm(asm.R0, other))
		b.add(raw(fetching[b.r.IntN(len(fetching))].Mem(asm.R10, asm.R0, asm.Word, slot)))
	case 13: // r0 is loaded or what it was
		store()
		b.add(asm.Mov.Imm(tmp, 3), asm.Mov.Imm(asm.R0, other))
		b.have |= set1(tmp)
		b.add(raw(asm.CmpXchg.Mem(asm.R10, tmp, asm.Word, slot)))
	case 14:
		store()
		b.add(asm.Mov.Imm(asm.R0, other), raw(asm.LoadAcquire(asm.R0, asm.R10, asm.Word, slot)))
	case 15: // of the upper half of a number
		b.add(asm.LoadImm(asm.R0, int64(v)<<32|0x77, asm.DWord), asm.RSh.Imm(asm.R0, 32))
	case 16: // known on one way only
		l := b.label()
		b.add(asm.Mov.Imm(asm.R0, other))
		b.have |= set1(asm.R0)
		b.jump(b.condition(), l)
		b.add(asm.Mov.Imm(asm.R0, v))
		b.place(l)
		b.add(asm.StoreMem(asm.R10, slot, asm.R0, asm.Word))
	case 17: // the same on both
		l := b.label()
		b.add(asm.Mov.Imm(asm.R0, v))
		b.have |= set1(asm.R0)
		b.jump(b.condition(), l)
		b.add(asm.Mov.Imm32(asm.R0, v))
		b.place(l)
		b.add(asm.StoreMem(asm.R10, slot, asm.R0, asm.Word))
	case 18: // counted up
		l := b.label()
		b.add(asm.Mov.Imm(asm.R0, v-3))
		b.place(l)
		b.add(asm.Add.Imm32(asm.R0, 1))
		b.jump(asm.JNE.Imm32(asm.R0, v, ""), l)
	case 19: // known, and used
		b.add(asm.Mov.Imm(asm.R0, v), asm.StoreMem(asm.R10, slot, asm.R0, asm.DWord), asm.Mov.Reg(tmp, asm.R0),
			asm.LoadMem(tmp, asm.R10, slot, asm.DWord), asm.Add.Reg(tmp, asm.R0),
			raw(asm.AddAtomic.Mem(asm.R10, asm.R0, asm.DWord, slot)))
		b.have |= set1(tmp)
	case 20: // a call's
		if len(b.sources) > 0 {
			b.mapped()
			if b.have.has(asm.R0) {
				break
			}
		}
		b.add(asm.Mov.Imm(asm.R0, v))
	case 21:
		if len(b.subs) > 0 && b.entry {
			b.call()
			if b.have.has(asm.R0) {
				break
			}
		}
		b.add(asm.Mov.Imm(asm.R0, v))
	case 22:
		b.add(asm.Mov.Imm(asm.R0, v), asm.HostTo(asm.BE, asm.R0, asm.Word), asm.BSwap(asm.R0, asm.Word))
	case 23:
		b.add(asm.Mov.Imm(tmp, v), asm.Mov.Imm(asm.R0, other), asm.MovSX8.Reg32(asm.R0, tmp))
		b.have |= set1(tmp)
	default: // one of a few, by a number
		src := b.number()
		b.add(asm.Mov.Reg(tmp, src), asm.And.Imm(tmp, 7))
		lose()
		l := b.label()
		b.add(asm.Mov.Imm(asm.R0, v))
		b.jump(asm.JNE.Imm(tmp, int32(b.r.IntN(8)), ""), l)
		b.add(asm.Mov.Imm(asm.R0, other))
		if b.r.IntN(2) == 0 {
			b.jump(asm.Ja.Label(""), b.out())
			b.place(l)
			b.add(asm.Mov.Reg32(asm.R0, asm.R0))
			break
		}
		b.place(l)
		b.add(asm.Or.Imm(asm.R0, 0))
	}
	b.have |= set1(asm.R0)
}
