package chain

import (
	"reflect"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// KconfigName is the name of the map that holds a program's extern __kconfig
// variables. Its spec has no contents: they are what the running kernel says,
// by the data section that is the spec's Value.
const KconfigName = ".kconfig"

// flagReadOnlyProg is BPF_F_RDONLY_PROG.
const flagReadOnlyProg = 1 << 7

// resolveKconfig makes a read of the kernel's configuration what it will be in
// the kernel: the load of an address in the section .kconfig. Which variable it
// reads, the library tells nobody but itself; ok is false where it says nothing.
func (p *part) resolveKconfig(ins *asm.Instruction) (ok bool) {
	if ins.Reference() != "" || ins.Src != asm.PseudoMapValue || ins.Map() != nil {
		return false
	}
	offset, ok := kconfigOffset(ins)
	if !ok {
		return false
	}
	was := *ins
	*ins = asm.Instruction{OpCode: was.OpCode, Dst: was.Dst, Src: was.Src, Constant: int64(uint64(offset) << 32)}
	if s := was.Source(); s != nil {
		*ins = ins.WithSource(s)
	}
	*ins = ins.WithSymbol(was.Symbol()).WithReference(KconfigName)
	return true
}

// kconfigOffset finds the offset in the metadata that the library's ELF reader
// leaves at an instruction (kconfigMeta in its elf_reader.go).
func kconfigOffset(ins *asm.Instruction) (uint64, bool) {
	for e := reflect.ValueOf(ins.Metadata).FieldByName("head"); e.Kind() == reflect.Pointer && !e.IsNil(); {
		value := e.Elem().FieldByName("value")
		if !value.IsValid() || value.Kind() != reflect.Interface {
			return 0, false
		}
		if m := value.Elem(); m.Kind() == reflect.Pointer && m.Type().Elem().Name() == "kconfigMeta" {
			offset := m.Elem().FieldByName("Offset")
			if !offset.IsValid() || !offset.CanUint() {
				return 0, false
			}
			return offset.Uint(), true
		}
		e = e.Elem().FieldByName("next")
	}
	return 0, false
}

// kconfigSpec makes the map that holds the configuration; nil if the object has none.
func kconfigSpec(spec *ebpf.CollectionSpec) *ebpf.MapSpec {
	var section *btf.Datasec
	if spec.Types == nil || spec.Types.TypeByName(KconfigName, &section) != nil {
		return nil
	}
	return &ebpf.MapSpec{
		Name: KconfigName, Type: ebpf.Array, KeySize: 4, ValueSize: section.Size, MaxEntries: 1, Flags: flagReadOnlyProg,
		Key: &btf.Int{Name: "unsigned int", Size: 4}, Value: section,
	}
}
