package node

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"l3af"
	"l3af/internal/host"
)

// Under random changes, restarts and interfaces that come and go, with
// readers all the time, no count ever shrinks while its program stays, and in
// the end each is exact.
func TestCountsOnlyGrow(t *testing.T) {
	r := newRig(t)
	programs := state("two").Chains[0].Programs
	random := rand.New(rand.NewPCG(7, 8))
	shuffled := func() *l3af.State {
		s := state("two")
		list := slices.Clone(programs)
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for i := range list {
			list[i].Proceed = []l3af.Verdict{l3af.Pass, l3af.Drop, l3af.TX}[:1+random.IntN(3)]
		}
		if random.IntN(2) == 0 {
			list = append(list, l3af.Program{Name: "c", Package: programs[1].Package, Entry: "other"})
		}
		s.Chains[0].Programs = list
		return s
	}
	r.apply(shuffled())
	var mu sync.Mutex // the node is another one after a restart
	stop, end := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	exact := tally{}
	r.each = func() {
		n := uint64(random.IntN(3))
		r.k.Traffic(n, func(t host.Target, program string) { exact[key(t, program)] += n })
	}
	for range 2 {
		readers.Go(func() {
			last := map[string]uint64{}
			for stop.Err() == nil {
				mu.Lock()
				r.n.totals.mu.Lock()
				c, err := r.n.totals.read(hookOf("xdp/v0"))
				r.n.totals.mu.Unlock()
				mu.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
				for _, name := range []string{"a", "b"} {
					if c.sums[name].Packets < last[name] || c.sums[name].Verdicts[l3af.Pass] < last[name] {
						t.Errorf("%s counted %+v after %d", name, c.sums[name], last[name])
					}
					last[name] = c.sums[name].Packets
				}
			}
		})
	}
	for i := range 150 {
		switch random.IntN(8) {
		case 0:
			mu.Lock()
			r.restart()
			mu.Unlock()
		case 1:
			r.k.DeleteInterface("", "v0")
			r.reconcile()
			r.k.AddInterface("", "v0")
			r.reconcile()
		default:
			r.apply(shuffled())
		}
		got := told(r.status())
		for _, name := range []string{"a", "b"} {
			if k := key(hookOf("xdp/v0"), name); got[k] != exact[k] {
				t.Fatalf("change %d: told %d of %s, counted %d", i, got[k], k, exact[k])
			}
		}
	}
	end()
	readers.Wait()
	if exact[key(hookOf("xdp/v0"), "a")] == 0 {
		t.Error("nothing was counted")
	}
	// A program that left begins anew.
	r.apply(state("removed"))
	r.each = nil
	r.apply(state("two"))
	if got := told(r.status())[key(hookOf("xdp/v0"), "a")]; got != 0 {
		t.Errorf("a came back with %d", got)
	}
	if got := told(r.status())[key(hookOf("xdp/v0"), "b")]; got == 0 {
		t.Error("b stayed and lost its counts")
	}
}

// After a reboot nothing of the kernel is left. Totals of replaced chains are,
// if their hooks are.
func TestReboot(t *testing.T) {
	r := newRig(t)
	on := func(name string) *l3af.State {
		s := state(name)
		s.Chains = append(s.Chains, s.Chains[0])
		s.Chains[1].Interface = "w*"
		return s
	}
	r.apply(on("two"))
	r.k.Traffic(5, func(host.Target, string) {})
	r.apply(on("reordered"))
	r.k.Reboot()
	r.k.DeleteInterface("", "w0")
	r.restart()
	if totals := slices.Sorted(maps.Keys(r.n.totals.data.Totals)); !slices.Equal(totals, []string{"xdp/v0", "xdp/w1"}) {
		t.Errorf("totals are kept of %q", totals)
	}
	s := r.status()
	for _, p := range chainAt(t, s, "xdp/v0").Programs {
		if p.Packets != 5 || p.Verdicts[l3af.Pass] != 5 {
			t.Errorf("%+v", p)
		}
	}
	wantSteps(t, r.reconcile())
}
