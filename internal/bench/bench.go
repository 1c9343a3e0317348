// Package bench measures what a packet pays for a chain, composed in every way
// there is, side by side in one process.
package bench

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/chain"
)

//go:embed hops/hops.bpf.o
var object []byte

// Sizes are the chain lengths that every composition is measured at. The
// merged and calls programs of hops.bpf.c exist for these alone.
var Sizes = []int{1, 2, 5, 10, 20, 50, 100}

// The compositions.
const (
	Merged  = "merged by hand in C"
	Fused   = "fused"
	Counted = "fused, counted" // what l3afd attaches
	Tail    = "tail calls"
	Calls   = "calls"
)

// Compositions lists them in the order of the report.
var Compositions = []string{Merged, Fused, Counted, Tail, Calls}

// firstHop is the number in the name of the first program of hops.bpf.c;
// tailCalls is how many tail calls the kernel follows (MAX_TAIL_CALL_CNT).
const (
	firstHop  = 10
	tailCalls = 33
)

// ErrTooLong says that a composition cannot have so many programs.
var ErrTooLong = errors.New("more programs than the kernel follows tail calls")

// Options bound a run.
type Options struct {
	Sizes    []int             // subset of [Sizes]; nil is all
	Repeat   int               // packets per measurement; 0 is 500,000
	Rounds   int               // measurements per row, of which the fastest counts; 0 is 7
	Progress func(line string) // told what is being measured
}

// Report is what was measured. Rows compare within one report only.
type Report struct {
	Packet int     `json:"packet_bytes"`
	Repeat int     `json:"repeat"`
	Rounds int     `json:"rounds"`
	Alone  float64 `json:"alone_ns"` // one program, not composed: ns per packet
	Rows   []Row   `json:"rows"`
}

// Row is one composition at one length.
type Row struct {
	Composition string  `json:"composition"`
	Programs    int     `json:"programs"`
	Nanoseconds float64 `json:"ns"`    // per packet, the fastest round
	Ratio       float64 `json:"ratio"` // to one program alone
	// PerHop is what each program after the first adds: to one program composed
	// the same way, or to one alone where that is not measured.
	PerHop  float64 `json:"per_hop_ns"`
	Skipped string  `json:"skipped,omitempty"`
}

// packet is 64 bytes of Ethernet, IPv4 and UDP that every program lets pass.
func packet() []byte {
	p := make([]byte, 64)
	copy(p[12:], []byte{0x08, 0x00, 0x45, 0, 0, 50})
	copy(p[22:], []byte{64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1})
	return p
}

// Run measures. Rounds go around all rows, so that a slow spell of the
// machine hits all of them alike.
func Run(ctx context.Context, opts Options) (*Report, error) {
	if opts.Repeat == 0 {
		opts.Repeat = 500_000
	}
	if opts.Rounds == 0 {
		opts.Rounds = 7
	}
	if opts.Sizes == nil {
		opts.Sizes = Sizes
	}
	progress := opts.Progress
	if progress == nil {
		progress = func(string) {}
	}

	progress("loading programs")
	report := &Report{Packet: len(packet()), Repeat: opts.Repeat, Rounds: opts.Rounds}
	alone, err := Load(Merged, 0)
	if err != nil {
		return nil, err
	}
	defer alone.Close()
	var loaded []*Composed
	defer func() {
		for _, c := range loaded {
			if c != nil {
				c.Close()
			}
		}
	}()
	for _, size := range opts.Sizes {
		for _, how := range Compositions {
			c, err := Load(how, size)
			row := Row{Composition: how, Programs: size}
			if errors.Is(err, ErrTooLong) {
				row.Skipped = err.Error()
			} else if err != nil {
				return nil, fmt.Errorf("%d programs, %s: %w", size, how, err)
			}
			loaded = append(loaded, c)
			report.Rows = append(report.Rows, row)
		}
	}

	in := packet()
	for round := range opts.Rounds {
		progress(fmt.Sprintf("round %d of %d", round+1, opts.Rounds))
		if err := fastest(&report.Alone, alone, in, opts.Repeat); err != nil {
			return nil, err
		}
		for i, c := range loaded {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if c == nil {
				continue
			}
			if err := fastest(&report.Rows[i].Nanoseconds, c, in, opts.Repeat); err != nil {
				return nil, fmt.Errorf("%d programs, %s: %w", report.Rows[i].Programs, report.Rows[i].Composition, err)
			}
		}
	}
	first := map[string]float64{}
	for i := range report.Rows {
		r := &report.Rows[i]
		if r.Skipped != "" {
			continue
		}
		r.Ratio = r.Nanoseconds / report.Alone
		if r.Programs == 1 {
			first[r.Composition] = r.Nanoseconds
			continue
		}
		r.PerHop = (r.Nanoseconds - cmp.Or(first[r.Composition], report.Alone)) / float64(r.Programs-1)
	}
	return report, nil
}

