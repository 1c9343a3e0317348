package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"l3af"
	"l3af/internal/node"
	"l3af/internal/testenv"
)

// The shipped programs on a real interface: real packets are counted through
// changes of the chain, restarts, and an interface that is made anew while
// the node runs.
func TestRealCountsGoOn(t *testing.T) {
	m := onReal(t)
	ends := []testenv.End{{Name: "p0", Addrs: []string{"10.9.0.1/24"}}, {Netns: "blue", Name: "p1", Addrs: []string{"10.9.0.2/24"}}}
	testenv.Veth(t, ends[0], ends[1])
	dir := t.TempDir()
	var n *node.Node
	stop := func() {}
	start := func() {
		var err error
		n, err = node.Open(node.Options{Dir: dir, Kernel: m.kernel, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		stop = func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	start()
	defer func() { stop() }()
	apply := func(names ...string) {
		t.Helper()
		s := &l3af.State{APIVersion: l3af.APIVersion}
		if len(names) > 0 {
			c := l3af.Chain{Interface: "p0", Hook: l3af.XDP}
			for _, name := range names {
				c.Programs = append(c.Programs, l3af.Program{Name: name, Package: "builtin:" + name})
			}
			s.Chains = append(s.Chains, c)
		}
		a, err := n.Apply(context.Background(), s, "test", -1)
		if err != nil || len(a.Failed) > 0 {
			t.Fatalf("apply %q: %+v, %v", names, a, err)
		}
	}
	send := func() {
		testenv.In(t, "blue", func() {
			c, err := net.Dial("udp", "10.9.0.1:9")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for range 50 {
				_, _ = c.Write([]byte("hello")) // refused by the port after the first
			}
		})
	}
	// counted waits until each program has counted at least so many packets
	// and returns how many each has.
	counted := func(least map[string]uint64) map[string]uint64 {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			s, err := n.Status(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Errors) > 0 {
				t.Fatalf("errors: %q", s.Errors)
			}
			got, enough := map[string]uint64{}, s.Chains[0].State == l3af.Running
			for _, p := range s.Chains[0].Programs {
				sum := uint64(0)
				for _, c := range p.Verdicts {
					sum += c
				}
				if p.Packets != sum {
					t.Fatalf("%s: %d packets, verdicts %v", p.Name, p.Packets, p.Verdicts)
				}
				got[p.Name] = p.Packets
				enough = enough && p.Packets >= least[p.Name]
			}
			if enough {
				return got
			}
			if time.Now().After(deadline) {
				t.Fatalf("counted %v, want %v: %+v", got, least, s)
			}
		}
	}
	more := func(was map[string]uint64, n uint64) map[string]uint64 {
		least := map[string]uint64{}
		for name, c := range was {
			least[name] = c + n
		}
		return least
	}

	apply("acl", "stats")
	send()
	// Some packets wait for the neighbour's address and may be lost.
	was := counted(map[string]uint64{"acl": 1, "stats": 1})
	send()
	was = counted(more(was, 50))
	apply("stats", "ratelimit", "acl")
	was = counted(was)
	send()
	was = counted(more(was, 50))
	stop()
	m.restart()
	start()
	was = counted(was)
	testenv.DeleteLink(t, "", "p0")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := n.Status(context.Background())
		if err == nil && s.Chains[0].State == l3af.Waiting {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not waiting: %+v, %v", s, err)
		}
	}
	testenv.Veth(t, ends[0], ends[1])
	was = counted(was)
	send()
	was = counted(more(was, 1))
	apply("acl")
	was = counted(map[string]uint64{"acl": was["acl"]})
	if len(was) != 1 {
		t.Errorf("counted: %v", was)
	}
	apply()
	if left := m.left(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A pin that somebody removed is made again, and what else there is stays.
func TestRealPinRemoved(t *testing.T) {
	m := onReal(t)
	n, err := node.Open(node.Options{Dir: t.TempDir(), Kernel: m.kernel, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	apply := func(s *l3af.State) {
		t.Helper()
		if a, err := n.Apply(context.Background(), s, "test", -1); err != nil || len(a.Failed) > 0 {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	entry := []l3af.MapEntry{{Key: "203.0.113.0/24", Value: json.Number("1")}}
	acl := l3af.Program{Name: "acl", Package: "builtin:acl", Settings: l3af.Settings{Maps: map[string][]l3af.MapEntry{"deny": entry, "allow": entry}}}
	apply(&l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{acl}}}})
	defer apply(&l3af.State{APIVersion: l3af.APIVersion})
	before := m.left()
	status := func() l3af.ChainStatus {
		t.Helper()
		s, err := n.Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return s.Chains[0]
	}
	was := status()
	for _, path := range before {
		if strings.HasSuffix(path, "/maps/acl/deny") {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(m.left()); n != len(before)-1 {
		t.Fatalf("%d pins, before %d", n, len(before))
	}
	node.Reconcile(n)
	sameSet(t, "pins", m.left(), before)
	now := status()
	if now.State != l3af.Running || now.ID != was.ID || now.LinkID != was.LinkID || now.ProgramID == was.ProgramID {
		t.Errorf("was %+v, is %+v", was, now)
	}
	node.Reconcile(n)
	if again := status(); again.ProgramID != now.ProgramID {
		t.Errorf("replaced again: %+v", again)
	}
}

// An agent finds the maps of its program before that runs: where we pin them,
// and where the document says.
func TestRealAgentFindsMaps(t *testing.T) {
	m := onReal(t)
	n, err := node.Open(node.Options{Dir: t.TempDir(), Kernel: m.kernel, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	out := filepath.Join(t.TempDir(), "found")
	const pins = "/sys/fs/bpf/out/v0/p"
	s := &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{{
		Name: "p", Package: node.AgentPackage(),
		Settings: l3af.Settings{PinPath: pins, Agent: &l3af.Agent{Start: []string{"init", "look", pins, out}}},
	}}}}}
	a, err := n.Apply(context.Background(), s, "test", -1)
	if err != nil || len(a.Failed) > 0 || len(a.Steps) != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	if found, err := os.ReadFile(out); err != nil || string(found) != "_data\ntable\n" {
		t.Errorf("found %q, %v", found, err)
	}
	// Another map in the place of one that somebody removed: the agent sees that, too.
	for _, path := range m.left() {
		if strings.HasSuffix(path, "/maps/p/table") {
			if err := errors.Join(os.Remove(path), os.Remove(out)); err != nil {
				t.Fatal(err)
			}
		}
	}
	node.Reconcile(n)
	if found, err := os.ReadFile(out); err != nil || string(found) != "_data\n_rodata\ntable\n" {
		t.Errorf("found %q, %v", found, err)
	}
	// A failure leaves what runs, and what was made for it goes with the next change.
	before := m.left()
	failing := *s
	failing.Chains = slices.Clone(s.Chains)
	failing.Chains[0].Programs = append(slices.Clone(s.Chains[0].Programs), l3af.Program{
		Name: "q", Package: node.AgentPackage(), Settings: l3af.Settings{Agent: &l3af.Agent{Start: []string{"init", "no", "x"}}},
	})
	if a, err = n.Apply(context.Background(), &failing, "test", -1); err != nil || len(a.Failed) != 1 || len(a.Steps) != 1 || a.Steps[0].Error == "" {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err = n.Apply(context.Background(), s, "test", -1); err != nil || len(a.Failed) != 0 || len(a.Steps) != 0 {
		t.Errorf("%+v, %v", a, err)
	}
	sameSet(t, "pins", m.left(), before)
	if a, err = n.Apply(context.Background(), &l3af.State{APIVersion: l3af.APIVersion}, "test", -1); err != nil || len(a.Failed) != 0 {
		t.Errorf("%+v, %v", a, err)
	}
	if left := m.left(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// What a program counts in a map becomes metrics, sampled while the node runs.
func TestRealMonitor(t *testing.T) {
	m := onReal(t)
	testenv.Veth(t, testenv.End{Name: "p0", Addrs: []string{"10.9.0.1/24"}}, testenv.End{Netns: "blue", Name: "p1", Addrs: []string{"10.9.0.2/24"}})
	object, err := filepath.Abs("../chain/testdata/corpus/l3af.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Open(node.Options{Dir: t.TempDir(), Kernel: m.kernel, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := errors.Join(<-ended, n.Close()); err != nil {
			t.Error(err)
		}
	}()
	apply := func(chains ...l3af.Chain) {
		t.Helper()
		if a, err := n.Apply(context.Background(), &l3af.State{APIVersion: l3af.APIVersion, Chains: chains}, "test", -1); err != nil || len(a.Failed) > 0 {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	defer apply()
	apply(l3af.Chain{Interface: "p0", Hook: l3af.XDP, Programs: []l3af.Program{
		{Name: "counts", Package: object, Entry: "l3af_xdp", Next: "next_program", Settings: l3af.Settings{
			PinPath: "/sys/fs/bpf/out/p0/counts/1",
			Monitor: []l3af.Monitor{{Map: "packets", Key: "0-3"}, {Map: "packets", Key: json.Number("0"), Aggregator: l3af.MaxRate}}}},
		{Name: "stats", Package: "builtin:stats"},
	}})
	sameSet(t, "pinned outside", m.outside(), []string{"/sys/fs/bpf/out/p0/counts/1/packets"})
	testenv.In(t, "blue", func() {
		c, err := net.Dial("udp", "10.9.0.1:9")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			_, _ = c.Write([]byte("hello")) // refused by the port after the first
			s, err := n.Status(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			values := s.Chains[0].Programs[0].Monitor
			sum := 0.0
			for _, v := range values[:min(4, len(values))] {
				sum += v.Value
			}
			if len(values) == 5 && sum >= 20 && sum <= float64(s.Chains[0].Programs[0].Packets) && values[4].Value > 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("told %+v, %d packets", values, s.Chains[0].Programs[0].Packets)
			}
		}
	})
}
