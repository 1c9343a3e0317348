package node_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"l3af"
	"l3af/internal/node"
	"l3af/internal/testenv"
	"l3af/internal/testenv/stamp"
)

// Documents of every kind of change are applied and the node is restarted again
// and again while numbered packets flow: none is lost or comes
// twice, each meets one document's chain whole, and the counts of what stays
// miss none.
func TestDocumentsUnderLoad(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, c := range []struct {
		kind             l3af.HookKind
		from, to, server string
	}{
		{l3af.XDP, "blue", "", "10.9.0.1"},
		{l3af.TCEgress, "", "blue", "10.9.0.2"},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			m := onReal(t)
			testenv.Veth(t, testenv.End{Name: "p0", Addrs: []string{"10.9.0.1/24"}}, testenv.End{Netns: "blue", Name: "p1", Addrs: []string{"10.9.0.2/24"}})
			packages := t.TempDir()
			if err := os.CopyFS(packages, os.DirFS("../testenv/stamp/bpf")); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			var n *node.Node
			stop := func() {}
			start := func() {
				t.Helper()
				var err error
				if n, err = node.Open(node.Options{Dir: dir, Kernel: m.kernel, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				go func() { ended <- n.Run(ctx) }()
				stop = func() {
					cancel()
					if err := errors.Join(<-ended, n.Close()); err != nil {
						t.Error(err)
					}
				}
			}
			start()
			defer func() { stop() }()
			r := rand.New(rand.NewPCG(seed, 0))
			walk := stamp.NewWalk(t, c.kind, r)
			document := func() *l3af.State {
				chain := l3af.Chain{Interface: "p0", Hook: c.kind}
				for i, m := range walk.Members {
					config := map[string]any{}
					for name, v := range walk.Config(i) {
						config[name] = uint64(v)
					}
					chain.Programs = append(chain.Programs, l3af.Program{
						Name: m.Name, Package: filepath.Join(packages, filepath.Base(stamp.Files[m.Version])), Entry: m.Entry,
						Settings: l3af.Settings{Config: config},
					})
				}
				return &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{chain}}
			}
			flow := stamp.New(t, c.from, c.to, c.server)
			apply := func(g stamp.Generation) {
				t.Helper()
				flow.Next(g)
				a, err := n.Apply(context.Background(), document(), "test", -1)
				if err != nil || len(a.Failed) > 0 {
					t.Fatalf("apply: %+v, %v", a, err)
				}
				if g.Number == 1 {
					flow.Start()
				}
				flow.Attached(g)
			}
			chain, g := walk.Compose(t)
			apply(g)
			segments, most := len(chain.Specs()), 0
			for changes := 0; changes < 40 && !t.Failed(); {
				for _, i := range r.Perm(len(stamp.Kinds)) {
					chain, g, ok := walk.Change(t, stamp.Kinds[i], segments)
					if !ok {
						continue
					}
					apply(g)
					segments = len(chain.Specs())
					most = max(most, segments)
					changes++
				}
				stop()
				m.restart()
				start()
			}
			sent := flow.Finish()
			if t.Failed() {
				return
			}
			s, err := n.Status(t.Context())
			if err != nil || len(s.Errors) > 0 || s.Chains[0].Segments != segments || most < 2 {
				t.Fatalf("%+v, %v; %d segments, at most %d", s, err, segments, most)
			}
			for _, p := range s.Chains[0].Programs {
				if p.Name == stamp.Stays && p.Packets < sent {
					t.Errorf("%s counted %d packets of %d", p.Name, p.Packets, sent)
				}
			}
		})
	}
}
