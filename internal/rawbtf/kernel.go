package rawbtf

import (
	"fmt"

	"l3af/internal/bpfsys"
)

// FromKernel reads the BTF object of an id, and what it builds on where it is
// that of a module.
func FromKernel(id uint32) (*Spec, error) {
	o, err := bpfsys.ByID(bpfsys.BTF, id, 0)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	var info bpfsys.BTFInfo
	if err := bpfsys.Info(o, &info); err != nil {
		return nil, fmt.Errorf("BTF %d: %w", id, err)
	}
	data, name := make([]byte, info.Size), make([]byte, 64) // MODULE_NAME_LEN
	info = bpfsys.BTFInfo{BTF: bpfsys.PointerTo(data), Size: info.Size, Name: bpfsys.PointerTo(name), NameLen: uint32(len(name))}
	if err := bpfsys.Info(o, &info); err != nil {
		return nil, fmt.Errorf("BTF %d: %w", id, err)
	}
	var base *Spec
	if info.KernelBTF != 0 && bpfsys.Text(name) != "vmlinux" {
		if base, err = Vmlinux(); err != nil {
			return nil, err
		}
	}
	s, err := Parse(data, base)
	if err != nil {
		return nil, fmt.Errorf("BTF %d: %w", id, err)
	}
	return s, nil
}

// Vmlinux reads the types of the running kernel, without those of modules.
func Vmlinux() (*Spec, error) { return ReadFile("/sys/kernel/btf/vmlinux", nil) }
