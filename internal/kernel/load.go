package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// check refuses a load that makes no sense, before anything is touched.
func check(load host.Load) error {
	if err := checkTarget(load.Target); err != nil {
		return err
	}
	c := load.Chain
	switch {
	case c == nil || c.Program == nil:
		return errors.New("no program to load")
	case c.Kind != load.Target.Hook.Kind:
		return fmt.Errorf("a chain for %q at %s", c.Kind, load.Target)
	case c.Kind == l3af.XDP && !slices.Contains([]l3af.Mode{"", l3af.Auto, l3af.Native, l3af.Generic, l3af.Offload}, load.Mode):
		return fmt.Errorf("unknown mode %q", load.Mode)
	}
	return nil
}

// programs is a chain in the kernel: a program for each segment, and what leads
// from one to the next.
type programs struct {
	list     []*ebpf.Program
	segments *ebpf.Map    // nil with one segment
	chain    *chain.Chain // as it was composed in the end
}

func (p *programs) Close() {
	for _, prog := range p.list {
		prog.Close()
	}
	if p.segments != nil {
		p.segments.Close()
	}
}

// loadPrograms has the kernel verify the chain's programs. Where they exceed a
// limit of the verifier, narrower compositions of the chain are tried, and what
// the kernel took is remembered. ifindex is that of the device to offload to,
// else 0.
func (k *Kernel) loadPrograms(ctx context.Context, load host.Load, maps *mapSet, ifindex int) (*programs, error) {
	c := load.Chain
	k.narrow.Lock()
	known, ok := k.narrowed[c.ID]
	k.narrow.Unlock()
	if ok {
		if as, ok := c.As(known); ok {
			c = as
		}
	}
	for first := true; ; first = false {
		p, err := loadOnce(c, maps, ifindex)
		if err == nil {
			if !first {
				k.log.Info("a chain exceeded a limit of the verifier and was composed anew", "target", load.Target.String(), "chain", c.ID, "segments", 1+len(c.Rest))
				k.remember(c)
			}
			return p, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		next, ok := c.Narrow(err)
		if !ok {
			return nil, fmt.Errorf("load: %w", wholeLog(err))
		}
		k.log.Debug("compose a chain anew", "chain", c.ID, "error", err)
		c = next
	}
}

// remember keeps how a chain was composed in the end. There are few of those.
func (k *Kernel) remember(c *chain.Chain) {
	k.narrow.Lock()
	defer k.narrow.Unlock()
	if len(k.narrowed) >= 256 {
		clear(k.narrowed)
	}
	k.narrowed[c.ID] = c.Composition()
}

func loadOnce(c *chain.Chain, maps *mapSet, ifindex int) (_ *programs, err error) {
	p := &programs{chain: c}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if c.Segments != nil {
		if p.segments, err = ebpf.NewMap(c.Segments); err != nil {
			return nil, fmt.Errorf("make segments: %w", err)
		}
	}
	for i, spec := range p.chain.Specs() {
		spec, err := p.bound(spec, maps)
		if err != nil {
			return nil, err
		}
		spec.Ifindex = uint32(ifindex)
		prog, err := verify(spec)
		if err != nil {
			return nil, &chain.SegmentError{Segment: i, Err: err}
		}
		p.list = append(p.list, prog)
		if i > 0 {
			if err := p.segments.Put(uint32(i-1), prog); err != nil {
				return nil, fmt.Errorf("fill segments: %w", err)
			}
		}
	}
	return p, nil
}

// bound is a segment's program with its maps.
func (p *programs) bound(spec *ebpf.ProgramSpec, maps *mapSet) (*ebpf.ProgramSpec, error) {
	spec = spec.Copy()
	switch p.chain.Kind {
	case l3af.XDP:
		spec.Type, spec.AttachType = ebpf.XDP, ebpf.AttachXDP
	case l3af.TCIngress, l3af.TCEgress:
		spec.Type, spec.AttachType = ebpf.SchedCLS, tcxAttachType(p.chain.Kind)
	}
	if err := maps.bind(spec.Instructions); err != nil {
		return nil, err
	}
	if p.segments != nil {
		if err := spec.Instructions.AssociateMap(chain.SegmentsRef, p.segments); err != nil && !errors.Is(err, asm.ErrUnreferencedSymbol) {
			return nil, err
		}
	}
	return spec, nil
}

// verify loads a program. The log is for those that are refused, but for one
// that is too much for the verifier: it can be hundreds of megabytes, and says
// no more than that.
func verify(spec *ebpf.ProgramSpec) (*ebpf.Program, error) {
	prog, err := ebpf.NewProgramWithOptions(spec, ebpf.ProgramOptions{LogDisabled: true})
	if err == nil || errors.Is(err, unix.E2BIG) {
		return prog, err
	}
	return ebpf.NewProgramWithOptions(spec, ebpf.ProgramOptions{LogLevel: ebpf.LogLevelBranch})
}

// wholeLog makes an error hold all that the verifier said.
func wholeLog(err error) error {
	if rejected := (*ebpf.VerifierError)(nil); errors.As(err, &rejected) {
		whole := error(&verifierError{rejected})
		if s := (*chain.SegmentError)(nil); errors.As(err, &s) {
			whole = &chain.SegmentError{Segment: s.Segment, Err: whole}
		}
		return whole
	}
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("%w (the verifier gives up on a program after 1,000,000 instructions on all its ways; a single program of the chain takes that)", err)
	}
	return err
}

// verifierError is an [ebpf.VerifierError] whose text is the whole log, not
// its last line.
type verifierError struct{ err *ebpf.VerifierError }

func (e *verifierError) Error() string {
	// Refusals before the verifier began have no log.
	return strings.TrimSuffix(strings.TrimSpace(fmt.Sprintf("%+v", e.err)), ":")
}
func (e *verifierError) Unwrap() error { return e.err }
