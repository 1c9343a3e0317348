package disasm

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/asm"

	"l3af/internal/kallsyms"
)

// Classes, the low three bits of a code (linux/bpf_common.h, linux/bpf.h).
const (
	ld    = 0x00
	ldx   = 0x01
	st    = 0x02
	stx   = 0x03
	alu   = 0x04
	jmp   = 0x05
	jmp32 = 0x06
	alu64 = 0x07
)

const (
	srcX      = 0x08 // the operand is a register
	loadImm64 = 0x18

	// Modes of loads and stores, the upper three bits.
	modeAbs      = 0x20
	modeInd      = 0x40
	modeMem      = 0x60
	modeMemSX    = 0x80
	modeAtomic   = 0xc0
	modeProbeSX  = 0x40 // of LDX: a load that may fault (linux/filter.h), as the verifier leaves it
	modeProbe32S = 0xc0
	modeNospec   = 0xc0 // of ST: a barrier against speculation

	// Operations, the upper four bits.
	neg   = 0x80
	mov   = 0xb0
	end   = 0xd0
	div   = 0x30
	mod   = 0x90
	ja    = 0x00
	call  = 0x80
	exit  = 0x90
	jcond = 0xe0

	// Of atomics, in the constant.
	fetch        = 0x01
	exchange     = 0xe0 | fetch
	compare      = 0xf0 | fetch
	loadAcquire  = 0x100
	storeRelease = 0x110

	// What a register's number says instead in loads of 64 bits and calls.
	pseudoMap      = 1
	pseudoMapValue = 2
	pseudoFunc     = 4
	pseudoMapIndex = 5
	pseudoIdxValue = 6
	pseudoCall     = 1
)

var (
	aluOps = [16]string{"+=", "-=", "*=", "/=", "|=", "&=", "<<=", ">>=", "neg", "%=", "^=", "=", "s>>=", "endian", "", ""}
	jmpOps = [16]string{"jmp", "==", ">", ">=", "&", "!=", "s>", "s>=", "call", "exit", "<", "<=", "s<", "s<=", "", ""}
	atomic = map[int32]string{0x00: "add", 0x40: "or", 0x50: "and", 0xa0: "xor"}

	sizes  = [4]string{"u32", "u16", "u8", "u64"}
	signed = [4]string{"s32", "s16", "s8", "s64"}
)

// Names is what numbers in code stand for. The zero value knows nothing.
type Names struct {
	Symbols *kallsyms.Symbols
	// Functions are the addresses of the program's functions, in order; none
	// where it is interpreted or the addresses are hidden.
	Functions []uint64
}

// Text is the instruction as the kernel writes it in its logs
// (kernel/bpf/disasm.c), with the names of what it refers to.
func (n Names) Text(i Instruction) string {
	code := i.Code()
	text := ""
	switch code & 0x07 {
	case alu, alu64:
		text = arithmetic(i)
	case jmp, jmp32:
		text = n.jump(i)
	case ldx:
		text = load(i)
	case st:
		text = store(i)
	case stx:
		text = storeRegister(i)
	case ld:
		text = n.loadOld(i)
	}
	if text == "" {
		text = "unknown " + hex(i.Raw)
	}
	return fmt.Sprintf("(%02x) %s", code, text)
}

// register is a register's name: of all its bits, or the lower 32.
func register(number int, half bool) string {
	if half {
		return "w" + strconv.Itoa(number)
	}
	return "r" + strconv.Itoa(number)
}

func arithmetic(i Instruction) string {
	code, half := i.Code(), i.Code()&0x07 == alu
	dst, src, op := register(i.Dst(), half), register(i.Src(), half), code&0xf0
	how := aluOps[op>>4]
	switch {
	case op == end:
		name := "le"
		if !half {
			name = "bswap"
		} else if code&srcX != 0 {
			name = "be"
		}
		return fmt.Sprintf("r%d = %s%d r%d", i.Dst(), name, i.Imm(), i.Dst())
	case op == neg:
		return fmt.Sprintf("%s = -%s", dst, dst)
	case how == "":
		return ""
	case (op == div || op == mod) && i.Off() == 1:
		how = "s" + how
	}
	if code&srcX == 0 {
		return fmt.Sprintf("%s %s %d", dst, how, i.Imm())
	}
	if op == mov {
		switch off := i.Off(); {
		case off == 1 && !half:
			return fmt.Sprintf("%s = addr_space_cast(%s, %d, %d)", dst, src, uint32(i.Imm())>>16, uint16(i.Imm()))
		case off == -1 && !half:
			return fmt.Sprintf("%s = &(void __percpu *)(%s)", dst, src)
		case off == 8, off == 16, off == 32:
			return fmt.Sprintf("%s = (s%d)%s", dst, off, src)
		}
	}
	return fmt.Sprintf("%s %s %s", dst, how, src)
}

// memory is what a load or store touches.
func memory(i Instruction, names *[4]string, base int) string {
	return fmt.Sprintf("(%s *)(r%d %+d)", names[i.Code()>>3&0x03], base, i.Off())
}

func load(i Instruction) string {
	switch i.Code() & 0xe0 {
	case modeMem:
		return fmt.Sprintf("r%d = *%s", i.Dst(), memory(i, &sizes, i.Src()))
	case modeMemSX, modeProbeSX, modeProbe32S:
		return fmt.Sprintf("r%d = *%s", i.Dst(), memory(i, &signed, i.Src()))
	}
	return ""
}

func store(i Instruction) string {
	switch i.Code() & 0xe0 {
	case modeMem:
		return fmt.Sprintf("*%s = %d", memory(i, &sizes, i.Dst()), i.Imm())
	case modeNospec:
		return "nospec"
	}
	return ""
}

