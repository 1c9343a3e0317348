package chain

import (
	"slices"
	"strings"

	"github.com/cilium/ebpf/asm"
)

// Comments of ours begin with mark. The kernel keeps them as lines of source,
// so that the code of a chain can be told apart when nothing else is known of it.
const (
	mark      = "l3af: "
	markBegin = mark + "begin " // the program whose code begins; then, behind ": ", its own line
	markCall  = mark + "call "  // the program that is called
)

// begins gives the first instruction of a program's code, which may have a
// line, the comment that says so.
func begins(ins asm.Instruction, program string) asm.Instruction {
	text := markBegin + program
	if line := ins.Source(); line != nil {
		text += ": " + strings.TrimSpace(line.String())
	}
	return ins.WithSource(asm.Comment(text))
}

// Comment is a line of source, or a comment of ours, at an instruction.
type Comment struct {
	Offset int // of the instruction, in units of 8 bytes
	Text   string
}

// Begins names the program whose inlined code begins at a comment; line is
// what its source has there.
func (c Comment) Begins() (program, line string, ok bool) {
	rest, ok := strings.CutPrefix(c.Text, markBegin)
	program, line, _ = strings.Cut(rest, ": ")
	return program, line, ok
}

// Ours says whether the code from the comment on joins programs.
func (c Comment) Ours() bool {
	return strings.HasPrefix(c.Text, mark) && !strings.HasPrefix(c.Text, markBegin)
}

// Members lists the programs of a segment, in order, by the comments in its
// entry function.
func Members(comments []Comment) []string {
	var members []string
	for _, c := range comments {
		program, _, ok := c.Begins()
		if !ok {
			program, ok = strings.CutPrefix(c.Text, markCall)
		}
		if ok && !slices.Contains(members, program) {
			members = append(members, program)
		}
	}
	return members
}

// MemberOf is the program that a function of a segment belongs to by its name
// in BTF, "" for a function of our own.
func MemberOf(function string, members []string) string {
	member := ""
	for _, m := range members {
		// The name of one may be the beginning of another's.
		if strings.HasPrefix(function, identifier(m)+"__") && len(m) >= len(member) {
			member = m
		}
	}
	return member
}
