package demo

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// screen shows a text that changes: in place on a terminal.
type screen struct {
	w        io.Writer
	terminal bool
	lines    int // of the text shown last, which the next one replaces
}

// say prints lines that stay.
func (s *screen) say(format string, args ...any) {
	s.lines = 0
	fmt.Fprintf(s.w, format+"\n", args...)
}

// draw shows text in place of what draw showed last.
func (s *screen) draw(text string) {
	text = strings.TrimRight(text, "\n") + "\n"
	if !s.terminal {
		if strings.Count(text, "\n") > 1 {
			text += "\n"
		}
		fmt.Fprint(s.w, text)
		return
	}
	var b strings.Builder
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.lines)
	}
	b.WriteString("\x1b[J") // clear to the end
	b.WriteString(text)
	s.lines = strings.Count(text, "\n")
	io.WriteString(s.w, b.String())
}

// columns aligns cells: those that begin with a digit to the right.
func columns(rows [][]string) string {
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for n, r := range rows {
		var line strings.Builder
		line.WriteString(" ")
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if right(rows, n, i) {
				c = pad + c
			} else {
				c += pad
			}
			line.WriteString(" " + c + " ")
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// right says whether a cell belongs to a column of counts: the head follows
// the cells under it.
func right(rows [][]string, row, column int) bool {
	if row == 0 && len(rows) > 1 {
		row = len(rows) - 1
	}
	c := rows[row][column]
	return c != "" && strings.Trim(c, "0123456789,/s-") == ""
}

// count prints a number with its thousands apart.
func count(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
