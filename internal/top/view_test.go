package top

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// looks are two: programs 1 to 30 of which each runs id times a second, and a chain.
func looks() []*Look {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	l := &Look{Time: at, Programs: []Row{}}
	for id := range uint32(30) {
		l.Programs = append(l.Programs, Row{ID: id + 1, Type: "sched_cls", Name: "p" + strconv.Itoa(int(id)+1)})
	}
	second := &Look{Time: at.Add(time.Second), Seconds: 1, Programs: slices.Clone(l.Programs)}
	for i := range second.Programs {
		r := &second.Programs[i]
		r.Runs, r.NsPerRun, r.CPU = float64(r.ID), 1000-float64(r.ID), float64(r.ID)/1000
	}
	c := &Chain{ID: "3f2a9c41d0", At: []string{"xdp/eth0"}, Drops: 12345, Programs: []Member{{"acl", 2e6, 12345}, {"stats", 1987655, 0}}}
	second.Programs = append(second.Programs, Row{ID: 77, Type: "xdp", Name: "l3af_3f2a9c41d0__acl__stats", Runs: 2e6, NsPerRun: 31.4, CPU: 0.0628, Chain: c})
	return []*Look{l, second}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9]*m")

func frame(t *testing.T, v *View, width, height int) []string {
	t.Helper()
	lines := v.Frame(width, height)
	if len(lines) != height {
		t.Errorf("%d lines, want %d", len(lines), height)
	}
	for i, l := range lines {
		lines[i] = strings.TrimRight(sgr.ReplaceAllString(l, ""), " ")
		if n := utf8.RuneCountInString(lines[i]); n > width {
			t.Errorf("line %d has %d characters, want %d at most", i, n, width)
		}
	}
	return lines
}

func TestView(t *testing.T) {
	v := &View{Sort: ByCPU}
	for _, l := range looks() {
		v.Add(l)
	}
	want := []string{
		"12:00:01  31 programs, 1 chains  2.0M runs/s  52.78% of a CPU",
		"ID  TYPE       RUNS/S  NS/RUN  CPU%  DROPS/S  PROGRAM",
		"77  xdp          2.0M      31  6.28      12k  xdp/eth0: acl → stats",
		"30  sched_cls      30     970  3.00        -  p30",
		"29  sched_cls      29     971  2.90        -  p29",
	}
	if got := frame(t, v, 70, 10); !slices.Equal(got[:5], want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got[:5], "\n"), strings.Join(want, "\n"))
	}
	for _, c := range []struct {
		keys string
		row  int    // of the frame
		want string // begin of it
	}{
		{"i", 2, " 1  sched_cls"},
		{"r", 2, "77  xdp"},
		{"t", 2, " 1  sched_cls"},
		{"n", 2, " 1  sched_cls"},
		{"/ x d p enter", 2, "77  xdp"},
		{"escape i down down", 2, " 1  sched_cls"},
		{"/ p 7 enter", 2, " 7  sched_cls"},
		{"/ backspace 3 0 enter", 2, "30  sched_cls"},
		{"/ escape r", 2, "77  xdp"},
		{"enter", 1, "77  xdp  xdp/eth0: acl → stats"},
		{"down", 1, "30  sched_cls  p30"},
		{"up", 1, "77  xdp"},
		{"q", 2, "77  xdp"},
	} {
		for _, k := range strings.Fields(c.keys) {
			if v.Press(k) {
				t.Fatalf("%s ended it", k)
			}
		}
		if got := frame(t, v, 80, 20); !strings.HasPrefix(got[c.row], c.want) {
			t.Errorf("after %s: got\n%s\nwant %q in line %d", c.keys, strings.Join(got, "\n"), c.want, c.row)
		}
	}
	if !v.Press("q") || !v.Press(KeyInterrupt) {
		t.Error("q does not end it")
	}
}

// The selected row is always among those that are shown.
func TestScroll(t *testing.T) {
	v := &View{Sort: ByID}
	for _, l := range looks() {
		v.Add(l)
	}
	for i, key := range slices.Concat(slices.Repeat([]string{KeyDown}, 40), slices.Repeat([]string{KeyUp}, 15), []string{KeyPageUp, KeyPageDown, KeyPageDown}) {
		v.Press(key)
		found := 0
		for _, line := range v.Frame(60, 4+i%8) {
			if strings.HasPrefix(line, reverse) {
				found++
			}
		}
		if found != 1 {
			t.Fatalf("after %d keys %d rows are selected", i+1, found)
		}
	}
}

// A terminal of any size gets what fits.
func TestSizes(t *testing.T) {
	for _, keys := range []string{"", "enter", "/ a"} {
		v := &View{Sort: ByDrops}
		if v.Frame(80, 24) != nil {
			t.Error("a frame of nothing")
		}
		for range 400 {
			v.Add(looks()[1])
		}
		for _, k := range strings.Fields(keys) {
			v.Press(k)
		}
		for width := range 100 {
			for height := range 30 {
				if width > 0 && height > 0 {
					frame(t, v, width, height)
				}
			}
		}
	}
}

func TestBars(t *testing.T) {
	got := bars([]float64{0, 1, 2, 3, 4}, 4, 2)
	if want := []string{"   ▄█", " ▄███"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := bars([]float64{0, 0}, 0, 2); !slices.Equal(got, []string{"", ""}) {
		t.Errorf("of nothing: %q", got)
	}
}

func TestShort(t *testing.T) {
	for f, want := range map[float64]string{0: "0", 0.04: "0.0", 3: "3", 3.21: "3.2", 42.4: "42", 9999: "9999", 12345: "12k", 1e6: "1.0M", 123456789: "123M", 5e10: "50G", 3e12: "3T", 3e13: "30T"} {
		if got := short(f); got != want {
			t.Errorf("%v: %s, want %s", f, got, want)
		}
	}
}
