package bind

import (
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
)

// refer makes the program refer to the maps of its object that it does not use:
// with pinPath they are there for other processes. At TC it is those that are
// pinned by name: both directions may have one directory, and maps of one name
// that are not the same would be in each other's way. What refers to them is skipped by a condition that the verifier sees through,
// so that it never runs; the kernel takes it out of the code, and keeps the maps.
func (b *binder) refer() {
	var loads asm.Instructions
	for _, name := range names(b.spec.Maps) {
		if m := b.spec.Maps[name]; isSection(name) || !findable(m.Type) || b.kind != l3af.XDP && m.Pinning != ebpf.PinByName || b.uses(name) {
			continue
		}
		loads = append(loads, asm.LoadMapPtr(asm.R0, 0).WithReference(name))
	}
	if len(loads) == 0 || len(b.prog.Instructions) == 0 {
		return
	}
	skip := asm.JEq.Imm32(asm.R0, 0, "")
	skip.Offset = int16(2 * len(loads))
	// What the first instruction says of the function moves before it.
	code := slices.Clone(b.prog.Instructions)
	first := asm.Mov.Imm32(asm.R0, 0).WithSymbol(code[0].Symbol()).WithSource(code[0].Source())
	if types := btf.FuncMetadata(&code[0]); types != nil {
		first = btf.WithFuncMetadata(first, types)
	}
	code[0] = btf.WithFuncMetadata(code[0].WithSymbol(""), nil)
	mine := *b.prog
	mine.Instructions = slices.Concat(asm.Instructions{first, skip}, loads, code)
	b.prog = &mine
	b.spec.Programs[b.entry] = b.prog // a copy of the object's, see own
	b.used = nil
}

// findable reports whether a program may refer to a map that it does not use,
// and others can use it. Arrays of programs are the chain's matter.
func findable(t ebpf.MapType) bool {
	return !slices.Contains([]ebpf.MapType{ebpf.ProgramArray, ebpf.StructOpsMap, ebpf.CGroupStorage, ebpf.PerCPUCGroupStorage, ebpf.Arena}, t)
}
