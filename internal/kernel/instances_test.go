package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// sharing is a chain of gates that share their maps in an instance.
func sharing(t *testing.T, kind l3af.HookKind, instance string, names ...string) *chain.Chain {
	t.Helper()
	var members []chain.Member
	for _, name := range names {
		spec := object(t)
		entry, pass := "gate", int32(xdpPass)
		if kind != l3af.XDP {
			entry, pass = "gate_tc", tcUnspec
		}
		if err := spec.Variables["verdict"].Set(pass); err != nil {
			t.Fatal(err)
		}
		members = append(members, chain.Member{Name: name, Spec: spec, Entry: entry, Instance: instance})
	}
	c, err := chain.Compose(kind, members)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// users lists who uses the maps of an instance.
func users(t *testing.T, k *Kernel, instance string) []string {
	t.Helper()
	return list(t, k, filepath.Join(k.instanceDir(instance), "users"))
}

func list(t *testing.T, k *Kernel, dir string) []string {
	t.Helper()
	names, err := k.entries(dir)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Programs of one instance at hooks of all kinds and a probe use the same
// maps, which stay until the last of them goes.
func TestInstances(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	xdp, tc, ev := hook(l3af.XDP, "", "lo"), hook(l3af.TCIngress, "", "lo"), host.Target{Probe: "e.1"}
	shared := func(name string) string { return k.sharedPath("edge.1", name) }
	ofXDP := sharing(t, l3af.XDP, "edge.1", "a", "b")
	ofTC := sharing(t, l3af.TCIngress, "edge.1", "c")
	ofProbe, err := chain.Single("tracepoint/sched/sched_process_exec", chain.Member{Name: "e", Spec: object(t), Entry: "execs", Instance: "edge.1"})
	if err != nil {
		t.Fatal(err)
	}
	denied := deny("b", 9)
	denied.Instance = "edge.1"
	attach(t, k, host.Load{Target: xdp, Chain: ofXDP, Contents: []host.Contents{denied}})
	bss := mapOf(t, shared(".bss"))
	attach(t, k, host.Load{Target: tc, Chain: ofTC})
	attach(t, k, host.Load{Target: ev, Chain: ofProbe})
	if got := mapOf(t, shared(".bss")); got != bss {
		t.Errorf("map %d took the place of %d", got, bss)
	}
	if want := []string{"hooks,lo,tc-ingress", "hooks,lo,xdp", "probes,e%2E1"}; !slices.Equal(users(t, k, "edge.1"), want) {
		t.Errorf("used by %q, want %q", users(t, k, "edge.1"), want)
	}
	m, err := ebpf.LoadPinnedMap(shared("deny"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.LookupBytes(port(9)); err != nil {
		t.Errorf("what is written by one: %v", err)
	}
	// All programs count in one place: three for a packet, one for an exec.
	sendOne(t, "", "127.0.0.1", 9)
	eventually(t, func() bool {
		counted, err := ebpf.LoadPinnedMap(shared(".bss"), nil)
		if err != nil {
			return false
		}
		defer counted.Close()
		var n uint64
		return counted.Lookup(uint32(0), &n) == nil && n > 0
	})
	if n, err := k.Write(tc, ofTC, []host.Contents{{Member: "c", Instance: "edge.1", Map: "deny", Full: true}}); n != 1 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}

	// A restart changes nothing.
	before := tree(t, k.root)
	k = restart(t, k)
	if after := tree(t, k.root); !slices.Equal(before, after) {
		t.Errorf("before the restart %v, after %v", before, after)
	}
	// One that takes other maps is a user no more.
	alone := gate(t, l3af.XDP, xdpPass)
	attach(t, k, host.Load{Target: xdp, Chain: alone})
	if err := k.Tidy(xdp, alone); err != nil {
		t.Fatal(err)
	}
	if err := k.Tidy(tc, nil); err != nil {
		t.Fatal(err)
	}
	if got := users(t, k, "edge.1"); !slices.Equal(got, []string{"probes,e%2E1"}) {
		t.Errorf("used by %q", got)
	}
	if names := list(t, k, filepath.Join(k.instanceDir("edge.1"), "maps")); !slices.Equal(names, []string{"%2Ebss"}) {
		t.Errorf("the probe uses .bss alone; there are %q", names)
	}
	if err := k.Tidy(ev, nil); err != nil {
		t.Fatal(err)
	}
	for _, path := range tree(t, k.root) {
		if strings.HasPrefix(path, "instances") {
			t.Errorf("left: %s", path)
		}
	}
}

// A shared map whose shape changes starts anew once, for all its users.
func TestInstanceReset(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	change := func(kind l3af.HookKind, entry string) *chain.Chain {
		spec := object(t)
		spec.Maps["deny"].MaxEntries = 17
		c, err := chain.Compose(kind, []chain.Member{{Name: "a", Spec: spec, Entry: entry, Instance: "i"}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	xdp, tc := hook(l3af.XDP, "", "lo"), hook(l3af.TCEgress, "", "lo")
	attach(t, k, host.Load{Target: xdp, Chain: sharing(t, l3af.XDP, "i", "a")})
	attach(t, k, host.Load{Target: tc, Chain: sharing(t, l3af.TCEgress, "i", "a")})
	was, bss := mapOf(t, k.sharedPath("i", "deny")), mapOf(t, k.sharedPath("i", ".bss"))
	load := host.Load{Target: xdp, Chain: change(l3af.XDP, "gate")}
	if _, err := k.Attach(t.Context(), load); err == nil || !strings.Contains(err.Error(), "map deny of instance i: the pinned map has another shape") {
		t.Errorf("refused: %v", err)
	}
	load.Reset = []string{"a"}
	attach(t, k, load)
	now := mapOf(t, k.sharedPath("i", "deny"))
	attach(t, k, host.Load{Target: tc, Chain: change(l3af.TCEgress, "gate_tc"), Reset: []string{"a"}})
	if last := mapOf(t, k.sharedPath("i", "deny")); now == was || last != now {
		t.Errorf("the map was %d, then %d, is %d", was, now, last)
	}
	if mapOf(t, k.sharedPath("i", ".bss")) != bss {
		t.Error("a map that did not change starts anew")
	}
}

// What a crash leaves of a user that comes or goes does not outlive the last.
func TestInstanceCrash(t *testing.T) {
	testenv.Clean(t)
	target := hook(l3af.XDP, "", "lo")
	for name, crash := range map[string]func(k *Kernel) error{
		"marked, nothing pinned": func(k *Kernel) error {
			if err := k.leave(target, nil); err != nil {
				return err
			}
			if err := k.detach(target); err != nil {
				return err
			}
			_, err := k.use(target, sharing(t, l3af.XDP, "i", "a"))
			return err
		},
		"marked in part": func(k *Kernel) error {
			return os.Remove(filepath.Join(k.instanceDir("i"), "users", k.user(target), "deny"))
		},
		"pinned, no link": func(k *Kernel) error { return k.detach(target) },
		"no directory": func(k *Kernel) error {
			if err := k.detach(target); err != nil {
				return err
			}
			defer k.prune(filepath.Dir(k.path(target)))
			return removePins(k.path(target))
		},
		"no mark": func(k *Kernel) error { return removePins(filepath.Join(k.instanceDir("i"), "users")) },
		"gone, the maps still there": func(k *Kernel) error {
			if err := k.detach(target); err != nil {
				return err
			}
			if err := removePins(filepath.Join(k.instanceDir("i"), "users")); err != nil {
				return err
			}
			defer k.prune(filepath.Dir(k.path(target)))
			return removePins(k.path(target))
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t)
			attach(t, k, host.Load{Target: target, Chain: sharing(t, l3af.XDP, "i", "a")})
			if err := crash(k); err != nil {
				t.Fatal(err)
			}
			k = restart(t, k)
			// What a node does with targets it does not want.
			list, err := k.Attached()
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range list {
				if err := k.Tidy(a.Target, nil); err != nil {
					t.Fatal(err)
				}
			}
			if left := tree(t, k.root); slices.ContainsFunc(left, func(p string) bool { return p != "hooks" && p != "probes" }) {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// An attach that fails marks nobody.
func TestInstanceFailure(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	// The loopback interface has no native XDP.
	if _, err := k.Attach(t.Context(), host.Load{Target: target, Mode: l3af.Native, Chain: sharing(t, l3af.XDP, "i", "a")}); err == nil {
		t.Fatal("attached")
	}
	if left := tree(t, k.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