func storeRegister(i Instruction) string {
	at := memory(i, &sizes, i.Dst())
	switch i.Code() & 0xe0 {
	case modeMem:
		return fmt.Sprintf("*%s = r%d", at, i.Src())
	case modeAtomic:
	default:
		return ""
	}
	wide := ""
	if i.Code()>>3&0x03 == 3 {
		wide = "64"
	}
	switch i.Imm() {
	case compare:
		return fmt.Sprintf("r0 = atomic%s_cmpxchg(%s, r0, r%d)", wide, at, i.Src())
	case exchange:
		return fmt.Sprintf("r%d = atomic%s_xchg(%s, r%d)", i.Src(), wide, at, i.Src())
	case loadAcquire:
		return fmt.Sprintf("r%d = load_acquire(%s)", i.Dst(), memory(i, &sizes, i.Src()))
	case storeRelease:
		return fmt.Sprintf("store_release(%s, r%d)", at, i.Src())
	}
	op := i.Imm() &^ fetch
	name, ok := atomic[op]
	switch {
	case !ok:
		return ""
	case i.Imm()&fetch != 0:
		return fmt.Sprintf("r%d = atomic%s_fetch_%s(%s, r%d)", i.Src(), wide, name, at, i.Src())
	}
	return fmt.Sprintf("lock *%s %s r%d", at, aluOps[op>>4], i.Src())
}

// loadOld is of the class that classic BPF left: loads from the packet, and
// loads of 64 bits.
func (n Names) loadOld(i Instruction) string {
	code := i.Code()
	switch {
	case code&0xe0 == modeAbs:
		return fmt.Sprintf("r0 = *(%s *)skb[%d]", sizes[code>>3&0x03], i.Imm())
	case code&0xe0 == modeInd:
		return fmt.Sprintf("r0 = *(%s *)skb[r%d + %d]", sizes[code>>3&0x03], i.Src(), i.Imm())
	case code != loadImm64:
		return ""
	}
	return fmt.Sprintf("r%d = %s", i.Dst(), constant(i))
}

// constant is what a load of 64 bits loads. The kernel gives the ids of maps
// where it has their addresses.
func constant(i Instruction) string {
	switch i.Src() {
	case pseudoMap:
		return fmt.Sprintf("map[id:%d]", uint32(i.Imm()))
	case pseudoMapValue:
		return fmt.Sprintf("map[id:%d][0]+%d", uint32(i.Imm()), uint32(i.Next()))
	case pseudoMapIndex:
		return fmt.Sprintf("map[idx:%d]", uint32(i.Imm()))
	case pseudoIdxValue:
		return fmt.Sprintf("map[idx:%d]+%d", uint32(i.Imm()), uint32(i.Next()))
	case pseudoFunc:
		return fmt.Sprintf("subprog[%+d]", i.Imm())
	}
	return fmt.Sprintf("0x%x", uint64(uint32(i.Next()))<<32|uint64(uint32(i.Imm())))
}

func (n Names) jump(i Instruction) string {
	code, half := i.Code(), i.Code()&0x07 == jmp32
	op, how := code&0xf0, jmpOps[code>>4]
	switch {
	case op == call && half, op == exit && half:
		return ""
	case op == call:
		return n.call(i)
	case op == exit:
		return "exit"
	case op == ja && code&srcX != 0:
		return fmt.Sprintf("gotox r%d", i.Dst())
	case op == ja && half:
		return fmt.Sprintf("gotol pc%+d", i.Imm())
	case op == ja:
		return fmt.Sprintf("goto pc%+d", i.Off())
	case op == jcond && !half && i.Src() == 0:
		return fmt.Sprintf("may_goto pc%+d", i.Off())
	case how == "":
		return ""
	case code&srcX != 0:
		return fmt.Sprintf("if %s %s %s goto pc%+d", register(i.Dst(), half), how, register(i.Src(), half), i.Off())
	}
	return fmt.Sprintf("if %s %s 0x%x goto pc%+d", register(i.Dst(), half), how, uint32(i.Imm()), i.Off())
}

// call names the function that is called. What the verifier leaves is, for a
// function of the program, the distance and the function's number; else the
// distance of the helper or kernel function from __bpf_call_base.
func (n Names) call(i Instruction) string {
	if i.Src() == pseudoCall {
		at := int64(i.Imm())
		if len(n.Functions) == 0 { // interpreted
			return fmt.Sprintf("call pc%+d", i.Off())
		}
		address := n.Symbols.Base() + uint64(at)
		if at >= 0 && at < int64(len(n.Functions)) {
			address = n.Functions[at]
		}
		return fmt.Sprintf("call pc%+d#%s", i.Off(), n.Symbols.Name(address))
	}
	// A helper of whom only the number is known: in objects, or where the
	// kernel hides addresses.
	if name := Helper(i.Imm()); name != "" {
		return fmt.Sprintf("call %s#%d", name, i.Imm())
	}
	return fmt.Sprintf("call %s#%d", n.Symbols.Name(n.Symbols.Base()+uint64(int64(i.Imm()))), i.Imm())
}

// Helper is the name of a helper by its number, "" when there is none.
func Helper(number int32) string {
	name, ok := strings.CutPrefix(asm.BuiltinFunc(number).String(), "Fn")
	if !ok {
		return ""
	}
	return snake("bpf", name)
}

// snake writes CamelCase with underscores behind a first word.
func snake(first, camel string) string {
	b := []byte(first)
	for i := range len(camel) {
		c := camel[i]
		if 'A' <= c && c <= 'Z' {
			b = append(b, '_')
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return string(b)
}

func hex(raw []byte) string { return fmt.Sprintf("% x", raw) }
