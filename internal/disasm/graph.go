package disasm

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
)

// Starts lists where functions begin, in order: at the first instruction, and
// where calls and references to callbacks lead.
func Starts(list []Instruction) []int {
	if len(list) == 0 {
		return nil
	}
	starts, end := []int{0}, list[len(list)-1].Offset+1
	for _, i := range list {
		to := 0
		switch code := i.Code(); {
		case code == jmp|call && i.Src() == pseudoCall:
			to = i.Offset + 1 + int(i.Off())
		case code == loadImm64 && i.Src() == pseudoFunc:
			to = i.Offset + 1 + int(i.Imm())
		}
		if to > 0 && to < end {
			starts = append(starts, to)
		}
	}
	slices.Sort(starts)
	return slices.Compact(starts)
}

// Block is code that runs from its first instruction to its last.
type Block struct {
	Instructions []Instruction
	Next         int   // index of the block that follows when no jump is taken; -1 for none
	Jumps        []int // of those that its end jumps to
}

// Graph cuts the instructions of one function into blocks, in their order.
// Jumps that lead out of the function lead nowhere.
func Graph(list []Instruction) []Block {
	at := map[int]int{} // offset to index
	for i := range list {
		at[list[i].Offset] = i
	}
	leads := make([]bool, len(list)+1)
	for i, ins := range list {
		kind, to := ins.flow()
		if kind == onward {
			continue
		}
		leads[i+1] = true
		if t, ok := at[to]; ok && kind != leave {
			leads[t] = true
		}
	}
	var blocks []Block
	of := make([]int, len(list)) // block by index of instruction
	from := 0
	for i := range list {
		of[i] = len(blocks)
		if i+1 == len(list) || leads[i+1] {
			blocks = append(blocks, Block{Instructions: list[from : i+1], Next: -1})
			from = i + 1
		}
	}
	for i := range blocks {
		b := &blocks[i]
		kind, to := b.Instructions[len(b.Instructions)-1].flow()
		if (kind == onward || kind == branch) && i+1 < len(blocks) {
			b.Next = i + 1
		}
		if t, ok := at[to]; ok && (kind == branch || kind == always) {
			b.Jumps = append(b.Jumps, of[t])
		}
	}
	return blocks
}

// In are the instructions of function i of the program.
func (r *Program) In(i int) []Instruction {
	index := func(offset int) int {
		return sort.Search(len(r.Instructions), func(k int) bool { return r.Instructions[k].Offset >= offset })
	}
	from, to := index(r.Functions[i].Offset), len(r.Instructions)
	if i+1 < len(r.Functions) {
		to = index(r.Functions[i+1].Offset)
	}
	return r.Instructions[from:max(from, to)]
}

// Shown is how the instructions of a drawing are written, one line each; before
// is what stands above an instruction, lines of source as a rule.
type Shown struct {
	Text   func(Instruction) string
	Before func(Instruction) []string
}

// Draw writes the flow of control of the program as a graph in the language
// DOT: a cluster per function, a node per block, solid edges for jumps and
// dashed ones for going on.
func (r *Program) Draw(w io.Writer, show Shown) error {
	var b strings.Builder
	b.WriteString("digraph \"eBPF program\" {\n\tnode [shape=box, fontname=\"monospace\"];\n")
	for i, f := range r.Functions {
		list := r.In(i)
		if len(list) == 0 {
			continue
		}
		name := Prototype(f.Func)
		if name == "" {
			name = fmt.Sprintf("function %d", i)
		}
		fmt.Fprintf(&b, "\tsubgraph \"cluster_%d\" {\n\t\tlabel=%s;\n\t\tstyle=dashed;\n", i, quote([]string{name}, "\\n"))
		blocks := Graph(list)
		fmt.Fprintf(&b, "\t\tf%d_entry [label=\"ENTRY\"];\n\t\tf%d_exit [label=\"EXIT\"];\n", i, i)
		for j, block := range blocks {
			var lines []string
			for _, ins := range block.Instructions {
				lines = append(lines, show.Before(ins)...)
				lines = append(lines, fmt.Sprintf("%d: %s", ins.Offset, show.Text(ins)))
			}
			fmt.Fprintf(&b, "\t\tf%d_b%d [label=%s];\n", i, j, quote(append(lines, ""), "\\l"))
		}
		fmt.Fprintf(&b, "\t\tf%d_entry -> f%d_b0;\n", i, i)
		for j, block := range blocks {
			for _, to := range block.Jumps {
				fmt.Fprintf(&b, "\t\tf%d_b%d -> f%d_b%d;\n", i, j, i, to)
			}
			if block.Next >= 0 {
				fmt.Fprintf(&b, "\t\tf%d_b%d -> f%d_b%d [style=dashed];\n", i, j, i, block.Next)
			}
			if kind, _ := block.Instructions[len(block.Instructions)-1].flow(); kind == leave {
				fmt.Fprintf(&b, "\t\tf%d_b%d -> f%d_exit;\n", i, j, i)
			}
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// quote writes lines as one string of DOT.
func quote(lines []string, newline string) string {
	escaped := make([]string, len(lines))
	for i, l := range lines {
		escaped[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ", "\x00", "").Replace(l)
	}
	return `"` + strings.Join(escaped, newline) + `"`
}
