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

// Every composition that is measured does the work it is measured for: it
// passes the benchmark's packet and drops what its first and its last program
// drop.
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
				for _, hop := range []int{-1, 0, size - 1, size} {
					in, want := packet(), uint32(2)
					if hop >= 0 {
						copy(in[26:], []byte{0xf0, 0, 0, byte(firstHop + hop)})
					}
					if hop >= 0 && hop < size {
						want = 1
					}
					if got, _, err := c.Program.Test(in); err != nil || got != want {
						t.Errorf("address of hop %d: verdict %d, %v, want %d", hop, got, err, want)
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
