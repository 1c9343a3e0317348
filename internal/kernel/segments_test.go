package kernel

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// gates composes a chain of n gate programs, g0 and so on. They have four maps
// each, so that fifteen fill a segment.
func gates(t testing.TB, kind l3af.HookKind, n int) *chain.Chain {
	t.Helper()
	verdicts := make([]int32, n)
	for i := range verdicts {
		verdicts[i] = xdpPass
		if kind != l3af.XDP {
			verdicts[i] = tcUnspec
		}
	}
	return gate(t, kind, verdicts...)
}

// lastGate is the name of the last of n gates.
func lastGate(n int) string { return "g" + string(rune('0'+n-1)) }

// segmentPins lists the pinned segments of a target.
func segmentPins(t *testing.T, k *Kernel, target host.Target) []string {
	t.Helper()
	return tree(t, filepath.Join(k.path(target), segmentsDir))
}

// While chains of one and several segments take each other's place, each
// packet meets the whole of the old or of the new: none passes the last program
// unseen, and none is lost between two segments.
func TestSegmentsUnderTraffic(t *testing.T) {
	for _, kind := range l3af.HookKinds() {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			pair(t)
			k := open(t)
			target := hook(kind, "", "v0")
			from, to, server := "far", "", "10.9.0.1"
			if kind == l3af.TCEgress {
				from, to, server = "", "far", "10.9.0.2"
			}
			sizes := []int{1, 16, 31, 16, 3, 31, 46, 30}
			chains := map[int]*chain.Chain{}
			for _, n := range sizes {
				chains[n] = gates(t, kind, n)
			}
			run := func(n int) {
				t.Helper()
				attach(t, k, host.Load{Target: target, Chain: chains[n], Contents: []host.Contents{deny(lastGate(n), 9)}})
				want := []string{chains[n].ID}
				if len(chains[n].Rest) == 0 {
					want = nil
				}
				if got := segmentPins(t, k, target); !slices.Equal(got, want) {
					t.Errorf("%d programs: pinned segments %v, want %v", n, got, want)
				}
				if a := attached(t, k, target); a.ID != chains[n].ID || a.Segments != (n+14)/15 {
					t.Errorf("%d programs: %+v", n, a)
				}
			}
			run(16)
			if arrives(t, from, to, server, 9) {
				t.Fatal("a denied packet arrives")
			}
			var denied, client *net.UDPConn
			var err error
			testenv.In(t, to, func() {
				if denied, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(server), Port: 9}); err != nil {
					t.Fatal(err)
				}
			})
			defer denied.Close()
			testenv.In(t, from, func() {
				if client, err = net.ListenUDP("udp", nil); err != nil {
					t.Fatal(err)
				}
			})
			defer client.Close()
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					// Refused at egress: that is an error here.
					_, _ = client.WriteTo([]byte("l3af"), &net.UDPAddr{IP: net.ParseIP(server), Port: []int{9, control}[i%2]})
				}
			}()
			for range 3 {
				for _, n := range sizes {
					run(n)
				}
			}
			close(stop)
			<-done
			if !arrives(t, from, to, server, control) {
				t.Error("an allowed packet does not arrive")
			}
			denied.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, _, err := denied.ReadFrom(make([]byte, 16)); err == nil {
				t.Error("a denied packet came through")
			}
			counts, err := k.Counts(target, true)
			if err != nil {
				t.Fatal(err)
			}
			reached := uint64(0)
			for _, c := range counts {
				for _, p := range c.Programs {
					if p.Verdicts[l3af.Other] > 0 {
						t.Errorf("%s of chain %s lost %d packets", p.Name, c.ID, p.Verdicts[l3af.Other])
					}
				}
				reached += c.Programs[len(c.Programs)-1].Packets
			}
			if len(counts) != len(chains) || reached == 0 {
				t.Errorf("%d chains counted, their last programs %d packets", len(counts), reached)
			}
		})
	}
}

