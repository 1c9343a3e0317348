package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// table is rows of cells printed in aligned columns without borders.
type table struct {
	rows  [][]string
	right map[int]bool // columns of numbers
}

func newTable(head ...string) *table {
	return &table{rows: [][]string{head}, right: map[int]bool{}}
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// columns says which columns to align to the right.
func (t *table) numbers(columns ...int) *table {
	for _, c := range columns {
		t.right[c] = true
	}
	return t
}

func (t *table) print(w io.Writer) error {
	var b strings.Builder
	width := t.widths()
	for _, r := range t.rows {
		b.WriteString(line(r, width, t.right))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *table) widths() []int {
	var width []int
	for _, r := range t.rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	return width
}

// line is one row of a table; right says which columns are aligned to the
// right.
func line(row []string, width []int, right map[int]bool) string {
	var line strings.Builder
	for i, c := range row {
		if i > 0 {
			line.WriteString("  ")
		}
		pad := strings.Repeat(" ", max(0, width[i]-utf8.RuneCountInString(c)))
		if right[i] {
			line.WriteString(pad + c)
		} else {
			line.WriteString(c + pad)
		}
	}
	return strings.TrimRight(line.String(), " ") + "\n"
}

// dash stands for a value there is not.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func number[T uint32 | uint64 | int](n T) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}
