package disasm

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/arch/x86/x86asm"

	"l3af/internal/kallsyms"
)

// Native is one machine instruction.
type Native struct {
	PC        int      // from the beginning of the function, in bytes
	Raw       []byte   // its code
	Operation string   // with its prefixes; "(bad)" where it is unknown
	Operands  []string // as GNU's assembler writes them; none is nil
}

func (n Native) String() string {
	return strings.TrimSpace(n.Operation + " " + strings.Join(n.Operands, ","))
}

// Bad is the Operation of bytes that are no instruction.
const Bad = "(bad)"

// Machine reads the code of one kind of machine.
type Machine func(code []byte, address uint64, symbols *kallsyms.Symbols) []Native

// ThisMachine reads the code of the machine the program runs on; nil where
// there is no reader for it.
func ThisMachine() Machine {
	switch runtime.GOARCH {
	case "amd64":
		return X86
	case "arm64":
		return ARM64
	}
	return nil
}

// X86 reads a function of x86-64 that begins at an address. Targets of jumps
// and calls are symbols, or distances from the function's beginning.
func X86(code []byte, address uint64, symbols *kallsyms.Symbols) []Native {
	var list []Native
	for pc := 0; pc < len(code); {
		n := x86(code[pc:], pc, address, len(code), symbols)
		list = append(list, n)
		pc += len(n.Raw)
	}
	return list
}

func x86(code []byte, pc int, address uint64, size int, symbols *kallsyms.Symbols) Native {
	// Of the CET extension, a marker of where indirect jumps may lead. The
	// library takes it for a prefix.
	if len(code) >= 4 && code[0] == 0xf3 && code[1] == 0x0f && code[2] == 0x1e && code[3]&^1 == 0xfa {
		return Native{pc, code[:4], "endbr" + map[byte]string{0xfa: "64", 0xfb: "32"}[code[3]], nil}
	}
	ins, err := x86asm.Decode(code, 64)
	if err != nil || ins.Len == 0 || ins.Len > len(code) {
		return Native{pc, code[:1], Bad, nil}
	}
	if rel, ok := ins.Args[0].(x86asm.Rel); ok {
		to := int64(pc) + int64(ins.Len) + int64(rel)
		return Native{pc, code[:ins.Len], strings.ToLower(ins.Op.String()), []string{target(to, address, size, symbols)}}
	}
	text := x86asm.GNUSyntax(ins, address+uint64(pc), func(a uint64) (string, uint64) {
		s, offset := symbols.In(a)
		return s.Name, a - offset
	})
	n := Native{PC: pc, Raw: code[:ins.Len]}
	n.Operation, n.Operands = words(text)
	return n
}

// target is where a jump or call leads: within the function, to a symbol, or
// to an address.
func target(to int64, address uint64, size int, symbols *kallsyms.Symbols) string {
	if to >= 0 && to < int64(size) {
		return "0x" + strconv.FormatInt(to, 16)
	}
	at := address + uint64(to)
	if s, offset := symbols.In(at); s.Name != "" && offset > 0 {
		return fmt.Sprintf("%s+0x%x", s.Name, offset)
	}
	return symbols.Name(at)
}

// words takes a line of assembler apart. Prefixes and the operation have no
// commas, operands may have them in brackets.
func words(text string) (operation string, operands []string) {
	text = strings.TrimSpace(text)
	fields := strings.Fields(text)
	n := 0
	for n < len(fields) && n < 4 && prefixes[fields[n]] {
		n++
	}
	if n == len(fields) {
		return text, nil
	}
	operation = strings.Join(fields[:n+1], " ")
	rest := text
	for _, f := range fields[:n+1] {
		rest = strings.TrimSpace(strings.TrimPrefix(rest, f))
	}
	depth, from := 0, 0
	for i := range len(rest) {
		switch rest[i] {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth--
		case ',':
			if depth == 0 {
				operands = append(operands, strings.TrimSpace(rest[from:i]))
				from = i + 1
			}
		}
	}
	if rest != "" {
		operands = append(operands, strings.TrimSpace(rest[from:]))
	}
	return operation, operands
}

var prefixes = map[string]bool{
	"lock": true, "rep": true, "repz": true, "repnz": true, "repn": true, "bnd": true, "notrack": true,
	"xacquire": true, "xrelease": true, "data16": true, "addr32": true,
	"cs": true, "ds": true, "es": true, "fs": true, "gs": true, "ss": true,
}
