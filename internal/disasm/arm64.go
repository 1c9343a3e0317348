package disasm

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/arch/arm64/arm64asm"

	"l3af/internal/kallsyms"
)

// ARM64 reads a function of arm64 that begins at an address, as [X86] does.
func ARM64(code []byte, address uint64, symbols *kallsyms.Symbols) []Native {
	var list []Native
	for pc := 0; pc < len(code); pc += 4 {
		if len(code)-pc < 4 {
			return append(list, Native{pc, code[pc:], Bad, nil})
		}
		list = append(list, arm64(code[pc:pc+4:pc+4], pc, address, len(code), symbols))
	}
	return list
}

func arm64(code []byte, pc int, address uint64, size int, symbols *kallsyms.Symbols) Native {
	n := Native{PC: pc, Raw: code}
	ins, err := arm64asm.Decode(code)
	if err != nil {
		n.Operation, n.Operands = lse(binary.LittleEndian.Uint32(code))
		return n
	}
	n.Operation, n.Operands = words(arm64asm.GNUSyntax(ins))
	if n.Operation == "hint" {
		if name, ok := hints[n.Operands[0]]; ok {
			n.Operation, n.Operands = words(name)
		}
		return n
	}
	for i, arg := range ins.Args {
		if rel, ok := arg.(arm64asm.PCRel); ok && len(n.Operands) > 0 {
			// A condition is part of the operation's name.
			i = min(i, len(n.Operands)-1)
			n.Operands[i] = target(int64(pc)+int64(rel), address, size, symbols)
		}
	}
	return n
}

// hints are what kernels put at the beginning and end of functions: markers of
// where jumps may lead, and signatures of return addresses (Arm ARM, C6.2, HINT).
var hints = map[string]string{
	"#0x7": "xpaclri", "#0x19": "paciasp", "#0x1b": "pacibsp", "#0x1d": "autiasp", "#0x1f": "autibsp",
	"#0x20": "bti", "#0x22": "bti c", "#0x24": "bti j", "#0x26": "bti jc",
}

// lse reads the atomics of Armv8.1, which the library does not know, and the
// barrier against speculation of Armv8.5.
func lse(code uint32) (string, []string) {
	size, rn, rs, rt := code>>30, code>>5&0x1f, code>>16&0x1f, code&0x1f
	name, order := "", [2]bool{} // acquire, release
	switch {
	case code == 0xd50330ff:
		return "sb", nil
	case code&0x3f208c00 == 0x38200000: // LDADD, LDCLR, LDEOR, LDSET
		name, order = [8]string{"ldadd", "ldclr", "ldeor", "ldset", "ldsmax", "ldsmin", "ldumax", "ldumin"}[code>>12&0x07], [2]bool{code>>23&1 == 1, code>>22&1 == 1}
	case code&0x3f20fc00 == 0x38208000:
		name, order = "swp", [2]bool{code>>23&1 == 1, code>>22&1 == 1}
	case code&0x3fa07c00 == 0x08a07c00:
		name, order = "cas", [2]bool{code>>22&1 == 1, code>>15&1 == 1}
	default:
		return Bad, nil
	}
	store := rt == 31 && !order[0] && strings.HasPrefix(name, "ld") // the old value is not wanted
	if store {
		name = "st" + name[2:]
	}
	for i, letter := range []string{"a", "l"} {
		if order[i] {
			name += letter
		}
	}
	wide := "w"
	switch size {
	case 0:
		name += "b"
	case 1:
		name += "h"
	case 3:
		wide = "x"
	}
	operands := []string{armRegister(wide, rs)}
	if !store {
		operands = append(operands, armRegister(wide, rt))
	}
	base := armRegister("x", rn)
	if rn == 31 {
		base = "sp"
	}
	return name, append(operands, "["+base+"]")
}

func armRegister(wide string, n uint32) string {
	if n == 31 {
		return wide + "zr"
	}
	return fmt.Sprintf("%s%d", wide, n)
}
