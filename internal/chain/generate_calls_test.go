package chain

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
)

// fields of the context, in bytes from its start.
const (
	xdpData, xdpEnd, xdpMeta = 0, 4, 8
	skbData, skbEnd          = 76, 80
	skbMark, skbPriority     = 8, 32
	skbCB                    = 48
)

func (b *body) bounds() (data, end int16) {
	if b.kind == l3af.XDP {
		return xdpData, xdpEnd
	}
	return skbData, skbEnd
}

// packet reads and writes the packet behind a check of its bounds.
func (b *body) packet() {
	data, end := b.bounds()
	if b.kind == l3af.XDP && b.r.IntN(5) == 0 {
		data, end = xdpMeta, xdpData
	}
	dst := b.target()
	b.add(asm.Mov.Imm(dst, b.constant()))
	b.have |= set1(dst)
	var free []asm.Register
	for r := asm.R0; r <= asm.R9; r++ {
		if r != dst && !b.locked.has(r) {
			free = append(free, r)
		}
	}
	b.r.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	p, e, t := free[0], free[1], free[2]
	value := dst
	if v, ok := b.pick(b.have &^ (set1(p) | set1(e) | set1(t))); ok {
		value = v
	}
	variable := b.r.IntN(3) == 0 && end != xdpData
	if variable {
		b.add(asm.Mov.Reg(t, value), asm.And.Imm(t, 0x3f))
	}
	b.have &^= set1(p) | set1(e) | set1(t)
	ctx := b.context(e)
	b.add(asm.LoadMem(p, ctx, data, asm.Word), asm.LoadMem(e, ctx, end, asm.Word))
	if variable {
		b.add(asm.Add.Reg(p, t))
	}
	n := []int{4, 14, 34, 60, 100, 250}[b.r.IntN(6)]
	if data == xdpMeta && end == xdpData {
		n = 4
	}
	skip := b.label()
	b.add(asm.Mov.Reg(t, p), asm.Add.Imm(t, int32(n)))
	if b.r.IntN(2) == 0 {
		b.jump(asm.JGT.Reg(t, e, ""), skip)
	} else {
		b.jump(asm.JLT.Reg(e, t, ""), skip)
	}
	b.add(asm.Mov.Imm(t, b.constant()))
	for range 1 + b.r.IntN(3) {
		size := b.size()
		at := int16(0)
		if n -= size.Sizeof(); n > 0 {
			at = int16(b.r.IntN(n + 1))
		} else if n < 0 {
			size = asm.Byte
		}
		n += size.Sizeof()
		n = max(n, 4)
		switch b.r.IntN(4) {
		case 0:
			b.add(asm.StoreMem(p, at, []asm.Register{dst, value, t}[b.r.IntN(3)], size))
		case 1:
			b.add(storeImm(p, at, int64(b.constant()), size))
		default:
			b.add(asm.LoadMem([]asm.Register{dst, t}[b.r.IntN(2)], p, at, size))
		}
		if b.r.IntN(2) == 0 {
			b.add(asm.Add.Reg(dst, t))
		}
	}
	b.place(skip)
	b.add(asm.And.Imm(dst, -1))
}

// field reads a field of the context, or writes one where a program may.
func (b *body) field() {
	dst := b.target()
	if b.kind == l3af.XDP {
		// ingress_ifindex, rx_queue_index
		at := []int16{12, 16}[b.r.IntN(2)]
		ctx := b.context(dst)
		b.add(asm.LoadMem(dst, ctx, at, asm.Word))
		b.have |= set1(dst)
		return
	}
	fields := []int16{skbMark, skbPriority, skbCB, skbCB + 4, skbCB + 8, skbCB + 12, skbCB + 16}
	if b.r.IntN(2) == 0 {
		// len, ingress_ifindex, ifindex
		at := append(fields, 0, 36, 40)[b.r.IntN(len(fields)+3)]
		size := sizes[b.r.IntN(3)]
		if size != asm.Word && at != skbMark && at < skbCB {
			size = asm.Word
		}
		ctx := b.context(dst)
		b.add(asm.LoadMem(dst, ctx, at, size))
		b.have |= set1(dst)
		return
	}
	// queue_mapping and tc_index can be written here and seen by nobody outside
	at := append(fields, 12, 44)[b.r.IntN(len(fields)+2)]
	src := b.number()
	tmp, ok := b.pick(everything &^ b.locked &^ set1(src))
	if !ok {
		return
	}
	ctx := b.context(tmp)
	if b.r.IntN(3) == 0 {
		b.add(storeImm(ctx, at, int64(b.constant()), asm.Word))
	} else {
		b.add(asm.StoreMem(ctx, at, src, asm.Word))
	}
}

