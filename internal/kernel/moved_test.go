package kernel

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// An interface that goes and comes back is another; what is pinned for the old
// one is dead, and an attach puts the chain on the new one.
func TestInterfaceMadeAnew(t *testing.T) {
	for _, kind := range l3af.HookKinds() {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			k := open(t)
			target := hook(kind, "", "v0")
			pass := map[bool]int32{true: xdpPass, false: tcUnspec}[kind == l3af.XDP]
			load := host.Load{Target: target, Chain: gate(t, kind, pass), Contents: []host.Contents{deny("g0", 9)}}
			if _, err := k.Attach(t.Context(), load); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("on no interface: %v", err)
			}
			if left := tree(t, k.root); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			pair(t)
			attach(t, k, load)
			if err := pinnedMap(t, k, target, "g0", "deny").Put(port(10), u32(1)); err != nil {
				t.Fatal(err)
			}
			first := attached(t, k, target)
			testenv.DeleteLink(t, "", "v0")
			if a := attached(t, k, target); a != (host.Attached{Target: target}) {
				t.Errorf("without interface: %+v", a)
			}
			testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
			if a := attached(t, k, target); a != (host.Attached{Target: target}) {
				t.Errorf("on an interface that nothing was attached to: %+v", a)
			}
			load.Contents = nil
			attach(t, k, load)
			a := attached(t, k, target)
			if a.ID != load.Chain.ID || a.LinkID == first.LinkID {
				t.Errorf("read back %+v, first %+v", a, first)
			}
			if got := dump(t, pinnedMap(t, k, target, "g0", "deny")); len(got) != 2 {
				t.Errorf("the map's contents did not survive: %x", got)
			}
		})
	}
}

// A renamed interface runs on until its new name's chain takes over the link;
// the old name runs nothing then.
func TestInterfaceRenamed(t *testing.T) {
	for _, kind := range l3af.HookKinds() {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			pair(t)
			k := open(t)
			old, now := hook(kind, "", "v0"), hook(kind, "", "w0")
			pass := map[bool]int32{true: xdpPass, false: tcUnspec}[kind == l3af.XDP]
			attach(t, k, host.Load{Target: old, Chain: gate(t, kind, pass)})
			first := attached(t, k, old)
			rename(t, "v0", "w0")
			if a := attached(t, k, old); a != (host.Attached{Target: old}) {
				t.Errorf("under the old name: %+v", a)
			}
			c := gate(t, kind, pass, pass)
			attach(t, k, host.Load{Target: now, Chain: c})
			a := attached(t, k, now)
			if a.ID != c.ID || a.LinkID != first.LinkID {
				t.Errorf("under the new name %+v, before %+v", a, first)
			}
			if b := attached(t, k, old); b != (host.Attached{Target: old}) {
				t.Errorf("under the old name: %+v", b)
			}

			// Another interface gets the old name: two chains, each on its own.
			testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Name: "v9"})
			attach(t, k, host.Load{Target: old, Chain: c})
			b := attached(t, k, old)
			if b.ID != c.ID || b.LinkID == a.LinkID || attached(t, k, now) != a {
				t.Errorf("old name %+v, new name %+v", b, attached(t, k, now))
			}
			// And the names change places: neither runs what its name says.
			rename(t, "v0", "tmp")
			rename(t, "w0", "v0")
			rename(t, "tmp", "w0")
			for _, target := range []host.Target{old, now} {
				if a := attached(t, k, target); a.ID != "" {
					t.Errorf("%+v", a)
				}
			}
			testenv.DeleteLink(t, "", "v0")
			testenv.DeleteLink(t, "", "w0")
		})
	}
}

