package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/bind"
	"l3af/internal/chain"
)

// Build is what it takes to have chains.
type Build struct {
	Rounds int        `json:"rounds"`
	Rows   []BuildRow `json:"rows"`
}

// BuildRow is one chain. Times are of the fastest round, in microseconds.
type BuildRow struct {
	Of           string  `json:"of"` // hops or shipped: the programs of this benchmark, or those l3af ships
	Programs     int     `json:"programs"`
	Segments     int     `json:"segments"`
	Instructions int     `json:"instructions"` // in units of 8 bytes, as they are given to the kernel
	Compose      float64 `json:"compose_us"`   // from opened packages to a chain, objects parsed included
	Load         float64 `json:"load_us"`      // maps and programs: made, verified, compiled
	// Kernel's memory as it counts it (memlock in fdinfo), in bytes.
	ProgramMemory uint64 `json:"program_bytes"`
	MapMemory     uint64 `json:"map_bytes"` // counters and the programs' own maps
	// Kept is what the daemon keeps in memory of a chain that runs, in bytes.
	Kept int `json:"kept_bytes"`
}

// What is built.
const (
	Hops    = "hops"
	Shipped = "shipped"
)

// ShippedSizes are the lengths of chains of shipped programs.
var ShippedSizes = []int{1, 3, 10}

// RunBuild measures composing and loading, and what chains occupy.
func RunBuild(ctx context.Context, opts Options) (*Build, error) {
	report := &Build{Rounds: cmp.Or(opts.Rounds, 7)}
	progress := opts.Progress
	if progress == nil {
		progress = func(string) {}
	}
	sizes := opts.Sizes
	if sizes == nil {
		sizes = Sizes
	}
	var all []BuildRow
	for _, n := range sizes {
		all = append(all, BuildRow{Of: Hops, Programs: n})
	}
	for _, n := range ShippedSizes {
		all = append(all, BuildRow{Of: Shipped, Programs: n})
	}
	for _, row := range all {
		progress(fmt.Sprintf("build %d programs (%s)", row.Programs, row.Of))
		for range report.Rounds {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := row.build(); err != nil {
				return nil, fmt.Errorf("%d programs (%s): %w", row.Programs, row.Of, err)
			}
		}
		if err := row.keep(); err != nil {
			return nil, err
		}
		report.Rows = append(report.Rows, row)
	}
	return report, nil
}

// build builds the chain once more and closes it.
func (r *BuildRow) build() error {
	start := time.Now()
	made, err := r.compose()
	if err != nil {
		return err
	}
	composed := time.Since(start)
	start = time.Now()
	c, err := fused(made)
	if err != nil {
		return err
	}
	loaded := time.Since(start)
	defer c.Close()
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	if r.Compose == 0 || us(composed) < r.Compose {
		r.Compose = us(composed)
	}
	if r.Load == 0 || us(loaded) < r.Load {
		r.Load = us(loaded)
	}
	r.Segments, r.Instructions, r.ProgramMemory, r.MapMemory = len(made.Specs()), 0, 0, 0
	for _, spec := range made.Specs() {
		r.Instructions += int(spec.Instructions.Size() / 8)
	}
	for _, x := range c.close {
		switch x := x.(type) {
		case *ebpf.Program:
			info, err := x.Info()
			if err != nil {
				return err
			}
			n, _ := info.Memlock()
			r.ProgramMemory += n
		case *ebpf.Map:
			info, err := x.Info()
			if err != nil {
				return err
			}
			n, _ := info.Memlock()
			r.MapMemory += n
		}
	}
	return nil
}

// keep measures what stays of a chain in memory.
func (r *BuildRow) keep() error {
	const copies = 20
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	kept := make([]*chain.Chain, copies)
	before := heap()
	for i := range kept {
		made, err := r.compose()
		if err != nil {
			return err
		}
		kept[i] = made.Light()
	}
	r.Kept = max(0, int(heap())-int(before)) / copies
	runtime.KeepAlive(kept)
	return nil
}

func (r *BuildRow) compose() (*chain.Chain, error) {
	if r.Of == Hops {
		spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
		if err != nil {
			return nil, err
		}
		return chain.Compose(l3af.XDP, hops(spec, l3af.XDP, r.Programs))
	}
	var members []chain.Member
	var objects bind.Objects
	opened := map[string]*artifact.Package{}
	for i := range r.Programs {
		name := []string{"acl", "ratelimit", "stats"}[i%3]
		pkg := opened[name]
		if pkg == nil {
			var err error
			if pkg, err = artifact.Open("builtin:" + name); err != nil {
				return nil, err
			}
			opened[name] = pkg
		}
		p := l3af.Program{Name: fmt.Sprint(name, i), Package: "builtin:" + name}
		bound, mistakes := objects.Program(pkg, l3af.XDP, p, "programs")
		if len(mistakes) > 0 {
			return nil, &l3af.InvalidError{Mistakes: mistakes}
		}
		members = append(members, bound.Member)
	}
	return chain.Compose(l3af.XDP, members)
}

// fused loads a chain.
func fused(made *chain.Chain) (_ *Composed, err error) {
	c := &Composed{}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	maps := map[string]*ebpf.Map{}
	open := func(ref string, spec *ebpf.MapSpec) error {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return err
		}
		maps[ref], c.close = m, append(c.close, m)
		return nil
	}
	for _, m := range made.Maps {
		if err := open(m.Ref, m.Spec); err != nil {
			return nil, err
		}
	}
	if made.Segments != nil {
		if err := open(chain.SegmentsRef, made.Segments); err != nil {
			return nil, err
		}
	}
	for i, spec := range made.Specs() {
		spec := spec.Copy()
		for ref, m := range maps {
			if err := spec.Instructions.AssociateMap(ref, m); err != nil && !errors.Is(err, asm.ErrUnreferencedSymbol) {
				return nil, err
			}
		}
		p, err := ebpf.NewProgramWithOptions(spec, ebpf.ProgramOptions{LogDisabled: true})
		if err != nil {
			return nil, err
		}
		c.close = append(c.close, p)
		if i == 0 {
			c.Program = p
		} else if err := maps[chain.SegmentsRef].Put(uint32(i-1), p); err != nil {
			return nil, err
		}
	}
	return c, nil
}
