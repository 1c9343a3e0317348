package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// bound is BOUND of hops.bpf.c: how long a packet must be for program i.
func bound(i int) int { return 14 + (firstHop+i-9)%40 }

// Every composition that is measured runs all its programs: it drops what is
// too short for the most demanding of them, and passes what is just long enough.
func TestCompositionsFilter(t *testing.T) {
	testenv.Clean(t)
	for _, size := range Sizes {
		for _, how := range Compositions {
			t.Run(fmt.Sprintf("%s/%d", how, size), func(t *testing.T) {
				c, err := Load(how, size)
				if errors.Is(err, ErrTooLong) && how == Tail && size > tailCalls {
					return
				}
				if err != nil {
					t.Fatalf("%+v", err)
				}
				defer c.Close()
				longest := 0
				for i := range size {
					longest = max(longest, bound(i))
				}
				for length, want := range map[int]uint32{longest - 1: 1, longest: 2} {
					if got, _, err := c.Program.Test(packet()[:length]); err != nil || got != want {
						t.Errorf("%d bytes: verdict %d, %v, want %d", length, got, err, want)
					}
				}
			})
		}
	}
}

func TestReport(t *testing.T) {
	testenv.Clean(t)
	r, err := Run(context.Background(), Options{Repeat: 1000, Rounds: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != len(Sizes)*len(Compositions) || r.Alone <= 0 {
		t.Fatalf("%d rows, alone %v ns", len(r.Rows), r.Alone)
	}
	for _, row := range r.Rows {
		if (row.Skipped != "") != (row.Composition == Tail && row.Programs > tailCalls) {
			t.Errorf("%+v", row)
		}
		if row.Skipped == "" && row.Nanoseconds <= 0 {
			t.Errorf("%+v", row)
		}
	}
}

func TestBuildReport(t *testing.T) {
	testenv.Clean(t)
	r, err := RunBuild(context.Background(), Options{Rounds: 1, Sizes: []int{1, 100}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 2+len(ShippedSizes) {
		t.Fatalf("%d rows", len(r.Rows))
	}
	for _, row := range r.Rows {
		if row.Compose <= 0 || row.Load <= 0 || row.Segments != 1 || row.Instructions <= row.Programs ||
			row.ProgramMemory < uint64(8*row.Instructions)/2 || row.MapMemory == 0 {
			t.Errorf("%+v", row)
		}
	}
	if one, hundred := r.Rows[0], r.Rows[1]; hundred.Instructions < one.Instructions+99*5 || hundred.Kept <= one.Kept {
		t.Errorf("one program: %+v, a hundred: %+v", one, hundred)
	}
}

func BenchmarkChain(b *testing.B) {
	testenv.Root(b)
	for _, size := range append([]int{0}, Sizes...) {
		for _, how := range Compositions {
			name := fmt.Sprintf("%s/%d", how, size)
			if size == 0 {
				if how != Merged {
					continue
				}
				name = "alone"
			}
			b.Run(name, func(b *testing.B) {
				c, err := Load(how, size)
				if errors.Is(err, ErrTooLong) {
					b.Skip(err)
				}
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				ns, err := c.Measure(packet(), max(b.N, 100))
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(ns, "ns/packet")
			})
		}
	}
}
