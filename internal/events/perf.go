package events

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

// pages are those of a CPU's buffer, without the one that describes it.
const pages = 16

// buffer is what one CPU writes.
type buffer struct {
	fd, cpu, index int
	mem            []byte
	meta           *unix.PerfEventMmapPage
	data           []byte
}

type perf []*buffer

// OpenPerf puts a buffer for each CPU into a perf event array, at the index of
// its number.
func OpenPerf(m bpfsys.Handle, entries uint32) (Reader, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	var p perf
	for cpu := range min(cpus, int(entries)) {
		b, err := openBuffer(m, cpu, cpu)
		if errors.Is(err, unix.ENODEV) { // offline
			continue
		}
		if err != nil {
			p.Close()
			return nil, err
		}
		p = append(p, b)
	}
	return p, nil
}

// OpenPerfAt puts the buffer of one CPU into a perf event array.
func OpenPerfAt(m bpfsys.Handle, cpu, index int) (Reader, error) {
	b, err := openBuffer(m, cpu, index)
	if err != nil {
		return nil, err
	}
	return perf{b}, nil
}

func openBuffer(m bpfsys.Handle, cpu, index int) (_ *buffer, err error) {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_BPF_OUTPUT, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Sample_type: unix.PERF_SAMPLE_RAW | unix.PERF_SAMPLE_TIME, Sample: 1, Wakeup: 1,
		Bits: unix.PerfBitUseClockID, Clockid: unix.CLOCK_MONOTONIC,
	}
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open a buffer for CPU %d: %w", cpu, err)
	}
	b := &buffer{fd: fd, cpu: cpu, index: index}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	page := os.Getpagesize()
	if b.mem, err = unix.Mmap(fd, 0, (1+pages)*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the buffer of CPU %d: %w", cpu, err)
	}
	b.meta, b.data = (*unix.PerfEventMmapPage)(unsafe.Pointer(&b.mem[0])), b.mem[page:]
	key := binary.NativeEndian.AppendUint32(nil, uint32(index))
	if err := bpfsys.Update(m, key, binary.NativeEndian.AppendUint32(nil, uint32(fd)), unix.BPF_ANY); err != nil {
		return nil, fmt.Errorf("put the buffer of CPU %d at %d: %w", cpu, index, err)
	}
	runtime.KeepAlive(m)
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return nil, fmt.Errorf("enable the buffer of CPU %d: %w", cpu, err)
	}
	return b, nil
}

func (b *buffer) close() {
	if b.mem != nil {
		_ = unix.Munmap(b.mem)
	}
	_ = unix.Close(b.fd)
}

func (p perf) Close() error {
	for _, b := range p {
		b.close()
	}
	return nil
}

func (p perf) Read(ctx context.Context, f func(*Event) error) error {
	fds := make([]unix.PollFd, len(p))
	for i, b := range p {
		fds[i] = unix.PollFd{Fd: int32(b.fd), Events: unix.POLLIN}
	}
	for ctx.Err() == nil {
		if _, err := unix.Poll(fds, int(wait.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for events: %w", err)
		}
		for _, b := range p {
			if err := b.read(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// read gives what is in the buffer now.
func (b *buffer) read(f func(*Event) error) error {
	head := atomic.LoadUint64(&b.meta.Data_head)
	tail := b.meta.Data_tail
	for tail < head {
		header := b.bytes(tail, 8)
		size := uint64(binary.NativeEndian.Uint16(header[6:]))
		if size < 8 || tail+size > head {
			return fmt.Errorf("damaged buffer of CPU %d", b.cpu)
		}
		e := parse(binary.NativeEndian.Uint32(header), b.bytes(tail+8, size-8))
		e.CPU, e.Index = b.cpu, b.index
		tail += size
		// The room is given back before the event is seen: it is a copy.
		atomic.StoreUint64(&b.meta.Data_tail, tail)
		if err := f(&e); err != nil {
			return err
		}
	}
	return nil
}

// bytes copies from the buffer, whose end is followed by its beginning.
func (b *buffer) bytes(at, n uint64) []byte {
	out := make([]byte, n)
	from := at % uint64(len(b.data))
	copied := copy(out, b.data[from:])
	copy(out[copied:], b.data)
	return out
}

// parse reads what follows the header of a record with the samples we asked for.
func parse(typ uint32, b []byte) Event {
	e := Event{Type: typ}
	switch {
	case typ == unix.PERF_RECORD_SAMPLE && len(b) >= 12:
		e.Time = binary.NativeEndian.Uint64(b)
		n := uint64(binary.NativeEndian.Uint32(b[8:]))
		e.Data = b[12:][:min(n, uint64(len(b)-12))]
	case typ == unix.PERF_RECORD_LOST && len(b) >= 16:
		e.LostID, e.Lost = binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])
	}
	return e
}
