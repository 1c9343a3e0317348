package rawbtf

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
)

// ReadFile reads the types of a file: BTF as it is, or the .BTF section of an
// ELF object.
func ReadFile(path string, base *Spec) (*Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		s, err := Parse(data, base)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return s, nil
	}
	if data, err = section(data); err == nil {
		var s *Spec
		if s, err = Parse(data, base); err == nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

// section is the .BTF section of an ELF file.
func section(data []byte) (btf []byte, err error) {
	// The standard library's reader is not made for damaged files.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read ELF: %v", p)
		}
	}()
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read ELF: %w", err)
	}
	defer f.Close()
	s := f.Section(".BTF")
	if s == nil {
		return nil, fmt.Errorf("%w in it: the section .BTF is missing", ErrNoBTF)
	}
	return s.Data()
}
