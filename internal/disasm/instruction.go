// Package disasm reads the code of programs in the kernel: bytecode as the
// verifier left it, in the kernel's own notation, the machine code that became
// of it, and what stands behind both: source lines, functions, symbols.
package disasm

import "encoding/binary"

// Size is that of an instruction in bytes, and the unit of offsets and jumps.
const Size = 8

// Instruction is one instruction of a program as the kernel has it. Nothing of
// it is interpreted: what the verifier writes for itself has no meaning elsewhere.
type Instruction struct {
	Offset int // from the program's first instruction, in units of [Size]
	// Raw is the code in the byte order of this machine: 8 bytes, or the 16 of
	// a load of 64 bits. A load that the end cuts short has 8.
	Raw []byte
}

// Split cuts code into instructions. Bytes behind the last whole one are left out.
func Split(code []byte) []Instruction {
	list := make([]Instruction, 0, len(code)/Size)
	for at := 0; at+Size <= len(code); {
		n := Size
		if code[at] == loadImm64 && at+2*Size <= len(code) {
			n = 2 * Size
		}
		list = append(list, Instruction{at / Size, code[at : at+n : at+n]})
		at += n
	}
	return list
}

// Code is the byte that says what is done.
func (i Instruction) Code() byte { return i.Raw[0] }

// Dst and Src are the numbers of registers.
func (i Instruction) Dst() int { d, _ := i.registers(); return d }
func (i Instruction) Src() int { _, s := i.registers(); return s }

// registers takes apart a byte of bit fields, whose order is that of the machine's bytes.
func (i Instruction) registers() (dst, src int) {
	low, high := int(i.Raw[1]&0xf), int(i.Raw[1]>>4)
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return low, high
	}
	return high, low
}

// Off is the offset, in bytes of memory or in units of [Size] of a jump.
func (i Instruction) Off() int16 { return int16(binary.NativeEndian.Uint16(i.Raw[2:])) }

// Imm is the constant.
func (i Instruction) Imm() int32 { return int32(binary.NativeEndian.Uint32(i.Raw[4:])) }

// Next is the second constant of a load of 64 bits, else 0.
func (i Instruction) Next() int32 {
	if len(i.Raw) < 2*Size {
		return 0
	}
	return int32(binary.NativeEndian.Uint32(i.Raw[Size+4:]))
}

// Width is the length in units of [Size].
func (i Instruction) Width() int { return len(i.Raw) / Size }

// flow is what an instruction does to the flow of control within its function.
type flow int

const (
	onward flow = iota // the next instruction is next
	branch             // perhaps, to the target
	always             // to the target
	leave              // out of the function
)

// flow gives also where it may lead: an offset as Offset is.
func (i Instruction) flow() (flow, int) {
	to := i.Offset + 1 + int(i.Off())
	switch class, op := i.Code()&0x07, i.Code()&0xf0; {
	case class != jmp && class != jmp32 || op == call:
		return onward, 0
	case op == exit:
		return leave, 0
	case op == ja && i.Code()&srcX != 0: // to an address in a register
		return leave, 0
	case op == ja && class == jmp32:
		return always, i.Offset + 1 + int(i.Imm())
	case op == ja:
		return always, to
	}
	return branch, to
}
