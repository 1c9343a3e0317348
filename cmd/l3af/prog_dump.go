package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af/internal/disasm"
	"l3af/internal/inspect"
	"l3af/internal/kallsyms"
)

var progDumpVerbs = []verb{{
	name: "dump", args: "xlated|jited PROG [file FILE | opcodes | linum | visual]",
	short: "Print the code of programs",
	long: `Dump prints the code of programs: xlated, the bytecode as the verifier left it, or
jited, the machine code that became of it, with lines of source and prototypes where
the object had them. PROG is ` + progSelection.usage() + `.

In a chain of ours every program's code begins below a line with its name; in JSON
"program" says whose an instruction is. "offset" counts in units of 8 bytes.

  file FILE   write the code as it is, nothing is printed
  opcodes     also print the bytes of each instruction
  linum       also print the file and line of each line of source
  visual      of xlated: the flow of control in the language DOT, for Graphviz`,
	example: `  l3af prog dump xlated id 42
  l3af prog dump jited name acl opcodes
  l3af prog dump xlated pinned /sys/fs/bpf/acl visual | dot -Tsvg -o acl.svg`,
	run: (*call).progDump,
}}

// dumpOptions say how code is dumped.
type dumpOptions struct {
	jited, opcodes, linum, visual bool
	file                          string
}

func (c *call) progDump() error {
	var o dumpOptions
	switch {
	case c.take("xlated"):
	case c.take("jited"):
		o.jited = true
	default:
		return &usageError{"no kind of code", "there is xlated and jited"}
	}
	progs, err := c.selectPrograms()
	if err != nil {
		return err
	}
	defer closeAll(progs)
	if err := c.dumpOptions(&o); err != nil {
		return err
	}
	switch {
	case len(progs) > 1 && (o.file != "" || o.visual):
		return &usageError{fmt.Sprintf("%d programs are meant", len(progs)), "file and visual take one: name it by its id"}
	case o.visual && (c.opts.asJSON(c.app) || o.jited):
		return &usageError{what: "visual is for xlated code, and is not JSON"}
	}
	dumps := make([]*dump, len(progs))
	for i, p := range progs {
		if dumps[i], err = newDump(p, o); err != nil {
			return err
		}
	}
	switch {
	case o.file != "":
		if err := os.WriteFile(o.file, dumps[0].raw(), 0o600); err != nil {
			return fmt.Errorf("dump: %w", err)
		}
		return c.done()
	case o.visual:
		return dumps[0].draw(printable{c.out})
	}
	people := func(w io.Writer) error {
		var b bytes.Buffer
		for i, d := range dumps {
			if len(dumps) > 1 {
				if i > 0 {
					b.WriteString("\n")
				}
				printProgramHead(&b, d.head)
			}
			d.print(&b)
		}
		_, err := w.Write(b.Bytes())
		return err
	}
	if len(dumps) == 1 {
		return c.answer(dumps[0].code(), people)
	}
	list := make([]dumpedProgram, len(dumps))
	for i, d := range dumps {
		list[i] = dumpedProgram{newProgramHead(d.head), d.code()}
	}
	return c.answer(list, people)
}

func (c *call) dumpOptions(o *dumpOptions) error {
	for len(c.words) > 0 {
		switch {
		case c.take("file"):
			file, err := c.next("file")
			if err != nil {
				return err
			}
			o.file = file
		case c.take("opcodes"):
			o.opcodes = true
		case c.take("linum"):
			o.linum = true
		case c.take("visual"):
			o.visual = true
		default:
			return &usageError{fmt.Sprintf("unknown word %q", c.peek()), "there is file, opcodes, linum and visual"}
		}
	}
	if o.file != "" && (o.opcodes || o.linum || o.visual) {
		return &usageError{what: "file takes nothing else: the code is written as it is"}
	}
	return nil
}

// dumpedProgram is one of several.
type dumpedProgram struct {
	programHead
	Insns any `json:"insns"`
}

// programHead is what stands before the code of one of several programs.
type programHead struct {
	ID              uint32           `json:"id"`
	Type            inspect.TypeName `json:"type"`
	Name            string           `json:"name,omitempty"`
	Tag             string           `json:"tag"`
	GPLCompatible   bool             `json:"gpl_compatible"`
	RunTimeNS       uint64           `json:"run_time_ns,omitempty"`
	RunCount        uint64           `json:"run_cnt,omitempty"`
	RecursionMisses uint64           `json:"recursion_misses,omitempty"`
}

