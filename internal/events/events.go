// Package events reads what programs send to user space: perf event arrays and
// ring buffers. Who reads takes events away from those who read before.
package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Event is one record. Data is overwritten once the caller has seen it.
type Event struct {
	Type uint32 // PERF_RECORD_SAMPLE or PERF_RECORD_LOST, or another of linux/perf_event.h
	// Of perf event arrays:
	CPU    int
	Index  int    // in the array
	Time   uint64 // ns since boot without the time asleep (CLOCK_MONOTONIC)
	Lost   uint64 // of PERF_RECORD_LOST: how many there was no room for
	LostID uint64
	Data   []byte // of PERF_RECORD_SAMPLE: what the program sent, and up to 7 bytes behind it
}

// Reader reads the events of a map.
type Reader interface {
	// Read calls f for each event until the context ends, which is no error, or
	// f fails.
	Read(ctx context.Context, f func(*Event) error) error
	Close() error
}

// wait is for how long a reader waits before it looks whether it should end.
const wait = 100 * time.Millisecond

type ring struct{ *ringbuf.Reader }

// OpenRing reads a ring buffer, which the caller closes after the reader.
func OpenRing(m *ebpf.Map) (Reader, error) {
	r, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, fmt.Errorf("read ring buffer: %w", err)
	}
	return ring{r}, nil
}

func (r ring) Read(ctx context.Context, f func(*Event) error) error {
	var rec ringbuf.Record
	for ctx.Err() == nil {
		r.SetDeadline(time.Now().Add(wait))
		err := r.ReadInto(&rec)
		switch {
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case isTimeout(err):
			continue
		case err != nil:
			return fmt.Errorf("read ring buffer: %w", err)
		}
		if err := f(&Event{Type: unix.PERF_RECORD_SAMPLE, Data: rec.RawSample}); err != nil {
			return err
		}
	}
	return nil
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
