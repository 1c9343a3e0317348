package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// What a crash leaves at any point of an attach is put in order by the next
// start, and by the next attach.
func TestCrashLeftovers(t *testing.T) {
	type state struct {
		k      *Kernel
		target host.Target
		old    *chain.Chain
	}
	// fresh attaches a chain of its own at iface and pins it where a new link
	// waits to take the old one's place.
	fresh := func(t *testing.T, s state, iface string) *chain.Chain {
		c := gate(t, l3af.TCIngress, tcUnspec, tcUnspec, tcUnspec)
		other := hook(l3af.TCIngress, "", iface)
		aside := filepath.Join(s.k.root, "aside")
		if err := os.Rename(s.k.linkPath(s.target), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		attach(t, s.k, host.Load{Target: other, Chain: c})
		if err := os.Rename(s.k.linkPath(other), filepath.Join(s.k.path(s.target), newLinkPin)); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(aside, s.k.linkPath(s.target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if other != s.target {
			if err := s.k.Tidy(other, nil); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	for name, crash := range map[string]func(t *testing.T, s state) (runs *chain.Chain){
		"maps pinned, no link": func(t *testing.T, s state) *chain.Chain {
			if err := s.k.Detach(s.target); err != nil {
				t.Fatal(err)
			}
			return nil
		},
		"a new link beside a dead one": func(t *testing.T, s state) *chain.Chain {
			rename(t, "v0", "tmp")
			rename(t, "w0", "v0")
			return fresh(t, s, "v0")
		},
		"a new link without an old one": func(t *testing.T, s state) *chain.Chain {
			if err := s.k.Detach(s.target); err != nil {
				t.Fatal(err)
			}
			return fresh(t, s, "v0")
		},
		"a new link beside one that runs": func(t *testing.T, s state) *chain.Chain {
			fresh(t, s, "w0")
			return s.old
		},
		"a detached link": func(t *testing.T, s state) *chain.Chain {
			l, err := link.LoadPinnedLink(s.k.linkPath(s.target), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := l.Detach(); err != nil {
				t.Fatal(err)
			}
			return nil
		},
		"a foreign pin in place of the link": func(t *testing.T, s state) *chain.Chain {
			if err := s.k.Detach(s.target); err != nil {
				t.Fatal(err)
			}
			if err := pinnedMap(t, s.k, s.target, "g0", "deny").Pin(s.k.linkPath(s.target)); err != nil {
				t.Fatal(err)
			}
			return nil
		},
	} {
		for _, start := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, start %t", name, start), func(t *testing.T) {
				testenv.Clean(t)
				pair(t)
				testenv.Veth(t, testenv.End{Name: "w0"}, testenv.End{Name: "w1"})
				t.Cleanup(func() { testenv.DeleteLink(t, "", "tmp"); testenv.DeleteLink(t, "", "v0") })
				s := state{k: open(t), target: hook(l3af.TCIngress, "", "v0"), old: gate(t, l3af.TCIngress, tcUnspec)}
				attach(t, s.k, host.Load{Target: s.target, Chain: s.old})
				runs := crash(t, s)
				if start {
					s.k = restart(t, s.k)
					a := attached(t, s.k, s.target)
					if runs == nil && a.ID != "" || runs != nil && a.ID != runs.ID {
						t.Errorf("after the start: %+v", a)
					}
				}
				next := gate(t, l3af.TCIngress, tcUnspec, tcUnspec)
				attach(t, s.k, host.Load{Target: s.target, Chain: next})
				a := attached(t, s.k, s.target)
				if a.ID != next.ID {
					t.Errorf("after the attach: %+v", a)
				}
				dev, err := findDevice("v0")
				if err != nil {
					t.Fatal(err)
				}
				// The kernel detaches what was unpinned some time later.
				eventually(t, func() bool {
					ids, err := tcxLinks(l3af.TCIngress, dev)
					return err == nil && len(ids) == 1 && uint32(ids[0]) == a.LinkID
				})
				if err := s.k.Tidy(s.target, next); err != nil {
					t.Fatal(err)
				}
				for _, p := range tree(t, s.k.path(s.target)) {
					if strings.Contains(p, newLinkPin) || strings.Contains(p, "g2") {
						t.Errorf("left: %s", p)
					}
				}
			})
		}
	}
}

// Tidy keeps what the chain has and the counters; the rest goes.
func TestTidy(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	long, short := gate(t, l3af.XDP, xdpPass, xdpPass), gate(t, l3af.XDP, xdpPass)
	attach(t, k, host.Load{Target: target, Chain: long})
	attach(t, k, host.Load{Target: target, Chain: short})
	if err := k.Tidy(target, short); err != nil {
		t.Fatal(err)
	}
	dir := "hooks/lo/xdp"
	want := []string{"hooks", "hooks/lo", dir, dir + "/counters", dir + "/counters/" + long.ID, dir + "/counters/" + short.ID,
		dir + "/link", dir + "/maps", dir + "/maps/g0", dir + "/maps/g0/%2Ebss", dir + "/maps/g0/%2Edata", dir + "/maps/g0/deny"}
	got := tree(t, k.root)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	if a := attached(t, k, target); a.ID != short.ID {
		t.Errorf("read back %+v", a)
	}
}