// mapped looks up, updates or deletes an entry of a map.
func (b *body) mapped() {
	if len(b.sources) == 0 {
		b.stack()
		return
	}
	name := b.sources[b.r.IntN(len(b.sources))]
	m := b.spec.Maps[name]
	dst := b.target()
	if m.Type == ebpf.Array && m.MaxEntries == 1 && b.r.IntN(2) == 0 {
		p, ok := b.pick(everything &^ b.locked &^ set1(dst))
		if !ok {
			return
		}
		b.have &^= set1(p)
		src := b.number()
		if src == p {
			return
		}
		b.add(asm.LoadMapValue(p, 0, 0).WithReference(name))
		b.touch(p, src, dst)
		b.have |= set1(dst)
		return
	}
	key, value := b.slot(), b.slot()
	src := b.number()
	b.add(asm.Mov.Reg(asm.R1, src), asm.And.Imm(asm.R1, []int32{1, 7, 15}[b.r.IntN(3)]))
	p, off := b.base(key, asm.R1)
	b.add(asm.StoreMem(p, off, asm.R1, asm.Word))
	b.pointer(asm.R2, key)
	b.have &^= scratch
	call := b.r.IntN(5)
	if call == 0 {
		b.pointer(asm.R3, value)
		b.add(asm.Mov.Imm(asm.R4, int32(b.r.IntN(3))))
	}
	b.add(asm.LoadMapPtr(asm.R1, 0).WithReference(name))
	switch call {
	case 0:
		b.helper(asm.FnMapUpdateElem)
		return
	case 1:
		b.helper(asm.FnMapDeleteElem)
		return
	}
	b.helper(asm.FnMapLookupElem)
	b.have &^= set1(asm.R0)
	dst = asm.R1 + asm.Register(b.r.IntN(5))
	b.add(asm.Mov.Imm(dst, b.constant()))
	b.have |= set1(dst)
	skip := b.label()
	b.jump(asm.JEq.Imm(asm.R0, 0, ""), skip)
	b.touch(asm.R0, dst, dst)
	b.place(skip)
	if b.r.IntN(2) == 0 {
		b.add(asm.Mov.Reg(asm.R0, dst))
		b.have |= set1(asm.R0)
	} else {
		b.add(asm.Add.Imm(dst, 1))
	}
}

// touch works on the map value that p points to.
func (b *body) touch(p, src, dst asm.Register) {
	switch b.r.IntN(5) {
	case 0:
		b.add(asm.StoreMem(p, 0, src, asm.DWord))
	case 1:
		b.add(raw(asm.AddAtomic.Mem(p, src, asm.DWord, 0)))
	case 2:
		if !b.locked.has(src) && src != p {
			b.add(raw(asm.FetchAdd.Mem(p, src, asm.DWord, 0)))
			break
		}
		fallthrough
	case 3:
		b.add(asm.LoadMem(dst, p, 4, asm.Word))
		return
	default:
		b.add(asm.LoadMem(dst, p, 0, asm.DWord))
		return
	}
	b.add(asm.Mov.Imm(dst, b.constant()))
}

// pointer puts the address of a place on the stack into r.
func (b *body) pointer(r asm.Register, at int16) {
	if b.r.IntN(3) == 0 && b.entry {
		b.add(asm.Mov.Imm(r, int32(at)), asm.Add.Reg(r, asm.R10))
	} else {
		b.add(asm.Mov.Reg(r, asm.R10), asm.Add.Imm(r, int32(at)))
	}
	b.have &^= set1(r)
}

// help calls a helper that reads or writes the stack, or copies from or to the packet.
func (b *body) help() {
	load, store := asm.FnSkbLoadBytes, asm.FnSkbStoreBytes
	if b.kind == l3af.XDP {
		load, store = asm.FnXdpLoadBytes, asm.FnXdpStoreBytes
	}
	switch b.r.IntN(3) {
	case 0:
		src := b.number()
		b.add(asm.Mov.Reg32(asm.R5, src))
		b.have &^= scratch
		b.pointer(asm.R1, b.array)
		b.add(asm.Mov.Imm(asm.R2, 16))
		b.pointer(asm.R3, b.array+16)
		b.add(asm.Mov.Imm(asm.R4, 16))
		b.helper(asm.FnCsumDiff)
		return
	case 1:
		b.offset()
		b.pointer(asm.R3, b.array)
		b.add(asm.Mov.Imm(asm.R4, int32(1+b.r.IntN(32))))
		b.helper(load)
	default:
		b.offset()
		b.pointer(asm.R3, b.array)
		b.add(asm.Mov.Imm(asm.R4, int32(1+b.r.IntN(32))))
		if b.kind != l3af.XDP {
			b.add(asm.Mov.Imm(asm.R5, int32(b.r.IntN(3))))
		}
		b.helper(store)
	}
}

