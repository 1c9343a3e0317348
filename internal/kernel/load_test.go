package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// A chain that cannot be loaded changes nothing.
func TestRejectedProgram(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	k := open(t)
	target := hook(l3af.XDP, "", "v0")
	good := gate(t, l3af.XDP, xdpPass)
	attach(t, k, host.Load{Target: target, Chain: good, Contents: []host.Contents{deny("g0", 9)}})
	before, pins, objects := attached(t, k, target), tree(t, k.root), testenv.List(t)

	var members []chain.Member
	for _, entry := range []string{"gate", "careless"} {
		members = append(members, chain.Member{Name: "g" + fmt.Sprint(len(members)), Spec: object(t), Entry: entry})
	}
	bad, err := chain.Compose(l3af.XDP, members)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 { // a log longer than the first buffer
		bad.Program.Instructions = slices.Insert(bad.Program.Instructions, 1, asm.Mov.Imm(asm.R0, int32(i)))
	}
	load := host.Load{Target: target, Chain: bad, Contents: []host.Contents{deny("g0", 10)}}
	for name, f := range map[string]func() error{
		"Attach":   func() error { _, err := k.Attach(t.Context(), load); return err },
		"TestLoad": func() error { return k.TestLoad(load) },
		"Attach on a hook where nothing runs": func() error {
			_, err := k.Attach(t.Context(), host.Load{Target: hook(l3af.XDP, "far", "v1"), Chain: bad})
			return err
		},
	} {
		err := f()
		rejected := (*ebpf.VerifierError)(nil)
		if !errors.As(err, &rejected) {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.HasPrefix(err.Error(), "load: ") || len(rejected.Log) < 200 {
			t.Errorf("%s: %d lines: %.100s", name, len(rejected.Log), err)
		}
		for _, line := range rejected.Log {
			if !strings.Contains(err.Error(), line) {
				t.Fatalf("%s: the error lacks the line %q", name, line)
			}
		}
		if now := attached(t, k, target); now != before {
			t.Errorf("%s: before %+v, now %+v", name, before, now)
		}
		if now := tree(t, k.root); !slices.Equal(now, pins) {
			t.Errorf("%s: pins were %v, are %v", name, pins, now)
		}
		if got := dump(t, pinnedMap(t, k, target, "g0", "deny")); len(got) != 1 || got[string(port(9))] == "" {
			t.Errorf("%s: the contents became %x", name, got)
		}
	}
	if now := testenv.List(t); len(now.Links) != len(objects.Links) {
		t.Errorf("%d links became %d", len(objects.Links), len(now.Links))
	}
}

// TestLoad verifies, says what Attach would, and leaves nothing.
func TestTestLoad(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	for _, load := range []host.Load{
		{Target: hook(l3af.XDP, "", "not-there"), Chain: gate(t, l3af.XDP, xdpPass, xdpDrop), Contents: []host.Contents{deny("g0", 9)}},
		{Target: hook(l3af.TCEgress, "not-there", "v0"), Chain: gate(t, l3af.TCEgress, tcUnspec)},
		{Target: host.Target{Probe: "e"}, Chain: probe(t, "raw_tracepoint/sched_process_exec", "raw_execs")},
	} {
		if err := k.TestLoad(load); err != nil {
			t.Errorf("%s: %v", load.Target, err)
		}
	}
	if left := tree(t, k.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	load := host.Load{Target: hook(l3af.XDP, "", "lo"), Chain: gate(t, l3af.XDP, xdpPass), Contents: []host.Contents{{Member: "g0", Map: "deny", Full: true, Entries: []host.Entry{{Key: []byte{1}}}}}}
	if err := k.TestLoad(load); err == nil || !strings.Contains(err.Error(), "map g0/deny: entry 0: the key has 1 bytes") {
		t.Errorf("bad contents: %v", err)
	}
}

// A pinned map of another shape is an error that names the difference.
func TestMapShapeMismatch(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	attach(t, k, host.Load{Target: target, Chain: gate(t, l3af.XDP, xdpPass)})
	before, pins := attached(t, k, target), tree(t, k.root)

	spec := object(t)
	spec.Maps["deny"].MaxEntries = 17
	c, err := chain.Compose(l3af.XDP, []chain.Member{{Name: "new", Spec: object(t), Entry: "gate"}, {Name: "g0", Spec: spec, Entry: "gate"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"Attach":   func() error { _, err := k.Attach(t.Context(), host.Load{Target: target, Chain: c}); return err },
		"TestLoad": func() error { return k.TestLoad(host.Load{Target: target, Chain: c}) },
		"Write":    func() error { _, err := k.Write(target, c, []host.Contents{deny("g0", 1)}); return err },
	} {
		if err := f(); !errors.Is(err, ebpf.ErrMapIncompatible) || !strings.Contains(err.Error(), "map g0/deny: the pinned map has another shape: MaxEntries: 16 changed to 17") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := attached(t, k, target); now != before {
		t.Errorf("before %+v, now %+v", before, now)
	}
	if now := tree(t, k.root); !slices.Equal(now, pins) {
		t.Errorf("pins were %v, are %v", pins, now)
	}
}
