package kernel

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// What is prepared is seen by nobody, can be let go, and is attached as what
// it was prepared for; many at a time, in any order.
func TestPrepare(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	const n = 8
	for i := range n {
		testenv.Veth(t, testenv.End{Name: fmt.Sprintf("p%d", i)}, testenv.End{Name: fmt.Sprintf("q%d", i)})
	}
	same := gate(t, l3af.XDP, xdpPass, xdpDrop) // one chain, as equal ones are in a node
	target := func(i int) host.Target { return hook(l3af.XDP, "", fmt.Sprintf("p%d", i)) }
	var ready [n]host.Prepared
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			ready[i], err = k.Prepare(t.Context(), host.Load{Target: target(i), Chain: same, Contents: []host.Contents{deny("g1", uint16(i))}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	if left := tree(t, k.root); len(left) > 0 {
		t.Errorf("before an attach there are %q", left)
	}
	for i := n - 1; i >= 0; i-- {
		if i == 3 {
			ready[i].Close()
			continue
		}
		if _, err := ready[i].Attach(t.Context()); err != nil {
			t.Errorf("%s: %v", target(i), err)
		}
		ready[i].Close()
	}
	for i := range n {
		if i == 3 {
			if left := list(t, k, k.path(target(i))); len(left) > 0 {
				t.Errorf("%s was let go and has %q", target(i), left)
			}
			continue
		}
		if got := attached(t, k, target(i)).ID; got != same.ID {
			t.Errorf("%s runs %q", target(i), got)
		}
		if got := dump(t, pinnedMap(t, k, target(i), "g1", "deny")); len(got) != 1 || got[string(port(uint16(i)))] == "" {
			t.Errorf("%s has the contents %x", target(i), got)
		}
	}
}

// Between Prepare and Attach maps come that it wanted to make, and go that it
// has adopted: nothing happens then, and preparing again does.
func TestPrepareStale(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	xdp, tc := hook(l3af.XDP, "", "lo"), hook(l3af.TCIngress, "", "lo")
	ofXDP := host.Load{Target: xdp, Chain: sharing(t, l3af.XDP, "edge", "a")}
	ofTC := host.Load{Target: tc, Chain: sharing(t, l3af.TCIngress, "edge", "b")}
	prepare := func(load host.Load) host.Prepared {
		t.Helper()
		p, err := k.Prepare(t.Context(), load)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	stale := func(p host.Prepared) {
		t.Helper()
		pins := tree(t, k.root)
		if _, err := p.Attach(t.Context()); !errors.Is(err, host.ErrStale) {
			t.Errorf("attached: %v", err)
		}
		if now := tree(t, k.root); !slices.Equal(now, pins) {
			t.Errorf("pins were %q, are %q", pins, now)
		}
	}
	first, second := prepare(ofXDP), prepare(ofTC)
	if _, err := first.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	stale(second) // the maps are there now
	adopts := prepare(ofTC)
	if err := k.Tidy(xdp, nil); err != nil {
		t.Fatal(err)
	}
	stale(adopts) // their last user is gone
	attach(t, k, ofXDP)
	stale(adopts) // and others are in their place
	again := prepare(ofTC)
	if _, err := again.Attach(t.Context()); err != nil {
		t.Error(err)
	}
	if want := []string{"hooks,lo,tc-ingress", "hooks,lo,xdp"}; !slices.Equal(users(t, k, "edge"), want) {
		t.Errorf("used by %q, want %q", users(t, k, "edge"), want)
	}
}
