package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Key is what rows are sorted by, and what the graph shows.
type Key string

// The keys.
const (
	ByRuns  Key = "runs"
	ByNs    Key = "ns"
	ByCPU   Key = "cpu"
	ByDrops Key = "drops"
	ByName  Key = "name"
	ByID    Key = "id"
)

// Keys lists them.
func Keys() []string {
	return []string{string(ByRuns), string(ByNs), string(ByCPU), string(ByDrops), string(ByName), string(ByID)}
}

// value is the number of a row that a key means, and how it is written.
func (k Key) value(r *Row) float64 {
	switch k {
	case ByNs:
		return r.NsPerRun
	case ByCPU:
		return 100 * r.CPU
	case ByDrops:
		if r.Chain != nil {
			return r.Chain.Drops
		}
		return 0
	}
	return r.Runs
}

var titles = map[Key]string{ByRuns: "runs/s", ByNs: "ns per run", ByCPU: "CPU %", ByDrops: "drops/s"}

// Select keeps the rows that hold a text in what is known of them, and sorts
// them: numbers from the largest, names and ids from the smallest.
func Select(rows []Row, filter string, by Key) []Row {
	kept := []Row{}
	for _, r := range rows {
		if strings.Contains(strings.ToLower(strconv.Itoa(int(r.ID))+" "+string(r.Type)+" "+r.Title()+" "+r.Name), strings.ToLower(filter)) {
			kept = append(kept, r)
		}
	}
	slices.SortStableFunc(kept, func(a, b Row) int {
		switch by {
		case ByName:
			return cmp.Compare(a.Title(), b.Title())
		case ByID:
			return cmp.Compare(a.ID, b.ID)
		}
		return cmp.Compare(by.value(&b), by.value(&a))
	})
	return kept
}

// Title is what people call a program: of a chain its hook and programs.
func (r *Row) Title() string {
	if r.Chain == nil || len(r.Chain.Programs) == 0 {
		return r.Name
	}
	names := make([]string, len(r.Chain.Programs))
	for i, p := range r.Chain.Programs {
		names[i] = p.Name
	}
	at := r.Chain.ID
	if len(r.Chain.At) > 0 {
		at = strings.Join(r.Chain.At, ", ")
	}
	return at + ": " + strings.Join(names, " → ")
}

// Head are the titles of the columns that [Row.Cells] gives.
func Head() []string { return []string{"ID", "TYPE", "RUNS/S", "NS/RUN", "CPU%", "DROPS/S", "PROGRAM"} }

// Cells are a row as text. What is not known is "-".
func (r *Row) Cells() []string {
	ns, drops := "-", "-"
	if r.NsPerRun > 0 {
		ns = fmt.Sprintf("%.0f", r.NsPerRun)
	}
	if r.Chain != nil && len(r.Chain.Programs) > 0 {
		drops = short(r.Chain.Drops)
	}
	return []string{strconv.Itoa(int(r.ID)), string(r.Type), short(r.Runs), ns, fmt.Sprintf("%.2f", 100*r.CPU), drops, r.Title()}
}

// short is a number in four or five characters.
func short(f float64) string {
	for _, unit := range []string{"", "k", "M", "G"} {
		switch {
		case f < 10 && (unit != "" || f > 0 && f != float64(int(f))):
			return fmt.Sprintf("%.1f%s", f, unit)
		case f < 9999.5 && unit == "", f < 999.5:
			return fmt.Sprintf("%.0f%s", f, unit)
		}
		f /= 1000
	}
	return fmt.Sprintf("%.0fT", f)
}

// kept is how many looks are kept for the graph.
const kept = 300

// point is what a program did between two looks.
type point map[Key]float64

// View is what a terminal shows. It knows nothing of terminals.
type View struct {
	Sort   Key
	Filter string

	look     *Look
	history  map[uint32][]point
	selected uint32 // id; 0: the first
	first    int    // row that is shown first
	typing   bool   // the filter
	graph    bool   // of the selected one
}

// Add takes a new look.
func (v *View) Add(l *Look) {
	v.look = l
	if v.history == nil {
		v.history = map[uint32][]point{}
	}
	there := map[uint32]bool{}
	for i := range l.Programs {
		r := &l.Programs[i]
		there[r.ID] = true
		if l.Seconds == 0 {
			continue
		}
		p := point{}
		for k := range titles {
			p[k] = k.value(r)
		}
		h := append(v.history[r.ID], p)
		v.history[r.ID] = h[max(0, len(h)-kept):]
	}
	for id := range v.history {
		if !there[id] {
			delete(v.history, id)
		}
	}
}

func (v *View) rows() []Row {
	if v.look == nil {
		return nil
	}
	return Select(v.look.Programs, v.Filter, v.Sort)
}

// at is the index of the selected row.
func (v *View) at(rows []Row) int {
	return max(0, slices.IndexFunc(rows, func(r Row) bool { return r.ID == v.selected }))
}

// Keys that have no letter.
const (
	KeyUp, KeyDown, KeyPageUp, KeyPageDown = "up", "down", "pageup", "pagedown"
	KeyEnter, KeyEscape, KeyBackspace      = "enter", "escape", "backspace"
	KeyInterrupt                           = "interrupt"
)

var sortKeys = map[string]Key{"r": ByRuns, "t": ByNs, "c": ByCPU, "d": ByDrops, "n": ByName, "i": ByID}

// Press does what a key means; it says whether to end.
func (v *View) Press(key string) (end bool) {
	switch {
	case key == KeyInterrupt:
		return true
	case v.typing:
		v.typed(key)
		return false
	}
	if by, ok := sortKeys[key]; ok {
		if v.Sort = by; !v.graph {
			v.selected, v.first = 0, 0 // to the first
		}
	}
	move := 0
	switch key {
	case "q":
		if !v.graph {
			return true
		}
		v.graph = false
	case KeyEscape:
		if !v.graph {
			v.Filter = ""
		}
		v.graph = false
	case KeyEnter:
		v.graph = !v.graph
	case "/":
		v.typing, v.graph = true, false
	case KeyUp, "k":
		move = -1
	case KeyDown, "j":
		move = 1
	case KeyPageUp:
		move = -10
	case KeyPageDown:
		move = 10
	}
	if rows := v.rows(); len(rows) > 0 && (move != 0 || v.graph) {
		v.selected = rows[min(max(v.at(rows)+move, 0), len(rows)-1)].ID
	}
	return false
}

func (v *View) typed(key string) {
	switch {
	case key == KeyEnter:
		v.typing = false
	case key == KeyEscape:
		v.typing, v.Filter = false, ""
	case key == KeyBackspace:
		_, n := utf8.DecodeLastRuneInString(v.Filter)
		v.Filter = v.Filter[:len(v.Filter)-n]
	case utf8.RuneCountInString(key) == 1:
		v.Filter += key
	}
}
