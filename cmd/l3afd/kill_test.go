package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"l3af"
	"l3af/internal/testenv"
)

// random makes a state whose XDP chain on rx:v0 always has the acl of [full],
// among a random choice and order of other programs with random settings, and
// that may have TC chains besides.
func random(t testing.TB, r *rand.Rand) *l3af.State {
	s := state(t, full)
	c := &s.Chains[0]
	acl, limit, stats := c.Programs[0], c.Programs[1], c.Programs[2]
	limit.Config = map[string]any{"rate": 1_000_000 + r.IntN(3), "burst": 1_000_000}
	c.Programs = []l3af.Program{acl}
	for _, p := range []l3af.Program{limit, stats} {
		if r.IntN(3) > 0 {
			c.Programs = append(c.Programs, p)
		}
	}
	if r.IntN(2) == 0 {
		acl.Maps["deny"] = append(acl.Maps["deny"], l3af.MapEntry{Key: "198.51.100.0/24", Value: 1})
	}
	r.Shuffle(len(c.Programs), func(i, j int) { c.Programs[i], c.Programs[j] = c.Programs[j], c.Programs[i] })
	for _, kind := range []l3af.HookKind{l3af.TCIngress, l3af.TCEgress} {
		if r.IntN(2) == 0 {
			s.Chains = append(s.Chains, l3af.Chain{
				Interface: "v0", Netns: "rx", Hook: kind,
				Programs: []l3af.Program{{Name: "stats", Package: "builtin:stats"}},
			})
		}
	}
	return s
}

// The daemon is killed at random moments of random applies, again and again.
// The chain is attached at every moment; no packet that it passes is lost and
// none that it drops comes through; after each restart the node converges, and
// what runs and is pinned is what the state says and no more.
func TestKill(t *testing.T) {
	kills := 60
	if testing.Short() {
		kills = 10
	}
	testenv.Clean(t)
	wire(t)
	n := newNode(t)
	n.start()
	good, bad := newStream(t, "192.0.2.2", "192.0.2.1"), newStream(t, "192.0.2.66", "192.0.2.1")
	good.carries(10, true)
	n.apply(full)
	noRoom := dropped(t)
	w := watch(t)
	defer func() {
		if w != nil {
			w.end()
		}
	}()
	good.flow(2)
	bad.flow(1)

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	finished := 0
	longest := 60 * time.Millisecond
	for i := range kills {
		s := random(t, r)
		began := time.Now()
		answered := make(chan error, 1)
		go func() {
			_, err := n.Apply(context.Background(), s, -1)
			answered <- err
		}()
		time.Sleep(time.Duration(r.Int64N(int64(longest))))
		n.kill()
		if err := <-answered; err == nil {
			finished++
			// Not so late next time.
			longest = max(5*time.Millisecond, min(longest, time.Since(began)))
		} else if invalid := (*l3af.InvalidError)(nil); errors.As(err, &invalid) {
			t.Fatal(err)
		}
		n.start()
		st := n.settled()
		running := map[string]bool{}
		for _, c := range st.Chains {
			running["l3af_"+c.ID] = true
		}
		// The kernel frees what is replaced after a grace period.
		n.until("nothing is left behind", func() error {
			have := bpftool(t, "prog")
			if len(have) != len(st.Chains) || len(bpftool(t, "link")) != len(st.Chains) {
				return errors.New("programs or links are left")
			}
			for _, p := range have {
				if !running[p.Name[:min(len(p.Name), 15)]] {
					return errors.New(p.Name + " should not run")
				}
			}
			return nil
		})
		links := slices.DeleteFunc(n.pins(), func(p string) bool { return !strings.HasSuffix(p, "/link") })
		if len(links) != len(st.Chains) {
			t.Fatalf("kill %d: %d chains, pinned links %q", i, len(st.Chains), links)
		}
	}
	good.halt()
	bad.halt()
	w.end()
	watched := w
	w = nil
	if watched.err != nil {
		t.Fatal(watched.err)
	}
	if watched.bare > 0 {
		t.Errorf("%d of %d looks found no chain", watched.bare, watched.looks)
	}
	if got := good.arrived() + dropped(t) - noRoom; got < good.sent.Load() {
		t.Errorf("%d of %d packets were lost", good.sent.Load()-got, good.sent.Load())
	}
	if bad.carries(10, false); bad.arrived() > 0 {
		t.Errorf("%d of %d denied packets came through", bad.arrived(), bad.sent.Load())
	}
	if good.twice > 0 {
		t.Errorf("%d packets came twice", good.twice)
	}
	t.Logf("%d kills, %d after the apply had ended; %d packets; %d looks saw %d programs",
		kills, finished, good.sent.Load(), watched.looks, len(watched.ids))
	if len(watched.ids) < 3 {
		t.Errorf("only %d different programs ran: the test changed too little", len(watched.ids))
	}

	n.apply("apiVersion: l3af/v1")
	n.until("everything is gone", func() error {
		if p, l := bpftool(t, "prog"), bpftool(t, "link"); len(p)+len(l) > 0 {
			return errors.New("programs or links are left")
		}
		return nil
	})
	if left := n.pins(); slices.ContainsFunc(left, func(p string) bool { return p != "hooks" && p != "probes" }) {
		t.Errorf("left: pins %q", left)
	}
}
