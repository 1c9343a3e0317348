package node

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"l3af/internal/host"
)

// ahead prepares the loads of steps before it is their turn: while one target
// is switched over, which is mostly waiting, the next ones are composed,
// loaded and verified, as many at a time as there are processors.
type ahead struct {
	of      map[*step]*preparation
	windows chan struct{} // an element for each load that is prepared and not attached
	stopped chan struct{}
	workers sync.WaitGroup
}

type preparation struct {
	step     *step
	done     chan struct{} // closed when the rest is known
	prepared host.Prepared
	err      error
	panicked any
}

// prepare begins to prepare what the steps attach. Left out is what cannot be
// known ahead: loads that share maps with others, which may be made or removed
// by the steps before, and changes of mode that were refused.
func (r *round) prepare(steps []step) *ahead {
	a := &ahead{of: map[*step]*preparation{}, stopped: make(chan struct{})}
	var list []*preparation
	for i := range steps {
		s := &steps[i]
		if s.want == nil || s.want.made.shares() || r.isRefused(s) {
			continue
		}
		// What is folded must be gone before counters are taken up again.
		if r.n.totals.dropFolded(s.target) != nil {
			continue // the step tries again, and tells
		}
		s.want.made.built.loads.Add(1)
		p := &preparation{step: s, done: make(chan struct{})}
		a.of[s] = p
		list = append(list, p)
	}
	workers := min(len(list), runtime.GOMAXPROCS(0))
	a.windows = make(chan struct{}, 2*workers)
	var next atomic.Int64
	ctx := context.WithoutCancel(r.ctx)
	for range workers {
		a.workers.Go(func() {
			for {
				select {
				case <-a.stopped:
					return
				case a.windows <- struct{}{}:
				}
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return
				}
				list[i].run(ctx, r)
			}
		})
	}
	return a
}

func (p *preparation) run(ctx context.Context, r *round) {
	defer close(p.done)
	defer func() { p.panicked = recover() }()
	m := p.step.want.made
	defer m.built.loaded()
	load, err := m.load(r.composer, p.step.target)
	if err == nil {
		p.prepared, err = r.n.kernel.Prepare(ctx, load)
	}
	p.err = err
}

// take waits for what was prepared for a step; nil: nothing was.
func (a *ahead) take(s *step) (host.Prepared, error) {
	p := a.of[s]
	if p == nil {
		return nil, nil
	}
	<-p.done
	delete(a.of, s)
	<-a.windows
	if p.panicked != nil {
		panic(p.panicked)
	}
	return p.prepared, p.err
}

// stop ends the work that nobody waits for any more.
func (a *ahead) stop() {
	close(a.stopped)
	a.workers.Wait()
	for _, p := range a.of {
		if p.prepared != nil {
			p.prepared.Close()
		}
	}
}