// Interfaces that change names never run without a program, in whatever order
// their chains take over.
func TestNamesChangePlaces(t *testing.T) {
	for _, kind := range l3af.HookKinds() {
		for name, renames := range map[string][]string{
			"swap":  {"v0>tmp", "w0>v0", "tmp>w0"},
			"shift": {"w0>x0", "v0>w0", "u0>v0"},
		} {
			t.Run(string(kind)+" "+name, func(t *testing.T) {
				testenv.Clean(t)
				pass := map[bool]int32{true: xdpPass, false: tcUnspec}[kind == l3af.XDP]
				for _, n := range []string{"u", "v", "w"} {
					testenv.Veth(t, testenv.End{Name: n + "0"}, testenv.End{Name: n + "1"})
				}
				k := open(t)
				for _, n := range []string{"v0", "w0"} {
					attach(t, k, host.Load{Target: hook(kind, "", n), Chain: gate(t, kind, pass)})
				}
				for _, r := range renames {
					from, to, _ := strings.Cut(r, ">")
					rename(t, from, to)
				}
				runs := func(name string) bool {
					d, err := findDevice(name)
					if err != nil {
						t.Fatal(err)
					}
					any, err := runsAny(kind, d)
					if err != nil {
						t.Fatal(err)
					}
					return any
				}
				var names []string
				for _, n := range []string{"v0", "w0", "x0"} {
					if _, err := findDevice(n); err == nil {
						names = append(names, n)
					}
				}
				next := gate(t, kind, pass, pass)
				for i, n := range names {
					attach(t, k, host.Load{Target: hook(kind, "", n), Chain: next})
					for _, later := range names[i+1:] {
						if !runs(later) {
							t.Errorf("nothing runs on %s after the attach to %s", later, n)
						}
					}
				}
				ids := map[uint32]bool{}
				for _, n := range names {
					a := attached(t, k, hook(kind, "", n))
					if a.ID != next.ID {
						t.Errorf("%+v", a)
					}
					ids[a.LinkID] = true
				}
				if len(ids) != len(names) {
					t.Errorf("links %v of %v", ids, names)
				}
				for _, n := range append(names, "u0") {
					if _, err := findDevice(n); err == nil {
						testenv.DeleteLink(t, "", n)
					}
				}
			})
		}
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	l, err := netlink.LinkByName(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetDown(l) },
		func() error { return netlink.LinkSetName(l, to) },
		func() error { return netlink.LinkSetUp(l) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// An interface that moved to another namespace is not the hook's any more,
// whatever its index is there.
func TestInterfaceMoved(t *testing.T) {
	testenv.Clean(t)
	testenv.Netns(t, "near")
	pair(t)
	k := open(t)
	target := hook(l3af.XDP, "near", "m0")
	testenv.Veth(t, testenv.End{Netns: "near", Name: "m0"}, testenv.End{Netns: "near", Name: "m1"})
	c := gate(t, l3af.XDP, xdpPass)
	attach(t, k, host.Load{Target: target, Chain: c})
	index := testenv.Interface(t, "near", "m0").Index
	testenv.In(t, "near", func() {
		l, err := netlink.LinkByName("m0")
		if err != nil {
			t.Fatal(err)
		}
		h, err := netns.GetFromName("far")
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if err := netlink.LinkSetNsFd(l, int(h)); err != nil {
			t.Fatal(err)
		}
		// Another one with the same name and index takes its place.
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = "m0", index
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "m2"}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { testenv.DeleteLink(t, "far", "m0") })
	if got := testenv.Interface(t, "near", "m0").Index; got != index {
		t.Fatalf("index %d, want %d", got, index)
	}
	if a := attached(t, k, target); a.ID != "" {
		t.Errorf("it runs elsewhere: %+v", a)
	}
	attach(t, k, host.Load{Target: target, Chain: c})
	a := attached(t, k, target)
	if a.ID != c.ID {
		t.Errorf("read back %+v", a)
	}
	checkOutside(t, a)
	// A namespace that is gone is no error but nothing runs there.
	if err := netns.DeleteNamed("near"); err != nil {
		t.Fatal(err)
	}
	if a := attached(t, k, target); a != (host.Attached{Target: target}) {
		t.Errorf("without namespace: %+v", a)
	}
	if _, err := k.Attach(t.Context(), host.Load{Target: target, Chain: c}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("attach without namespace: %v", err)
	}
	if _, err := k.Interfaces("near"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("interfaces without namespace: %v", err)
	}
}
