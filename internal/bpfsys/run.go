package bpfsys

import (
	"errors"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RunOptions are what a program is run with (BPF_PROG_TEST_RUN).
type RunOptions struct {
	Data    []byte // the packet
	DataOut []byte // where it goes; no longer than what is to be seen
	Context []byte // as the program's type has it
	// ContextOut is where that goes.
	ContextOut []byte
	Repeat     uint32 // how often; 0 is once
}

// RunResult is what became of a run. The parts of variable size are those of
// [RunOptions], cut to what the kernel wrote.
type RunResult struct {
	Return     uint32
	Duration   time.Duration // of one run, on average
	DataOut    []byte
	ContextOut []byte
	// DataSize and ContextSize are what there was to write.
	DataSize, ContextSize uint32
}

// Run runs a program on data of the caller's. errors.Is(err, unix.ENOSPC): there
// was more to write than there is room; the result is there all the same.
// 524, ENOTSUPP, is a type that cannot be run so.
func Run(h Handle, o RunOptions) (*RunResult, error) {
	attr := struct {
		prog, retval, dataSize, dataOutSize uint32
		data, dataOut                       Pointer
		repeat, duration                    uint32
		contextSize, contextOutSize         uint32
		context, contextOut                 Pointer
		flags, cpu, batch, _                uint32
	}{
		prog: uint32(h.FD()), dataSize: uint32(len(o.Data)), dataOutSize: uint32(len(o.DataOut)),
		data: PointerTo(o.Data), dataOut: PointerTo(o.DataOut), repeat: o.Repeat,
		contextSize: uint32(len(o.Context)), contextOutSize: uint32(len(o.ContextOut)),
		context: PointerTo(o.Context), contextOut: PointerTo(o.ContextOut),
	}
	err := Call(unix.BPF_PROG_TEST_RUN, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(h)
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		return nil, err
	}
	r := &RunResult{
		Return: attr.retval, Duration: time.Duration(attr.duration),
		DataSize: attr.dataOutSize, ContextSize: attr.contextOutSize,
	}
	r.DataOut = o.DataOut[:min(len(o.DataOut), int(attr.dataOutSize))]
	r.ContextOut = o.ContextOut[:min(len(o.ContextOut), int(attr.contextOutSize))]
	return r, err
}

// Stream is one of those that programs write text to.
type Stream uint32

// The streams (enum bpf_stream_id).
const (
	Stdout Stream = 1 // what the program says
	Stderr Stream = 2 // what the kernel says of what it does wrong
)

// ReadStream reads what a program wrote and nobody has read yet, at most as much
// as fits; 0 bytes when that is nothing. errors.Is(err, unix.EINVAL): this kernel
// has no streams (before 6.17).
func ReadStream(h Handle, s Stream, b []byte) (int, error) {
	const progStreamReadByFD = 37 // BPF_PROG_STREAM_READ_BY_FD
	attr := struct {
		to           Pointer
		size, stream uint32
		prog, _      uint32
	}{to: PointerTo(b), size: uint32(len(b)), stream: uint32(s), prog: uint32(h.FD())}
	// The result is the number of bytes.
	n, err := CallFD(progStreamReadByFD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(h)
	return max(n, 0), err
}