func newProgramHead(p *inspect.Program) programHead {
	return programHead{p.ID, p.Type, p.Name, p.Tag, p.GPLCompatible, p.RunTimeNS, p.RunCount, p.RecursionMisses}
}

// dump is the code of one program, to be shown.
type dump struct {
	dumpOptions
	head   *inspect.Program
	prog   *disasm.Program
	names  disasm.Names
	syms   *kallsyms.Symbols
	owners *disasm.Owners
}

func newDump(p *ebpf.Program, o dumpOptions) (*dump, error) {
	d := &dump{dumpOptions: o}
	var err error
	if d.prog, err = disasm.Read(p); err != nil {
		return nil, err
	}
	list, err := inspect.Programs(inspect.Selector{By: inspect.ID, ID: d.prog.Info.ID}, inspect.Options{})
	if err != nil {
		return nil, err
	}
	d.head = &list[0]
	if o.jited {
		if err := d.prog.Compiled(); err != nil {
			return nil, fmt.Errorf("machine code of program %d: %w", d.head.ID, err)
		}
		if disasm.ThisMachine() == nil && o.file == "" {
			return nil, &hinted{errors.New("the code of this kind of machine cannot be read"), "file FILE writes it"}
		}
	}
	if d.syms, err = kallsyms.Read(); err != nil {
		return nil, fmt.Errorf("read kernel symbols: %w", err)
	}
	d.names = d.prog.Names(d.syms)
	d.owners = disasm.OwnersOf(d.prog)
	return d, nil
}

func (d *dump) raw() []byte {
	var b []byte
	if d.jited {
		for _, f := range d.prog.Functions {
			b = append(b, f.Code...)
		}
		return b
	}
	for _, i := range d.prog.Instructions {
		b = append(b, i.Raw...)
	}
	return b
}

func (d *dump) code() any {
	if d.jited {
		return d.machineCode()
	}
	return d.bytecode()
}

func (d *dump) print(w io.Writer) {
	if d.jited {
		d.printMachineCode(w)
	} else {
		d.printBytecode(w)
	}
}

func (d *dump) draw(w io.Writer) error {
	return d.prog.Draw(w, disasm.Shown{
		Text: d.names.Text,
		Before: func(i disasm.Instruction) []string {
			if l := d.prog.LineAt(i.Offset); l != nil && l.Line() != "" {
				return []string{"; " + strings.TrimSpace(l.Line())}
			}
			return nil
		},
	})
}

// sourceLine is the line of source that an instruction begins. A line whose
// text is not known is "".
type sourceLine struct {
	Src  *string `json:"src,omitempty"`
	File *string `json:"file,omitempty"`
	Num  uint32  `json:"line_num,omitempty"`
	Col  uint32  `json:"line_col,omitempty"`
}

func (d *dump) line(l *btf.Line) sourceLine {
	if l == nil {
		return sourceLine{}
	}
	src, file := strings.TrimLeft(l.Line(), " \t\n\v\f\r"), l.FileName()
	s := sourceLine{Src: &src}
	if d.linum {
		s.File, s.Num, s.Col = &file, l.LineNumber(), l.LineColumn()
	}
	return s
}

func (s sourceLine) print(w io.Writer) {
	switch {
	case s.Src == nil:
	case s.File == nil:
		fmt.Fprintf(w, "; %s\n", *s.Src)
	default:
		fmt.Fprintf(w, "; %s [file:%s line_num:%d line_col:%d]\n", *s.Src, *s.File, s.Num, s.Col)
	}
}

// dumpedInsn is one instruction of bytecode.
type dumpedInsn struct {
	Proto string `json:"proto,omitempty"` // of the function that begins
	sourceLine
	Disasm  string         `json:"disasm"`
	Opcodes *dumpedOpcodes `json:"opcodes,omitempty"`
	Offset  int            `json:"offset"`            // in units of 8 bytes
	Program string         `json:"program,omitempty"` // of the chain, whose it is
}

// dumpedOpcodes are the bytes of an instruction as texts.
type dumpedOpcodes struct {
	Code string   `json:"code"`
	Src  string   `json:"src_reg"`
	Dst  string   `json:"dst_reg"`
	Off  []string `json:"off"`
	Imm  []string `json:"imm"` // of a load of 64 bits with all of its second half
}

