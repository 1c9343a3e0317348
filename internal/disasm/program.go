package disasm

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af/internal/bpfsys"
	"l3af/internal/kallsyms"
)

// Program is the code of a program in the kernel, and what is known about it.
type Program struct {
	Info         bpfsys.ProgInfo // without the parts that pointers lead to
	Instructions []Instruction
	Functions    []Function // in the order of the code, the entry first
	Lines        []Line     // in the order of the code; none without BTF

	addresses map[uint64]int // index in Lines by address
}

// Function is one function of a program.
type Function struct {
	Offset  int       // of its first instruction
	Func    *btf.Func // nil without BTF
	Address uint64    // of its machine code, 0 where hidden
	Size    int       // of its machine code in bytes, 0 where there is none
	Code    []byte    // its machine code; nil where hidden
}

// Line is a line of source that an instruction begins.
type Line struct {
	Offset  int    // of the instruction
	Address uint64 // of its machine code, 0 where hidden
	*btf.Line
}

// ErrHidden is bytecode or machine code that the kernel does not give out.
var ErrHidden = errors.New("the kernel does not give out the code (kernel.kptr_restrict, net.core.bpf_jit_harden, or no CAP_SYSLOG)")

// ErrNotCompiled is an interpreted program, which has no machine code.
var ErrNotCompiled = errors.New("it was not compiled (net.core.bpf_jit_enable)")

// Read reads the code of a program.
func Read(p *ebpf.Program) (*Program, error) {
	r := &Program{}
	if err := bpfsys.Info(p, &r.Info); err != nil {
		return nil, fmt.Errorf("read code: %w", err)
	}
	code := make([]byte, r.Info.XlatedLen)
	again := bpfsys.ProgInfo{XlatedLen: r.Info.XlatedLen, Xlated: bpfsys.PointerTo(code)}
	if err := bpfsys.Info(p, &again); err != nil {
		return nil, fmt.Errorf("read code: %w", err)
	}
	// Constants that were blinded are not shown to everybody.
	if again.Xlated == (bpfsys.Pointer{}) && len(code) > 0 {
		return nil, fmt.Errorf("read code: %w", ErrHidden)
	}
	r.Instructions = Split(code)
	info, err := p.Info()
	if err != nil {
		return nil, fmt.Errorf("read code: %w", err)
	}
	if err := r.readFunctions(info); err != nil {
		return nil, err
	}
	r.readMachineCode(info)
	return r, nil
}

func (r *Program) readFunctions(info *ebpf.ProgramInfo) error {
	funcs, err := info.FuncInfos()
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("read functions: %w", err)
	}
	for _, f := range funcs {
		r.Functions = append(r.Functions, Function{Offset: int(f.Offset), Func: f.Func})
	}
	if len(funcs) == 0 {
		for _, at := range Starts(r.Instructions) {
			r.Functions = append(r.Functions, Function{Offset: at})
		}
	}
	lines, err := info.LineInfos()
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("read source lines: %w", err)
	}
	for _, l := range lines {
		r.Lines = append(r.Lines, Line{Offset: int(l.Offset), Line: l.Line})
	}
	return nil
}

// readMachineCode adds the machine code to functions and lines, as far as the
// kernel gives it.
func (r *Program) readMachineCode(info *ebpf.ProgramInfo) {
	sizes, _ := info.JitedFuncLens()
	addresses, _ := info.JitedKsymAddrs()
	code, _ := info.JitedInsns()
	if len(sizes) != len(r.Functions) {
		// Without BTF, functions that only callbacks lead to are found by nothing else.
		functions := make([]Function, len(sizes))
		copy(functions, r.Functions)
		if len(sizes) > 0 {
			r.Functions = functions
		}
	}
	for i, n := range sizes {
		f := &r.Functions[i]
		f.Size = int(n)
		if i < len(addresses) {
			f.Address = uint64(addresses[i])
		}
		if len(code) >= f.Size {
			f.Code, code = code[:f.Size:f.Size], code[f.Size:]
		}
		// All zero where the kernel hides it.
		if !slices.ContainsFunc(f.Code, func(b byte) bool { return b != 0 }) {
			f.Code = nil
		}
	}
	if at, ok := info.JitedLineInfos(); ok && len(at) == len(r.Lines) {
		r.addresses = make(map[uint64]int, len(at))
		for i, address := range at {
			if r.Lines[i].Address = address; address != 0 {
				r.addresses[address] = i
			}
		}
	}
}

// Compiled says why there is no machine code, nil when there is.
func (r *Program) Compiled() error {
	if r.Info.JitedLen == 0 {
		return ErrNotCompiled
	}
	if len(r.Functions) == 0 || r.Functions[0].Code == nil {
		return ErrHidden
	}
	return nil
}

// Names resolves what the program's instructions refer to.
func (r *Program) Names(symbols *kallsyms.Symbols) Names {
	n := Names{Symbols: symbols}
	for _, f := range r.Functions {
		if f.Address != 0 {
			n.Functions = append(n.Functions, f.Address)
		}
	}
	return n
}

// LineAt is the line that begins at an instruction, nil when none does.
func (r *Program) LineAt(offset int) *btf.Line {
	i := sort.Search(len(r.Lines), func(i int) bool { return r.Lines[i].Offset >= offset })
	if i < len(r.Lines) && r.Lines[i].Offset == offset {
		return r.Lines[i].Line
	}
	return nil
}

// LineOf is the line that begins at an address of the machine code: of those
// that begin there the last, since of the others no code is left. nil when
// none does.
func (r *Program) LineOf(address uint64) *btf.Line {
	if i, ok := r.addresses[address]; ok {
		return r.Lines[i].Line
	}
	return nil
}

// Function is the function that an offset is in.
func (r *Program) Function(offset int) *Function {
	i := sort.Search(len(r.Functions), func(i int) bool { return r.Functions[i].Offset > offset })
	if i == 0 {
		return nil
	}
	return &r.Functions[i-1]
}
