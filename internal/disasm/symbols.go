package disasm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
)

// Symbols are the kernel's functions and variables by address. A nil one is
// empty.
type Symbols struct {
	base uint64   // of calls
	list []symbol // by address, of one address in the file's order
}

type symbol struct {
	address uint64
	name    string
}

// errHidden says why addresses are not known.
var errHidden = errors.New("the kernel hides addresses (kernel.kptr_restrict, or no CAP_SYSLOG)")

// KernelSymbols reads /proc/kallsyms as it is now: programs come and go. Where
// the kernel hides addresses there are no symbols, and no error.
func KernelSymbols() (*Symbols, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := ReadSymbols(f)
	if errors.Is(err, errHidden) {
		return s, nil
	}
	return s, err
}

// ReadSymbols reads lines as of /proc/kallsyms: address in hex digits, type,
// name, module.
func ReadSymbols(r io.Reader) (*Symbols, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	s := &Symbols{list: make([]symbol, 0, bytes.Count(text, []byte("\n")))}
	hidden := false
	for line := range bytes.Lines(text) {
		address, rest, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		if !ok || len(rest) < 3 || rest[1] != ' ' {
			continue
		}
		at, err := strconv.ParseUint(string(address), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("kernel symbols: %q: %w", line, err)
		}
		if at == 0 {
			hidden = true
			continue
		}
		name, _, _ := bytes.Cut(rest[2:], []byte("\t"))
		s.list = append(s.list, symbol{at, string(name)})
		if string(name) == "__bpf_call_base" {
			s.base = at
		}
	}
	slices.SortStableFunc(s.list, func(a, b symbol) int { return cmp.Compare(a.address, b.address) })
	// Variables of CPUs are at 0 and above, whether hidden or not.
	if hidden && s.base == 0 {
		return &Symbols{}, errHidden
	}
	return s, nil
}

// Base is the address that calls of helpers count from, 0 where it is not known.
func (s *Symbols) Base() uint64 {
	if s == nil {
		return 0
	}
	return s.base
}

// At is the name of what begins at an address; where that has several, the first.
func (s *Symbols) At(address uint64) (string, bool) {
	name, offset := s.In(address)
	return name, name != "" && offset == 0
}

// maxSymbol is how far behind its beginning something is still taken to be part
// of a symbol: sizes are not told, and after the last comes nothing.
const maxSymbol = 1 << 20

// In is the name of what an address is in, and how far; "" where nothing is known.
func (s *Symbols) In(address uint64) (name string, offset uint64) {
	if s == nil {
		return "", 0
	}
	i, exact := slices.BinarySearchFunc(s.list, address, func(s symbol, a uint64) int { return cmp.Compare(s.address, a) })
	if exact {
		return s.list[i].name, 0
	}
	if i == 0 || address-s.list[i-1].address > maxSymbol {
		return "", 0
	}
	// The first of those that share the address.
	first, _ := slices.BinarySearchFunc(s.list[:i], s.list[i-1].address, func(s symbol, a uint64) int { return cmp.Compare(s.address, a) })
	return s.list[first].name, address - s.list[first].address
}

// nameOr is the name at an address, or the address.
func (s *Symbols) nameOr(address uint64) string {
	if name, ok := s.At(address); ok {
		return name
	}
	return "0x" + strconv.FormatUint(address, 16)
}