func (d *dump) bytecode() []dumpedInsn {
	list := make([]dumpedInsn, len(d.prog.Instructions))
	function, owner := -1, ""
	for k, i := range d.prog.Instructions {
		line := d.prog.LineAt(i.Offset)
		one := dumpedInsn{sourceLine: d.line(line), Disasm: d.names.Text(i), Offset: i.Offset}
		if next := function + 1; next < len(d.prog.Functions) && d.prog.Functions[next].Offset == i.Offset {
			one.Proto = disasm.Prototype(d.prog.Functions[next].Func)
			function, owner = next, d.owners.Function(next)
		}
		owner = d.owners.Follow(function, owner, line)
		one.Program = owner
		if d.opcodes {
			one.Opcodes = &dumpedOpcodes{
				Code: fmt.Sprintf("0x%02x", i.Code()), Src: fmt.Sprintf("0x%x", i.Src()), Dst: fmt.Sprintf("0x%x", i.Dst()),
				Off: hexBytes(i.Raw[2:4]), Imm: hexBytes(i.Raw[4:]),
			}
		}
		list[k] = one
	}
	return list
}

func (d *dump) printBytecode(w io.Writer) {
	owner := ""
	for k, one := range d.bytecode() {
		if one.Proto != "" {
			fmt.Fprintf(w, "%s:\n", one.Proto)
		}
		owner = printOwner(w, owner, one.Program)
		one.sourceLine.print(w)
		fmt.Fprintf(w, "%4d: %s\n", one.Offset, one.Disasm)
		if d.opcodes {
			fmt.Fprintf(w, "       % x\n", d.prog.Instructions[k].Raw)
		}
	}
}

// printOwner prints whose the code is from here on where that changes.
func printOwner(w io.Writer, was, is string) string {
	if is != was {
		fmt.Fprintln(w, strings.TrimRight("---- "+is, " "))
	}
	return is
}

// dumpedFunction is the machine code of one function.
type dumpedFunction struct {
	Proto string         `json:"proto,omitempty"`
	Name  string         `json:"name"` // the kernel's symbol
	Insns []dumpedNative `json:"insns"`
}

// dumpedNative is one machine instruction.
type dumpedNative struct {
	sourceLine
	PC        string    `json:"pc"` // from the beginning of its function, in bytes
	Operation string    `json:"operation"`
	Operands  []*string `json:"operands"` // [null] for none
	Opcodes   []string  `json:"opcodes,omitempty"`
	Program   string    `json:"program,omitempty"`

	native disasm.Native
}

func (d *dump) machineCode() []dumpedFunction {
	list := []dumpedFunction{}
	for k, f := range d.prog.Functions {
		one := dumpedFunction{Proto: disasm.Prototype(f.Func), Name: "unknown", Insns: []dumpedNative{}}
		if s, ok := d.syms.At(f.Address); ok {
			one.Name = s.Name
		} else if f.Address != 0 {
			one.Name = fmt.Sprintf("0x%016x", f.Address)
		}
		owner := d.owners.Function(k)
		for _, n := range disasm.ThisMachine()(f.Code, f.Address, d.syms) {
			line := d.prog.LineOf(f.Address + uint64(n.PC))
			owner = d.owners.Follow(k, owner, line)
			i := dumpedNative{sourceLine: d.line(line), PC: fmt.Sprintf("0x%x", n.PC), Operation: n.Operation, Program: owner, native: n}
			for _, o := range n.Operands {
				i.Operands = append(i.Operands, &o)
			}
			if len(i.Operands) == 0 {
				i.Operands = []*string{nil}
			}
			if d.opcodes {
				i.Opcodes = hexBytes(n.Raw)
			}
			one.Insns = append(one.Insns, i)
		}
		list = append(list, one)
	}
	return list
}

func (d *dump) printMachineCode(w io.Writer) {
	for _, f := range d.machineCode() {
		if f.Proto != "" {
			fmt.Fprintf(w, "%s:\n", f.Proto)
		}
		fmt.Fprintf(w, "%s:\n", f.Name)
		owner := ""
		for _, i := range f.Insns {
			owner = printOwner(w, owner, i.Program)
			i.sourceLine.print(w)
			fmt.Fprintf(w, "%4x:\t%s\n", i.native.PC, i.native)
			if d.opcodes {
				fmt.Fprintf(w, "\t% x\n", i.native.Raw)
			}
		}
		fmt.Fprintln(w)
	}
}

func hexBytes(b []byte) []string {
	list := make([]string, len(b))
	for i := range b {
		list[i] = fmt.Sprintf("0x%02x", b[i])
	}
	return list
}