// fastest lowers best to the time of one more measurement.
func fastest(best *float64, c *Composed, in []byte, repeat int) error {
	ns, err := c.Measure(in, repeat)
	if err != nil {
		return err
	}
	if *best == 0 || ns < *best {
		*best = ns
	}
	return nil
}

// Composed is one loaded composition.
type Composed struct {
	Program *ebpf.Program
	each    []*ebpf.Program // in place of Program, where the kernel composes
	close   []interface{ Close() error }
}

// Close frees the programs and maps.
func (c *Composed) Close() error {
	var errs []error
	for _, x := range slices.Backward(c.close) {
		errs = append(errs, x.Close())
	}
	return errors.Join(errs...)
}

// Measure gives nanoseconds per packet over repeat runs in the kernel
// (BPF_PROG_TEST_RUN). The packet must pass. The kernel's own figure is in
// whole nanoseconds, too coarse for a hop: the thread's time in the system call
// counts.
func (c *Composed) Measure(in []byte, repeat int) (float64, error) {
	verdict, _, err := c.Program.Test(in)
	if err != nil {
		return 0, err
	}
	if verdict != 2 {
		return 0, fmt.Errorf("the chain says %s to a packet that must pass", l3af.XDP.Verdict(int32(verdict)))
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	if _, _, err = c.Program.Benchmark(in, repeat, nil); err != nil {
		return 0, err
	}
	end, err := threadTime()
	return float64(end-start) / float64(repeat), err
}

// threadTime is how long the thread has run, in the kernel and outside.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()), err
}

// Load composes size programs and loads them. Size 0 is one program alone.
func Load(how string, size int) (*Composed, error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	switch {
	case size == 0:
		return single(spec, fmt.Sprintf("one_%d", firstHop))
	case how == Merged:
		return single(spec, fmt.Sprintf("merged_%d", size))
	case how == Calls:
		return single(spec, fmt.Sprintf("calls_%d", size))
	case how == Tail:
		return tailCalled(spec, size)
	}
	composed, err := chain.ComposeWith(l3af.XDP, hops(spec, l3af.XDP, size), chain.Options{NoCounters: how == Fused})
	if err != nil {
		return nil, err
	}
	return fused(composed)
}

func single(spec *ebpf.CollectionSpec, name string) (*Composed, error) {
	p, ok := spec.Programs[name]
	if !ok {
		return nil, fmt.Errorf("no program %s", name)
	}
	prog, err := ebpf.NewProgram(p)
	if err != nil {
		return nil, err
	}
	return &Composed{Program: prog, close: []interface{ Close() error }{prog}}, nil
}

// tailCalled chains programs as L3AF does: each has a PROG_ARRAY with one
// entry, the next program.
func tailCalled(spec *ebpf.CollectionSpec, size int) (*Composed, error) {
	if size > tailCalls {
		return nil, ErrTooLong
	}
	c := &Composed{}
	var last *ebpf.Map
	for i := range size {
		name, next := fmt.Sprintf("tail_%d", firstHop+i), fmt.Sprintf("next_%d", firstHop+i)
		part := &ebpf.CollectionSpec{
			Maps:      map[string]*ebpf.MapSpec{next: spec.Maps[next]},
			Programs:  map[string]*ebpf.ProgramSpec{name: spec.Programs[name]},
			Types:     spec.Types,
			ByteOrder: spec.ByteOrder,
		}
		coll, err := ebpf.NewCollection(part)
		if err != nil {
			c.Close()
			return nil, err
		}
		prog, slot := coll.Programs[name], coll.Maps[next]
		c.close = append(c.close, prog, slot)
		if last == nil {
			c.Program = prog
		} else if err := last.Put(uint32(0), prog); err != nil {
			c.Close()
			return nil, err
		}
		last = slot
	}
	return c, nil
}
