package inspect

import "l3af/internal/kallsyms"

// endbr is the size of the instruction that a probed function may begin with
// on x86 with indirect branch tracking; the kernel tells the address behind it.
const endbr = 4

// probed is the function of the kernel that is probed at an address. Where
// /proc/kallsyms does not have it, or hides it, it has no name.
func probed(symbols *kallsyms.Symbols, address uint64) kallsyms.Symbol {
	if s, ok := symbols.At(address); ok && address != 0 {
		return s
	}
	if s, ok := symbols.At(address - endbr); ok && address != 0 {
		return s
	}
	return kallsyms.Symbol{}
}
