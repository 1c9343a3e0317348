package node_test

import (
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/node"
	"l3af/internal/testenv"
)

// Programs whose objects pin a map by its name share it when they come to name
// one directory, and when a version in which it has another shape comes to
// another directory or to the same.
func TestSharedByName(t *testing.T) {
	for name, on := range map[string]func(*testing.T) *machine{"fake": onFake, "real": onReal} {
		t.Run(name, func(t *testing.T) {
			if name == "real" {
				testenv.Root(t)
			}
			m := on(t)
			n, err := node.Open(node.Options{Dir: t.TempDir(), Kernel: m.kernel})
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			apply := func(object, in, out string) {
				t.Helper()
				s := &l3af.State{APIVersion: l3af.APIVersion}
				for kind, at := range map[l3af.HookKind]string{l3af.TCIngress: in, l3af.TCEgress: out} {
					path, err := filepath.Abs(filepath.Join("testdata", object))
					if err != nil {
						t.Fatal(err)
					}
					s.Chains = append(s.Chains, l3af.Chain{Interface: "v0", Hook: kind, Programs: []l3af.Program{{
						Name: "a", Package: path, Entry: "tiny_tc", Settings: l3af.Settings{PinPath: "/sys/fs/bpf/out/" + at, OnMapChange: l3af.ResetMapChange},
					}}})
				}
				for i := range 2 {
					a, err := n.Apply(t.Context(), s, "test", -1)
					if err != nil || len(a.Failed) > 0 || i > 0 && len(a.Steps) > 0 {
						t.Fatalf("%s at %s and %s: %+v, %v", object, in, out, a, err)
					}
				}
				if name == "fake" {
					return
				}
				ids := map[ebpf.MapID]bool{}
				for _, at := range []string{"l3af/hooks/v0/tc-ingress/maps/a", "l3af/hooks/v0/tc-egress/maps/a", "out/" + in, "out/" + out} {
					table, err := ebpf.LoadPinnedMap(filepath.Join("/sys/fs/bpf", at, "table"), nil)
					if err != nil {
						t.Fatal(err)
					}
					info, err := table.Info()
					table.Close()
					if err != nil {
						t.Fatal(err)
					}
					id, _ := info.ID()
					ids[id] = true
				}
				if want := map[bool]int{true: 1, false: 2}[in == out]; len(ids) != want {
					t.Errorf("%s at %s and %s: maps %v, want %d", object, in, out, ids, want)
				}
			}
			apply("byname.bpf.o", "x", "y")
			apply("byname.bpf.o", "x", "x")
			apply("byname2.bpf.o", "v2", "v2")
			apply("byname.bpf.o", "v2", "v2")
			if _, err := n.Apply(t.Context(), &l3af.State{APIVersion: l3af.APIVersion}, "test", -1); err != nil {
				t.Fatal(err)
			}
			if left := append(m.left(), m.outside()...); len(left) > 0 {
				t.Errorf("left %q", left)
			}
		})
	}
}
