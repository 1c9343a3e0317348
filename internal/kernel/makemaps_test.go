package kernel

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// Maps are there, with their contents, before the chain that uses them, which
// takes them as they are by then. What runs meanwhile is not touched, maps of
// another shape neither, and nothing is left when the chain is given up.
func TestMakeMaps(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	before := len(tree(t, k.root))
	one, two := gate(t, l3af.XDP, xdpPass), gate(t, l3af.XDP, xdpPass, xdpPass)
	makeMaps := func(load host.Load) {
		t.Helper()
		for range 2 { // the second time changes nothing
			if err := k.MakeMaps(load); err != nil {
				t.Fatal(err)
			}
		}
	}
	holds := func(member string, want ...uint16) {
		t.Helper()
		got := dump(t, pinnedMap(t, k, target, member, "deny"))
		if len(got) != len(want) || slices.ContainsFunc(want, func(p uint16) bool { return got[string(port(p))] == "" }) {
			t.Errorf("%s/deny holds %x, want %d", member, got, want)
		}
	}
	makeMaps(host.Load{Target: target, Chain: one, Contents: []host.Contents{deny("g0", 7)}})
	holds("g0", 7)
	if a := attached(t, k, target); a.ID != "" || a.ProgramID != 0 {
		t.Errorf("it runs: %+v", a)
	}
	if left := list(t, k, k.path(target)); !slices.Equal(left, []string{"maps"}) {
		t.Errorf("there are %q", left)
	}
	// Somebody else looks, and writes.
	m := pinnedMap(t, k, target, "g0", "deny")
	if err := m.Put(port(8), u32(1)); err != nil {
		t.Fatal(err)
	}
	attach(t, k, host.Load{Target: target, Chain: one})
	holds("g0", 7, 8)
	was := attached(t, k, target)

	makeMaps(host.Load{Target: target, Chain: two, Contents: []host.Contents{deny("g1", 9)}})
	holds("g1", 9)
	if a := attached(t, k, target); a != was {
		t.Errorf("was %+v, is %+v", was, a)
	}
	if err := k.Tidy(target, one); err != nil {
		t.Fatal(err)
	}
	if left := list(t, k, k.path(target)+"/maps"); !slices.Equal(left, []string{"g0"}) {
		t.Errorf("given up, there are %q", left)
	}
	// A map of another shape waits for the switch, or for nothing.
	other := upgraded(t, func(s *ebpf.CollectionSpec) { s.Maps["deny"].MaxEntries = 17 })
	if err := k.MakeMaps(host.Load{Target: target, Chain: other}); err == nil {
		t.Error("a map of another shape: no error")
	}
	makeMaps(host.Load{Target: target, Chain: other, Reset: []string{"g0"}, Contents: []host.Contents{deny("g0", 5)}})
	holds("g0", 7, 8)
	ids := func() []uint32 {
		t.Helper()
		ids, err := k.MapIDs(target, other)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	old := ids()
	for _, renewed := range []bool{true, false} {
		attach(t, k, host.Load{Target: target, Chain: other, Reset: []string{"g0"}, Contents: []host.Contents{deny("g0", 5)}})
		now := ids()
		for i, m := range other.Maps {
			switch of := m.Member != "" && m.Name == "deny"; {
			case (now[i] != 0) != m.Pinned:
				t.Errorf("map %s/%s is %d", m.Member, m.Name, now[i])
			case of && (now[i] != old[i]) != renewed:
				t.Errorf("map %d in place of %d: want another one: %t", now[i], old[i], renewed)
			case of && now[i] != uint32(mapOf(t, k.mapPath(target, other.ID, &m))):
				t.Errorf("map %d is not the one that is pinned", now[i])
			}
		}
		old = now
	}
	holds("g0", 5)

	// Shared ones have a user as long as the target has them.
	shared := host.Load{Target: hook(l3af.TCIngress, "", "lo"), Chain: sharing(t, l3af.TCIngress, "edge", "a")}
	makeMaps(shared)
	if got := users(t, k, "edge"); len(got) != 1 {
		t.Errorf("users are %q", got)
	}
	for _, at := range []host.Target{target, shared.Target} {
		if err := k.Tidy(at, nil); err != nil {
			t.Fatal(err)
		}
	}
	if left := tree(t, k.root); len(left) != before {
		t.Errorf("left: %q", left)
	}
}