// offset puts ctx in r1 and a place in the packet, perhaps behind its end, in r2.
func (b *body) offset() {
	src := b.number()
	if b.r.IntN(2) == 0 {
		b.add(asm.Mov.Reg(asm.R2, src), asm.And.Imm(asm.R2, 0xff))
	} else {
		b.add(asm.Mov.Imm(asm.R2, int32(b.r.IntN(130))))
	}
	b.have &^= scratch
	b.arg1()
}

func (b *body) call() {
	if b.entry && b.spec.Maps[leaves] != nil && b.r.IntN(2) == 0 {
		b.add(asm.Mov.Imm(asm.R3, int32(b.r.IntN(2))))
		if b.r.IntN(2) == 0 {
			b.add(asm.Mov.Reg(asm.R3, b.number()))
		}
		b.have &^= scratch
		b.add(asm.LoadMapPtr(asm.R2, 0).WithReference(leaves))
		b.arg1()
		b.add(asm.FnTailCall.Call())
		b.have &^= scratch
		return
	}
	if len(b.subs) == 0 {
		b.fork()
		return
	}
	s := b.subs[b.r.IntN(len(b.subs))]
	if !b.entry && s.depth > 0 || b.nested > 2 {
		b.calculate()
		return
	}
	b.add(asm.Mov.Reg(asm.R2, b.number()))
	b.have |= set1(asm.R2)
	b.add(asm.Mov.Reg(asm.R3, b.number()))
	if s.pointer {
		b.pointer(asm.R4, b.slot())
	}
	b.have &^= scratch
	b.arg1()
	b.add(asm.Call.Label(s.name))
	b.called()
	b.calls = true
}

// move changes where the packet begins or ends. What comes into the packet is
// written at once, since it holds what was there before.
func (b *body) move() {
	if !b.entry || b.room.moves == 0 || b.nested > 1 {
		b.packet()
		return
	}
	b.room.moves--
	b.have &^= scratch
	n := int32(4 * (1 + b.r.IntN(2)))
	data, end := b.bounds()
	if b.kind != l3af.XDP {
		b.add(asm.LoadMem(asm.R2, b.context(asm.R1), 0, asm.Word))
		b.add(asm.Add.Imm(asm.R2, int32(b.r.IntN(24))-12))
		b.arg1()
		b.add(asm.Mov.Imm(asm.R3, 0))
		b.helper(asm.FnSkbChangeTail)
		return
	}
	fill := false
	var fn asm.BuiltinFunc
	switch b.r.IntN(8) {
	case 0:
		fn = asm.FnXdpAdjustHead
	case 1, 2:
		fn, n, fill = asm.FnXdpAdjustHead, -n, true
	case 3:
		fn, data, end = asm.FnXdpAdjustMeta, xdpMeta, xdpData
	case 4, 5:
		fn, n, fill, data, end = asm.FnXdpAdjustMeta, -n, true, xdpMeta, xdpData
	case 6:
		fn, n = asm.FnXdpAdjustTail, int32(b.r.IntN(24))-12
	default:
		fn, n = []asm.BuiltinFunc{asm.FnXdpAdjustHead, asm.FnXdpAdjustTail, asm.FnXdpAdjustMeta}[b.r.IntN(3)], []int32{-100000, 100000}[b.r.IntN(2)]
	}
	b.add(asm.Mov.Imm(asm.R2, n))
	b.arg1()
	b.helper(fn)
	if !fill {
		return
	}
	skip := b.label()
	b.jump(asm.JNE.Imm(asm.R0, 0, ""), skip)
	ctx := b.context(asm.R3)
	b.add(asm.LoadMem(asm.R1, ctx, data, asm.Word), asm.LoadMem(asm.R3, ctx, end, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R1), asm.Add.Imm(asm.R2, -n))
	b.jump(asm.JGT.Reg(asm.R2, asm.R3, ""), skip)
	for i := int16(0); int32(i) < -n; i += 4 {
		b.add(storeImm(asm.R1, i, int64(b.constant()), asm.Word))
	}
	b.place(skip)
	b.add(asm.Mov.Imm(asm.R1, b.constant()))
	b.have |= set1(asm.R1)
}
