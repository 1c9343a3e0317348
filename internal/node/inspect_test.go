package node_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/node"
	"l3af/internal/packet"
	"l3af/internal/testenv"
)

// inspected is a node on the real kernel that runs two programs at v0.
func inspected(t *testing.T) (*machine, *node.Node, l3af.Hook) {
	t.Helper()
	m := onReal(t)
	n, err := node.Open(node.Options{Dir: t.TempDir(), Kernel: m.kernel, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := n.Apply(context.Background(), &l3af.State{APIVersion: l3af.APIVersion}, "test", -1); err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	h := l3af.Hook{Interface: "v0", Kind: l3af.XDP}
	if a, err := n.Apply(t.Context(), chainOf("v0", "acl", "stats"), "test", -1); err != nil || len(a.Failed) > 0 {
		t.Fatalf("apply: %+v, %v", a, err)
	}
	return m, n, h
}

func chainOf(iface string, names ...string) *l3af.State {
	c := l3af.Chain{Interface: iface, Hook: l3af.XDP}
	for _, name := range names {
		c.Programs = append(c.Programs, l3af.Program{Name: name, Package: "builtin:" + name})
	}
	return &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{c}}
}

// Looking changes nothing: no plan, run, explanation or dump leaves a pin, a
// program, a map or a link, or is counted.
func TestLookingChangesNothing(t *testing.T) {
	m, n, h := inspected(t)
	req := &l3af.RunRequest{Packets: [][]byte{packet.UDP(netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"), nil)}}
	next := chainOf("v*", "stats", "ratelimit", "acl")
	pins := m.left()
	before, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, look := range map[string]func(*testing.T) error{
		"plan": func(t *testing.T) error {
			p, err := n.Plan(t.Context(), next)
			if err == nil && (len(p.Tried) != 1 || p.Tried[0].Target != "xdp/v0" || len(p.Tried[0].Programs) != 3 || p.Tried[0].Programs[1].Name != "ratelimit") {
				t.Errorf("tried: %+v", p.Tried)
			}
			return err
		},
		"run": func(t *testing.T) error {
			r, err := n.RunChain(t.Context(), h, req)
			if err == nil && (r.Packets[0].Program != "stats" || r.Packets[0].Verdict != l3af.Pass || r.Programs[0].Packets != 1 || r.Running != r.ID) {
				t.Errorf("run: %+v", r)
			}
			return err
		},
		"run live": func(t *testing.T) error {
			_, err := n.RunChain(t.Context(), h, &l3af.RunRequest{Packets: req.Packets, LiveMaps: true})
			return err
		},
		"run next": func(t *testing.T) error {
			r, err := n.RunChain(t.Context(), h, &l3af.RunRequest{Packets: req.Packets, State: next})
			if err == nil && (len(r.Programs) != 3 || r.Packets[0].Program != "acl" || r.Running == r.ID) {
				t.Errorf("run: %+v", r)
			}
			return err
		},
		"explain": func(t *testing.T) error {
			x, err := n.ExplainChain(t.Context(), h, nil)
			if err == nil && (len(x.Programs) != 2 || x.Programs[1].Cost.Verified == 0 || x.Cost.Verified < x.Programs[1].Cost.Verified || x.Programs[0].Entry != "acl") {
				t.Errorf("explain: %+v", x)
			}
			return err
		},
		"dump": func(t *testing.T) error {
			d, err := n.DumpChain(t.Context(), h, true)
			if err == nil && (len(d.Functions) == 0 || len(d.Jited) == 0) {
				t.Errorf("dump: %+v", d)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Clean(t)
			if err := look(t); err != nil {
				t.Fatal(err)
			}
			if now := m.left(); !slices.Equal(now, pins) {
				t.Errorf("pins were %v, are %v", pins, now)
			}
			now, err := n.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if a, b := before.Chains[0], now.Chains[0]; a.ProgramID != b.ProgramID || a.LinkID != b.LinkID || b.Programs[0].Packets > a.Programs[0].Packets+100 {
				t.Errorf("before %+v, now %+v", a, b)
			}
		})
	}
}

// In a dump each program's code is its own, in order, and what joins them is
// no program's.
func TestDump(t *testing.T) {
	_, n, h := inspected(t)
	d, err := n.DumpChain(t.Context(), h, false)
	if err != nil {
		t.Fatal(err)
	}
	var owners []string
	for _, ins := range d.Functions[0].Instructions {
		if len(owners) == 0 || owners[len(owners)-1] != ins.Program {
			owners = append(owners, ins.Program)
		}
	}
	if got := strings.Join(owners, ","); got != ",acl,,stats," {
		t.Errorf("owners: %s", got)
	}
	for _, f := range d.Functions[1:] {
		for _, ins := range f.Instructions {
			if ins.Program != "acl" && ins.Program != "stats" {
				t.Fatalf("%s: instruction %d is of %q", f.Name, ins.Offset, ins.Program)
			}
		}
	}
}

func TestInspectErrors(t *testing.T) {
	_, n, h := inspected(t)
	other := l3af.Hook{Interface: "w0", Kind: l3af.XDP}
	if _, err := n.RunChain(t.Context(), other, &l3af.RunRequest{}); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("run: %v", err)
	}
	if _, err := n.DumpChain(t.Context(), other, false); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("dump: %v", err)
	}
	invalid := (*l3af.InvalidError)(nil)
	if _, err := n.RunChain(t.Context(), h, &l3af.RunRequest{State: chainOf("w0", "acl")}); !errors.As(err, &invalid) {
		t.Errorf("a document without the hook: %v", err)
	}
	bad := filepath.Join(t.TempDir(), "bad.o")
	if err := os.WriteFile(bad, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := chainOf("v0", "acl")
	s.Chains[0].Programs[0].Package = bad
	if _, err := n.RunChain(t.Context(), h, &l3af.RunRequest{State: s}); !errors.As(err, &invalid) || !strings.HasPrefix(invalid.Mistakes[0].Path, "chains[0].programs[0]") {
		t.Errorf("a document with a bad package: %v", err)
	}
}
