package bench

import (
	"context"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/testenv"
)

// Every live packet meets every program that is attached.
func TestLivePacketsMeetPrograms(t *testing.T) {
	testenv.Clean(t)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	const frames = 1000
	for _, c := range []struct {
		kind l3af.HookKind
		how  string
		size int
	}{
		{l3af.XDP, Counted, 10}, {l3af.XDP, Calls, 10}, {l3af.TCIngress, TCX, 63}, {l3af.TCIngress, Counted, 63}, {l3af.TCIngress, Merged, 63},
	} {
		t.Run(string(c.kind)+" "+c.how, func(t *testing.T) {
			err := onWire(func(w *wire) error {
				composed, err := loadFor(c.kind, c.how, c.size)
				if err != nil {
					return err
				}
				defer composed.Close()
				rate := 0.0
				before, err := w.arrived()
				if err != nil {
					return err
				}
				if err := w.faster(&rate, c.kind, composed, frames); err != nil {
					return err
				}
				met := uint64(frames)
				if c.kind == l3af.XDP { // the queue may have been full
					after, err := w.arrived()
					if err != nil {
						return err
					}
					met = after - before
				}
				if rate <= 0 || met == 0 {
					t.Errorf("%v packets a second", rate)
				}
				if n := len(composed.programs()); n != map[string]int{TCX: c.size}[c.how] && n != 1 {
					t.Errorf("%d programs are attached", n)
				}
				for i, p := range composed.programs() {
					s, err := p.Stats()
					if err != nil {
						return err
					}
					if s.RunCount < met*9/10 || s.RunCount > frames+100 {
						t.Errorf("program %d met %d packets of %d", i, s.RunCount, met)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestLiveReport(t *testing.T) {
	testenv.Clean(t)
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
		r, err := RunLive(context.Background(), kind, Options{Repeat: 2000, Rounds: 1})
		if err != nil {
			t.Fatal(err)
		}
		if r.None <= 0 {
			t.Errorf("%s: %+v", kind, r)
		}
		for _, row := range r.Rows {
			if (row.Skipped != "") != (row.Composition == Tail && row.Programs > tailCalls) || row.Skipped == "" && row.Rate <= 0 {
				t.Errorf("%s: %+v", kind, row)
			}
		}
	}
}
