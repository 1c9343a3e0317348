// Package kallsyms names the kernel's functions and variables by their addresses.
package kallsyms

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Symbols are the kernel's symbols by address. A nil one is empty.
type Symbols struct {
	base uint64   // of calls
	list []Symbol // by address, of one address in the file's order
}

// Symbol is one of them.
type Symbol struct {
	Address uint64
	Name    string
	Module  string // "" for the kernel itself; bpf for programs
}

// ErrHidden says why addresses are not known.
var ErrHidden = errors.New("the kernel hides addresses (kernel.kptr_restrict, or no CAP_SYSLOG)")

// Read reads /proc/kallsyms as it is now: programs come and go. Where the kernel
// hides addresses there are no symbols, and no error.
func Read() (*Symbols, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := Parse(f)
	if errors.Is(err, ErrHidden) {
		return s, nil
	}
	return s, err
}

// Parse reads lines as of /proc/kallsyms: address in hex digits, type, name,
// [module].
func Parse(r io.Reader) (*Symbols, error) {
	all, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	text := string(all)
	s := &Symbols{list: make([]Symbol, 0, strings.Count(text, "\n"))}
	hidden := false
	for line := range strings.Lines(text) {
		address, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || len(rest) < 3 || rest[1] != ' ' {
			continue
		}
		at, err := strconv.ParseUint(address, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("kernel symbols: %q: %w", line, err)
		}
		if at == 0 {
			hidden = true
			continue
		}
		name, module := rest[2:], ""
		if i := strings.IndexAny(name, " \t"); i >= 0 {
			name, module = name[:i], strings.Trim(name[i:], " \t[]")
		}
		s.list = append(s.list, Symbol{at, name, module})
		if name == "__bpf_call_base" {
			s.base = at
		}
	}
	slices.SortStableFunc(s.list, func(a, b Symbol) int { return cmp.Compare(a.Address, b.Address) })
	// Variables of CPUs are at 0 and above, whether hidden or not.
	if hidden && s.base == 0 {
		return &Symbols{}, ErrHidden
	}
	return s, nil
}

// Base is the address that calls of helpers count from (__bpf_call_base), 0
// where it is not known.
func (s *Symbols) Base() uint64 {
	if s == nil {
		return 0
	}
	return s.base
}

// At is what begins at an address; where that has several names, the first.
func (s *Symbols) At(address uint64) (Symbol, bool) {
	symbol, offset := s.In(address)
	return symbol, symbol.Name != "" && offset == 0
}

// maxSize is how far behind its beginning something is still taken to be part
// of a symbol: sizes are not told, and after the last comes nothing.
const maxSize = 1 << 20

// In is what an address is in, and how far; without a name where nothing is known.
func (s *Symbols) In(address uint64) (symbol Symbol, offset uint64) {
	if s == nil {
		return Symbol{}, 0
	}
	find := func(list []Symbol, a uint64) (int, bool) {
		return slices.BinarySearchFunc(list, a, func(s Symbol, a uint64) int { return cmp.Compare(s.Address, a) })
	}
	i, exact := find(s.list, address)
	if exact {
		return s.list[i], 0
	}
	if i == 0 || address-s.list[i-1].Address > maxSize {
		return Symbol{}, 0
	}
	// The first of those that share the address.
	first, _ := find(s.list[:i], s.list[i-1].Address)
	return s.list[first], address - s.list[first].Address
}

// Name is the name at an address, or the address in hex digits.
func (s *Symbols) Name(address uint64) string {
	if symbol, ok := s.At(address); ok {
		return symbol.Name
	}
	return "0x" + strconv.FormatUint(address, 16)
}