// A restart adopts segments as they are; detaching leaves nothing of them.
func TestSegmentsComeAndGo(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	k := open(t)
	target := hook(l3af.XDP, "", "v0")
	load := host.Load{Target: target, Chain: gates(t, l3af.XDP, 31), Contents: []host.Contents{deny(lastGate(31), 9)}}
	if err := k.TestLoad(load); err != nil {
		t.Fatal(err)
	}
	if left := tree(t, k.root); len(left) > 0 {
		t.Errorf("TestLoad left %v", left)
	}
	attach(t, k, load)
	a := attached(t, k, target)
	denies := func(when string) {
		t.Helper()
		if arrives(t, "far", "", "10.9.0.1", 9) || !arrives(t, "far", "", "10.9.0.1", control) {
			t.Errorf("%s: the last segment does not decide", when)
		}
	}
	denies("at first")
	k = restart(t, k)
	if now := attached(t, k, target); now != a || a.Segments != 3 {
		t.Errorf("before a restart %+v, after it %+v", a, now)
	}
	denies("after a restart")

	// The same once more, in the mode it has and in another.
	for _, mode := range []l3af.Mode{l3af.Auto, l3af.Generic, l3af.Native} {
		load.Mode = mode
		attach(t, k, load)
		if pins := segmentPins(t, k, target); !slices.Equal(pins, []string{load.Chain.ID}) {
			t.Errorf("mode %s: pinned segments %v", mode, pins)
		}
		denies(string(mode))
	}

	// One that is refused changes nothing.
	bad := gates(t, l3af.XDP, 17)
	bad.Rest[0].Instructions = slices.Insert(bad.Rest[0].Instructions, 1, asm.Mov.Reg(asm.R0, asm.R9))
	if _, err := k.Attach(t.Context(), host.Load{Target: target, Chain: bad}); err == nil || !strings.Contains(err.Error(), "load: segment 2: ") || !strings.Contains(err.Error(), "R9 !read_ok") {
		t.Errorf("a bad second segment: %v", err)
	}
	if pins := segmentPins(t, k, target); !slices.Equal(pins, []string{load.Chain.ID}) {
		t.Errorf("after a refusal: pinned segments %v", pins)
	}
	denies("after a refusal")

	if err := k.Tidy(target, load.Chain); err != nil {
		t.Fatal(err)
	}
	denies("after Tidy")
	if err := k.Detach(target); err != nil {
		t.Fatal(err)
	}
	if pins := segmentPins(t, k, target); len(pins) > 0 {
		t.Errorf("after Detach: pinned segments %v", pins)
	}
	if !arrives(t, "far", "", "10.9.0.1", 9) {
		t.Error("after Detach a packet does not arrive")
	}
	attach(t, k, load)
	if err := k.Tidy(target, nil); err != nil {
		t.Fatal(err)
	}
	if left := tree(t, k.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// What a crash leaves of segments at any point of a change goes with the next
// start or change, and what runs runs on.
func TestSegmentsCrash(t *testing.T) {
	target := hook(l3af.XDP, "", "v0")
	for name, crash := range map[string]func(t *testing.T, k *Kernel, id string){
		"new segments pinned, link not switched": func(t *testing.T, k *Kernel, id string) {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if err := m.Pin(k.segmentsPath(target, "0123456789", 0)); err != nil {
				t.Fatal(err)
			}
		},
		"link switched to the same chain, old segments pinned": func(t *testing.T, k *Kernel, id string) {
			if err := os.Rename(k.segmentsPath(target, id, 0), k.segmentsPath(target, id, 1)); err != nil {
				t.Fatal(err)
			}
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if err := m.Pin(k.segmentsPath(target, id, 0)); err != nil {
				t.Fatal(err)
			}
		},
		"things of others among the pins": func(t *testing.T, k *Kernel, id string) {
			if err := os.Mkdir(filepath.Join(k.path(target), segmentsDir, "dir"), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(filepath.Join(k.path(target), segmentsDir, "dir")) })
			other := filepath.Join(k.path(hook(l3af.TCEgress, "", "v0")), linkPin)
			if err := os.MkdirAll(filepath.Dir(other), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := pinnedMap(t, k, target, "g0", "deny").Pin(other); err != nil {
				t.Fatal(err)
			}
		},
		"old segments removed, the new have a name to come": func(t *testing.T, k *Kernel, id string) {
			if err := os.Rename(k.segmentsPath(target, id, 0), k.segmentsPath(target, id, 1)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, start := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, start %t", name, start), func(t *testing.T) {
				testenv.Clean(t)
				pair(t)
				k := open(t)
				load := host.Load{Target: target, Chain: gates(t, l3af.XDP, 31), Contents: []host.Contents{deny(lastGate(31), 9)}}
				attach(t, k, load)
				crash(t, k, load.Chain.ID)
				if start {
					k = restart(t, k)
				} else if err := k.Tidy(target, load.Chain); err != nil {
					t.Fatal(err)
				}
				pins := slices.DeleteFunc(segmentPins(t, k, target), func(name string) bool { return name == "dir" })
				if !slices.Equal(pins, []string{load.Chain.ID}) {
					t.Errorf("pinned segments %v", pins)
				}
				if a := attached(t, k, target); a.ID != load.Chain.ID || a.Segments != 3 {
					t.Errorf("%+v", a)
				}
				if arrives(t, "far", "", "10.9.0.1", 9) || !arrives(t, "far", "", "10.9.0.1", control) {
					t.Error("the last segment does not decide")
				}
			})
		}
	}
}

// An interface that gets another name keeps the segments it runs.
func TestSegmentsRenamed(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	t.Cleanup(func() { testenv.DeleteLink(t, "", "new0") })
	k := open(t)
	load := host.Load{Target: hook(l3af.XDP, "", "v0"), Chain: gates(t, l3af.XDP, 31), Contents: []host.Contents{deny(lastGate(31), 9)}}
	attach(t, k, load)
	was := load.Target
	rename(t, "v0", "new0")
	load.Target = hook(l3af.XDP, "", "new0")
	attach(t, k, load)
	if err := k.Tidy(was, nil); err != nil {
		t.Fatal(err)
	}
	if pins := segmentPins(t, k, load.Target); !slices.Equal(pins, []string{load.Chain.ID}) {
		t.Errorf("pinned segments %v", pins)
	}
	if arrives(t, "far", "", "10.9.0.1", 9) || !arrives(t, "far", "", "10.9.0.1", control) {
		t.Error("the last segment does not decide")
	}
}

// A chain that is too much for the verifier is cut, and loaded as that at once
// the next time.
func TestTooMuchForTheVerifier(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	var members []chain.Member
	for i := range 4 {
		name := fmt.Sprint("p", i)
		members = append(members, chain.Member{Name: name, Entry: name, Spec: &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
			name: {Name: name, Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
				asm.Mov.Imm(asm.R1, 0),
				asm.Add.Imm(asm.R1, 1).WithSymbol("again"), asm.JLT.Imm(asm.R1, 150000, "again"),
				asm.Mov.Imm(asm.R0, 2), asm.Return(),
			}},
		}}})
	}
	c, err := chain.Compose(l3af.XDP, members)
	if err != nil {
		t.Fatal(err)
	}
	target := hook(l3af.XDP, "", "lo")
	res := attach(t, k, host.Load{Target: target, Chain: c})
	if len(c.Rest) != 0 || res.Chain == nil || len(res.Chain.Rest) != 1 || res.Chain.ID != c.ID {
		t.Fatalf("composed with %d more segments, became %+v", len(c.Rest), res.Chain)
	}
	if a := attached(t, k, target); a.ID != c.ID || a.Segments != 2 {
		t.Errorf("%+v", a)
	}
	if len(k.narrowed) != 1 {
		t.Errorf("remembers %d chains", len(k.narrowed))
	}
	again := attach(t, k, host.Load{Target: target, Chain: c})
	if again.Chain == nil || fmt.Sprint(again.Chain.Programs) != fmt.Sprint(res.Chain.Programs) {
		t.Errorf("again it became %+v", again.Chain)
	}
}
