package bench

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l3af"
	"l3af/internal/chain"
)

//go:embed hops/hops_tc.bpf.o
var objectTC []byte

// TCX is the kernel's own way to run several programs at one TC hook: a link
// each, at most 63 (bpf_mprog_max of linux/bpf_mprog.h).
const TCX = "TCX, a link each"

// What real packets are measured with.
var (
	LiveSizes        = []int{1, 10, 50}
	LiveCompositions = []string{Merged, Counted, Tail, Calls}
	TCSizes          = []int{1, 2, 5, 10, 20, 50, 63}
	TCCompositions   = []string{Merged, Counted, TCX}
)

// Live is what was measured with packets that cross a veth pair. Rows compare
// within one report only.
type Live struct {
	Hook   l3af.HookKind `json:"hook"`
	Frames int           `json:"frames"` // per measurement
	Rounds int           `json:"rounds"`
	None   float64       `json:"none_pps"` // packets a second of one CPU without any program
	Rows   []LiveRow     `json:"rows"`
}

// LiveRow is one composition at one length.
type LiveRow struct {
	Composition string  `json:"composition"`
	Programs    int     `json:"programs"`
	Rate        float64 `json:"pps"`   // packets a second of one CPU, the fastest round
	Ratio       float64 `json:"ratio"` // to none
	// Nanoseconds is what the programs add to a packet. Some of it is noise: a
	// packet's whole way takes hundreds.
	Nanoseconds float64 `json:"ns"`
	Skipped     string  `json:"skipped,omitempty"`
}

// RunLive measures packets a second of one CPU through a veth pair. At XDP they are sent
// from one end and meet the programs at the other, as native XDP; at TC they
// are given to the stack of one end. Behind the programs the stack drops them:
// they are for nobody.
func RunLive(ctx context.Context, kind l3af.HookKind, opts Options) (*Live, error) {
	sizes, compositions := LiveSizes, LiveCompositions
	if kind != l3af.XDP {
		sizes, compositions = TCSizes, TCCompositions
	}
	if opts.Sizes != nil {
		sizes = slices.DeleteFunc(slices.Clone(opts.Sizes), func(n int) bool { return !slices.Contains(sizes, n) })
	}
	report := &Live{Hook: kind, Frames: cmp.Or(opts.Repeat, 500_000), Rounds: cmp.Or(opts.Rounds, 7)}
	progress := opts.Progress
	if progress == nil {
		progress = func(string) {}
	}
	err := onWire(func(w *wire) error {
		progress("loading programs")
		var loaded []*Composed
		defer func() {
			for _, c := range loaded {
				if c != nil {
					c.Close()
				}
			}
		}()
		for _, size := range sizes {
			for _, how := range compositions {
				c, err := loadFor(kind, how, size)
				row := LiveRow{Composition: how, Programs: size}
				if errors.Is(err, ErrTooLong) {
					row.Skipped = err.Error()
				} else if err != nil {
					return fmt.Errorf("%d programs, %s: %w", size, how, err)
				}
				loaded, report.Rows = append(loaded, c), append(report.Rows, row)
			}
		}
		for round := range report.Rounds {
			progress(fmt.Sprintf("%s: round %d of %d", kind, round+1, report.Rounds))
			if err := w.faster(&report.None, kind, nil, report.Frames); err != nil {
				return err
			}
			for i, c := range loaded {
				if err := ctx.Err(); err != nil {
					return err
				}
				if c == nil {
					continue
				}
				if err := w.faster(&report.Rows[i].Rate, kind, c, report.Frames); err != nil {
					return fmt.Errorf("%d programs, %s: %w", report.Rows[i].Programs, report.Rows[i].Composition, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range report.Rows {
		if r := &report.Rows[i]; r.Skipped == "" {
			r.Ratio = r.Rate / report.None
			r.Nanoseconds = float64(time.Second)/r.Rate - float64(time.Second)/report.None
		}
	}
	return report, nil
}

// faster raises best to the rate of one more measurement; c is nil for no
// programs.
func (w *wire) faster(best *float64, kind l3af.HookKind, c *Composed, frames int) (err error) {
	var links []link.Link
	defer func() {
		for _, l := range links {
			err = errors.Join(err, l.Close())
		}
	}()
	switch {
	case c == nil:
	case kind == l3af.XDP:
		l, err := w.attach(w.far, c.Program)
		if err != nil {
			return err
		}
		links = append(links, l)
	default:
		for _, p := range c.programs() {
			l, err := link.AttachTCX(link.TCXOptions{Program: p, Attach: ebpf.AttachTCXIngress, Interface: w.near})
			if err != nil {
				return fmt.Errorf("attach TCX: %w", err)
			}
			links = append(links, l)
		}
	}
	if kind != l3af.XDP {
		took, err := w.run(w.give, frames)
		*best = max(*best, float64(frames)/took.Seconds())
		return err
	}
	before, err := w.arrived()
	if err != nil {
		return err
	}
	took, err := w.run(w.send, frames)
	if err != nil {
		return err
	}
	after, err := w.arrived()
	if err != nil {
		return err
	}
	// Packets that found the queue full cost less: they do not count.
	*best = max(*best, float64(after-before)/took.Seconds())
	return nil
}

// programs are those to attach, in order.
func (c *Composed) programs() []*ebpf.Program {
	if c.each != nil {
		return c.each
	}
	return []*ebpf.Program{c.Program}
}

func loadFor(kind l3af.HookKind, how string, size int) (*Composed, error) {
	if kind == l3af.XDP {
		return Load(how, size)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(objectTC))
	if err != nil {
		return nil, err
	}
	switch how {
	case Merged:
		return single(spec, fmt.Sprintf("merged_%d", size))
	case TCX:
		c := &Composed{}
		for i := range size {
			one, err := single(spec, fmt.Sprintf("one_%d", firstHop+i))
			if err != nil {
				c.Close()
				return nil, err
			}
			c.each, c.close = append(c.each, one.Program), append(c.close, one)
		}
		return c, nil
	}
	composed, err := chain.ComposeWith(kind, hops(spec, kind, size), chain.Options{NoCounters: how == Fused})
	if err != nil {
		return nil, err
	}
	return fused(composed)
}

// hops are the members of a chain of the object's single programs.
func hops(spec *ebpf.CollectionSpec, kind l3af.HookKind, size int) []chain.Member {
	members := make([]chain.Member, size)
	for i := range members {
		members[i] = chain.Member{
			Name:    fmt.Sprintf("hop%d", i),
			Spec:    spec,
			Entry:   fmt.Sprintf("one_%d", firstHop+i),
			Proceed: kind.DefaultProceed(),
		}
	}
	return members
}
