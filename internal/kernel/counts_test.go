package kernel

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// Counts of the running chain and of those it replaced are read until they are
// dropped, and no packet is counted twice or missed.
func TestCounts(t *testing.T) {
	for _, kind := range l3af.HookKinds() {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			testenv.Netns(t, "quiet")
			// Somebody listens, or the kernel would answer with packets of its own.
			testenv.In(t, "quiet", func() {
				server, err := net.ListenPacket("udp", "127.0.0.1:7")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { server.Close() })
			})
			k := open(t)
			target := hook(kind, "quiet", "lo")
			pass, drop := int32(xdpPass), int32(xdpDrop)
			if kind != l3af.XDP {
				pass, drop = tcUnspec, tcShot
			}
			passed, dropped := kind.Verdict(pass), kind.Verdict(drop)
			if counts, err := k.Counts(target, true); len(counts) > 0 || err != nil {
				t.Errorf("before any chain: %+v, %v", counts, err)
			}
			send := func(n int, port int) {
				t.Helper()
				for range n {
					sendOne(t, "quiet", "127.0.0.1", port)
				}
			}
			first, second := gate(t, kind, pass, pass), gate(t, kind, pass, drop)
			denied := []host.Contents{deny("g0", 9)}
			attach(t, k, host.Load{Target: target, Chain: first, Contents: denied})
			send(3, 7) // both pass
			send(2, 9) // the first drops
			attach(t, k, host.Load{Target: target, Chain: second, Contents: denied})
			send(4, 7) // the second drops
			k = restart(t, k)
			send(1, 9)

			counts, err := k.Counts(target, true)
			if err != nil || len(counts) != 2 {
				t.Fatalf("%+v, %v", counts, err)
			}
			byID := map[string]host.Counts{counts[0].ID: counts[0], counts[1].ID: counts[1]}
			check := func(id string, member int, want map[l3af.Verdict]uint64) {
				t.Helper()
				c := byID[id]
				if c.MapID == 0 || len(c.Programs) != 2 {
					t.Fatalf("chain %s: %+v", id, c)
				}
				total := uint64(0)
				for _, n := range want {
					total += n
				}
				p := c.Programs[member]
				if !maps.Equal(p.Verdicts, want) || p.Packets != total {
					t.Errorf("chain %s, program %+v, want %v", id, p, want)
				}
			}
			check(first.ID, 0, map[l3af.Verdict]uint64{passed: 3, dropped: 2})
			check(first.ID, 1, map[l3af.Verdict]uint64{passed: 3})
			check(second.ID, 0, map[l3af.Verdict]uint64{passed: 4, dropped: 1})
			check(second.ID, 1, map[l3af.Verdict]uint64{dropped: 4})

			// Back to the first before it was dropped: it counts on.
			attach(t, k, host.Load{Target: target, Chain: first, Contents: denied})
			send(1, 9)
			counts, err = k.Counts(target, true)
			if err != nil || len(counts) != 2 {
				t.Fatalf("%+v, %v", counts, err)
			}
			for _, c := range counts {
				if c.MapID != byID[c.ID].MapID {
					t.Errorf("counters of %s were map %d, are %d", c.ID, byID[c.ID].MapID, c.MapID)
				}
				byID[c.ID] = c
			}
			check(first.ID, 0, map[l3af.Verdict]uint64{passed: 3, dropped: 3})

			for range 2 {
				if err := k.DropCounts(target, second.ID); err != nil {
					t.Fatal(err)
				}
			}
			if counts, err = k.Counts(target, true); err != nil || len(counts) != 1 || counts[0].ID != first.ID {
				t.Errorf("after the drop %+v, %v", counts, err)
			}
		})
	}
}

// What is no counters among the counters hides nothing.
func TestCountsGarbage(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	c := gate(t, l3af.XDP, xdpPass)
	attach(t, k, host.Load{Target: target, Chain: c})
	dir := filepath.Join(k.path(target), "counters")
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Pin(filepath.Join(dir, "0123456789")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"%zz", "directory"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	counts, err := k.Counts(target, true)
	if err != nil || len(counts) != 1 || counts[0].ID != c.ID {
		t.Errorf("%+v, %v", counts, err)
	}
	if err := k.DropCounts(target, ""); err == nil {
		t.Error("counters of no chain were dropped")
	}
}
