package top

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// How parts of a line stand out (ECMA-48, SGR).
const (
	bold    = "\x1b[1m"
	reverse = "\x1b[7m"
	plain   = "\x1b[m"
)

// Frame is what a terminal of a size shows: at most height lines, none wider
// than width.
func (v *View) Frame(width, height int) []string {
	if v.look == nil || width < 1 || height < 1 {
		return nil
	}
	rows := v.rows()
	lines := []string{bold + clip(v.summary(rows), width) + plain}
	if v.graph && len(rows) > 0 {
		lines = append(lines, v.graphOf(&rows[v.at(rows)], width, height-2)...)
	} else {
		lines = append(lines, v.table(rows, width, height-2)...)
	}
	lines = lines[:min(len(lines), height-1)]
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	return append(lines, clip(v.help(), width))
}

func (v *View) summary(rows []Row) string {
	var runs, cpu float64
	chains := map[string]bool{}
	for _, r := range v.look.Programs {
		runs, cpu = runs+r.Runs, cpu+r.CPU
		if r.Chain != nil {
			chains[r.Chain.ID] = true
		}
	}
	s := fmt.Sprintf("%s  %d programs, %d chains  %s runs/s  %.2f%% of a CPU", v.look.Time.Format("15:04:05"), len(v.look.Programs), len(chains), short(runs), 100*cpu)
	if len(rows) < len(v.look.Programs) {
		s += fmt.Sprintf("  %d shown", len(rows))
	}
	return s
}

func (v *View) help() string {
	switch {
	case v.typing:
		return "filter: " + v.Filter + "_"
	case v.graph:
		return "r runs  t ns per run  c CPU  d drops   ↑↓ another   Enter back   q back"
	}
	s := "sort: r runs  t ns  c CPU  d drops  n name  i id   / filter   Enter graph   q quit"
	if v.Filter != "" {
		s = "filter: " + v.Filter + " (Esc: none)   " + s
	}
	return s
}

// table shows as many rows as fit, the selected one among them.
func (v *View) table(rows []Row, width, height int) []string {
	room := max(1, height-1)
	at := v.at(rows)
	v.first = min(v.first, at)
	v.first = max(v.first, at-room+1, 0)
	shown := rows[min(v.first, len(rows)):min(v.first+room, len(rows))]
	cells := [][]string{Head()}
	for i := range shown {
		cells = append(cells, shown[i].Cells())
	}
	lines := Columns(cells)
	for i := range lines {
		lines[i] = clip(lines[i], width)
		switch {
		case i == 0:
			lines[i] = bold + lines[i] + plain
		case v.first+i-1 == at:
			lines[i] = reverse + lines[i] + strings.Repeat(" ", width-utf8.RuneCountInString(lines[i])) + plain
		}
	}
	return lines
}

// Columns aligns cells: numbers, all but the second and last column, to the right.
func Columns(rows [][]string) []string {
	var widths []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	lines := make([]string, len(rows))
	for k, r := range rows {
		var b strings.Builder
		for i, c := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			switch {
			case i == len(r)-1:
				b.WriteString(c)
			case i == 1:
				b.WriteString(c + pad + "  ")
			default:
				b.WriteString(pad + c + "  ")
			}
		}
		lines[k] = b.String()
	}
	return lines
}

// graphOf draws what the sort key means of one program, a column per look, and
// lists the programs of a chain below.
func (v *View) graphOf(r *Row, width, height int) []string {
	key := v.Sort
	if titles[key] == "" {
		key = ByRuns
	}
	lines := []string{clip(fmt.Sprintf("%d  %s  %s", r.ID, r.Type, r.Title()), width), ""}
	var members []string
	if r.Chain != nil && len(r.Chain.Programs) > 0 {
		cells := [][]string{{"", "PROGRAM", "RUNS/S", "DROPS/S", ""}}
		for i, p := range r.Chain.Programs {
			cells = append(cells, []string{fmt.Sprint(i + 1), p.Name, short(p.Runs), short(p.Drops), ""})
		}
		members = append([]string{""}, Columns(cells)...)
	}
	high := max(3, height-len(lines)-len(members)-2)
	var values []float64
	for _, p := range v.history[r.ID] {
		values = append(values, p[key])
	}
	const axis = 8
	values = values[max(0, len(values)-max(1, width-axis)):]
	top, low, sum := 0.0, 0.0, 0.0
	for i, f := range values {
		if i == 0 {
			low = f
		}
		top, low, sum = max(top, f), min(low, f), sum+f
	}
	for i, bar := range bars(values, top, high) {
		label := ""
		switch {
		case i == high-1:
			label = "0"
		case i == 0 && top > 0:
			label = short(top)
		}
		lines = append(lines, clip(fmt.Sprintf("%*s %s", axis-1, label, bar), width))
	}
	if len(values) > 0 {
		now := values[len(values)-1]
		lines = append(lines, "", clip(fmt.Sprintf("%s: now %s, mean %s, from %s to %s in %d looks", titles[key], short(now), short(sum/float64(len(values))), short(low), short(top), len(values)), width))
	}
	for _, m := range members {
		lines = append(lines, clip(m, width))
	}
	return lines
}

// bars draws values as columns of a height in lines, of eight steps each.
func bars(values []float64, top float64, height int) []string {
	steps := []rune(" ▁▂▃▄▅▆▇█")
	lines := make([]string, height)
	for i := range lines {
		var b strings.Builder
		for _, f := range values {
			full := 0 // eighths
			if top > 0 {
				full = int(f/top*float64(8*height) + 0.5)
			}
			below := 8 * (height - 1 - i)
			b.WriteRune(steps[min(max(full-below, 0), 8)])
		}
		lines[i] = strings.TrimRight(b.String(), " ")
	}
	return lines
}

// clip cuts a line to a width in characters.
func clip(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width])
}
