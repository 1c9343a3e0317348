package events

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

func load(t *testing.T) *ebpf.Collection {
	t.Helper()
	testenv.Clean(t)
	c, err := ebpf.LoadCollection("testdata/events.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Collect(t, c)
	return c
}

// tell makes the program send so many events. A signal ends what repeats in the
// kernel, and it would begin anew.
func tell(t *testing.T, c *ebpf.Collection, n uint32) {
	t.Helper()
	for range n {
		if _, err := c.Programs["tell"].Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
			t.Fatal(err)
		}
	}
}

var errEnough = errors.New("enough")

// What a program sends arrives, in order and whole, also when the buffer
// comes to its end many times, and what there was no room for is counted.
func TestRead(t *testing.T) {
	for name, open := range map[string]func(*ebpf.Map) (Reader, error){
		"perf": func(m *ebpf.Map) (Reader, error) { return OpenPerf(m, m.MaxEntries()) },
		"ring": OpenRing,
	} {
		t.Run(name, func(t *testing.T) {
			c := load(t)
			r, err := open(c.Maps[name])
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for round := range uint64(60) {
				tell(t, c, 50)
				seen, last := 0, map[int]uint64{}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				err := r.Read(ctx, func(e *Event) error {
					number := binary.NativeEndian.Uint64(e.Data)
					if number <= last[e.CPU] || number <= round*50 || number > round*50+50 || string(e.Data[12:16]) != "tell" {
						t.Errorf("round %d: event %d after %d: %x", round, number, last[e.CPU], e.Data)
					}
					if name == "perf" && (e.Time == 0 || e.Index != e.CPU) {
						t.Errorf("%+v", e)
					}
					last[e.CPU] = number
					if seen++; seen == 50 {
						return errEnough
					}
					return nil
				})
				cancel()
				if !errors.Is(err, errEnough) {
					t.Fatalf("round %d: %d events, %v", round, seen, err)
				}
			}
			if name == "ring" {
				return
			}
			// What was lost is told with the next event of the same CPU.
			onCPU0(t)
			tell(t, c, 20000)
			samples, lost := uint64(0), uint64(0)
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if err := r.Read(ctx, func(e *Event) error {
				if e.Type == unix.PERF_RECORD_LOST {
					lost += e.Lost
					cancel()
				} else {
					samples++
				}
				if samples == 100 {
					tell(t, c, 1)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if lost < 10000 || samples+lost > 20001 {
				t.Errorf("%d events and %d lost of 20001", samples, lost)
			}
		})
	}
}

// onCPU0 keeps the test on one CPU until it ends.
func onCPU0(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	one.Set(0)
	err := errors.Join(unix.SchedGetaffinity(0, &before), unix.SchedSetaffinity(0, &one))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	})
}

// The buffer of one CPU can be put anywhere.
func TestOpenPerfAt(t *testing.T) {
	c := load(t)
	r, err := OpenPerfAt(c.Maps["perf"], 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	runtime.KeepAlive(c)
	if _, err := OpenPerfAt(c.Maps["perf"], 0, 64); err == nil {
		t.Error("an index that is not there")
	}
	if _, err := OpenPerfAt(c.Maps["perf"], 4096, 0); err == nil {
		t.Error("a CPU that is not there")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Read(ctx, func(*Event) error { return nil }); err != nil {
		t.Error(err)
	}
}
