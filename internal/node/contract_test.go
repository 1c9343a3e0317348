package node_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/kernel"
	"l3af/internal/node"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(withoutAgents{testenv.Wrap(m)}.Run()) }

// withoutAgents removes the package with agents in the end.
type withoutAgents struct{ m interface{ Run() int } }

func (w withoutAgents) Run() int {
	defer func() { os.RemoveAll(node.AgentPackage()) }()
	return w.m.Run()
}

// machine is what the contract test walks on: the fake and the real one.
type machine struct {
	kernel  node.Kernel
	restart func() // the daemon's view of the kernel is made anew
	left    func() []string
	outside func() []string
	entries func() int // of the map a/table at xdp/v0
}

func onFake(*testing.T) *machine {
	k := node.NewFake()
	return &machine{
		kernel: k, restart: func() {}, left: k.Left, outside: k.Outside,
		entries: func() int { return k.Entries(node.HookOf("xdp/v0"), "a", "table") },
	}
}

func onReal(t *testing.T) *machine {
	testenv.Clean(t)
	testenv.Netns(t, "blue")
	testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Netns: "blue", Name: "v1"})
	testenv.Veth(t, testenv.End{Name: "w0"}, testenv.End{Name: "w1"})
	dir := "/sys/fs/bpf/l3af"
	var k *kernel.Kernel
	m := &machine{}
	m.restart = func() {
		if k != nil {
			if err := k.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if k, err = kernel.New(dir, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
			t.Fatal(err)
		}
		m.kernel = k
	}
	m.restart()
	t.Cleanup(func() {
		k.Close()
		// What runs runs on: the next test has an empty bpffs again.
		for _, d := range []string{dir, "/sys/fs/bpf/out"} {
			if err := os.RemoveAll(d); err != nil {
				t.Error(err)
			}
		}
	})
	m.left = func() (left []string) {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && path != dir && !slices.Contains([]string{"hooks", "probes"}, filepath.Base(path)) {
				left = append(left, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	m.outside = func() (pins []string) {
		err := filepath.WalkDir("/sys/fs/bpf/out", func(path string, d os.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err == nil && !d.IsDir() && filepath.Base(path) != "_rodata":
				pins = append(pins, path)
			case err == nil && d.IsDir():
				// A directory holds a pin, or another.
				entries, err := os.ReadDir(path)
				if err != nil || len(entries) == 0 {
					pins = append(pins, path+"/")
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return pins
	}
	m.entries = func() int {
		table, err := ebpf.LoadPinnedMap(filepath.Join(dir, "hooks/v0/xdp/maps/a/table"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer table.Close()
		n := 0
		var key, value []byte
		for it := table.Iterate(); it.Next(&key, &value); {
			n++
		}
		return n
	}
	return m
}

// Whole states, walked in order and in random order with restarts between:
// the machine becomes what each says, and applying it again changes nothing.
func TestContract(t *testing.T) {
	t.Run("fake", func(t *testing.T) { contract(t, onFake(t), 100) })
	t.Run("real", func(t *testing.T) { contract(t, onReal(t), 25) })
}

func contract(t *testing.T, m *machine, walk int) {
	table := node.States()
	order := make([]int, len(table))
	for i := range order {
		order[i] = i
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range walk {
		order = append(order, random.IntN(len(table)))
	}
	order = append(order, len(table)-1)

	dir := t.TempDir()
	open := func() *node.Node {
		n, err := node.Open(node.Options{Dir: dir, Kernel: m.kernel, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := open()
	defer func() { n.Close() }()
	ids := map[string]string{} // by state: the same state is the same chains
	was := ""
	for _, i := range order {
		s := table[i]
		name := fmt.Sprintf("%s after %q", s.Name, was)
		a, err := n.Apply(context.Background(), s.State, "test", -1)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(a.Failed) > 0 {
			t.Fatalf("%s: failed: %+v", name, a.Failed)
		}
		before := converged(t, name, n, m, s)
		if id, ok := ids[s.Name]; ok && id != before.ids {
			t.Errorf("%s: the chains are %s, were %s", name, before.ids, id)
		}
		ids[s.Name] = before.ids
		if len(s.Running)+len(s.Disabled) == 0 {
			if left := m.left(); len(left) > 0 {
				t.Errorf("%s: left behind: %q", name, left)
			}
		}

		a, err = n.Apply(context.Background(), s.State, "test", -1)
		if err != nil {
			t.Fatalf("%s: again: %v", name, err)
		}
		if a.Changed || len(a.Steps) > 0 {
			t.Errorf("%s: applied again: %+v", name, a)
		}
		if after := converged(t, name, n, m, s); after != before {
			t.Errorf("%s: applied again: was %+v, is %+v", name, before, after)
		}

		if random.IntN(3) == 0 {
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			m.restart()
			n = open()
			node.Reconcile(n)
			if after := converged(t, name, n, m, s); after != before {
				t.Errorf("%s: restarted: was %+v, is %+v", name, before, after)
			}
		}
		was = s.Name
		if t.Failed() {
			t.FailNow()
		}
	}
}

// picture is what must not change when nothing is to be changed.
type picture struct{ ids, kernel string }

// converged checks that the machine is what a state says.
func converged(t *testing.T, name string, n *node.Node, m *machine, want node.State) picture {
	t.Helper()
	attached, err := m.kernel.Attached()
	if err != nil {
		t.Fatal(err)
	}
	var running, ids, kernel []string
	for _, a := range attached {
		if a.ID == "" {
			if !slices.Contains(want.Disabled, a.Target.String()) {
				t.Errorf("%s: pins are left of %s", name, a.Target)
			}
			continue
		}
		running = append(running, a.Target.String())
		ids = append(ids, a.Target.String()+" "+a.ID)
		kernel = append(kernel, fmt.Sprintf("%s program %d link %d", a.Target, a.ProgramID, a.LinkID))
		if a.ProgramID == 0 || a.LinkID == 0 {
			t.Errorf("%s: %+v", name, a)
		}
	}
	sameSet(t, name+": attached", running, want.Running)
	slices.Sort(ids)
	slices.Sort(kernel)

	s, err := n.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Errors) > 0 {
		t.Errorf("%s: errors: %q", name, s.Errors)
	}
	var up, waiting, disabled []string
	for _, c := range s.Chains {
		at := l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}.String()
		doc := document(want.State, c)
		switch c.State {
		case l3af.Running:
			up = append(up, at+" "+c.ID)
			if c.Hook == l3af.XDP && c.Mode == "" || doc.Mode != "" && doc.Mode != c.Mode {
				t.Errorf("%s: %s runs in mode %q", name, at, c.Mode)
			}
		case l3af.Waiting:
			waiting = append(waiting, at)
		case l3af.Disabled:
			disabled = append(disabled, at)
		default:
			t.Errorf("%s: %s: %s %s", name, at, c.State, c.Error)
		}
		for i, p := range doc.Programs {
			if i >= len(c.Programs) || c.Programs[i].Name != p.Name || c.Programs[i].Package != p.Package ||
				(c.Programs[i].State == l3af.Disabled) != p.Disabled || (c.Programs[i].Linkage == "") != (c.State == l3af.Waiting || p.Disabled) {
				t.Errorf("%s: %s: programs are %+v", name, at, c.Programs)
			} else if agent := c.Programs[i].Agent; p.Agent != nil && (agent == nil || agent.State != "done") || p.Agent == nil && agent != nil && agent.State != "stopping" {
				t.Errorf("%s: %s: the agent of %s is %+v", name, at, p.Name, agent)
			}
		}
	}
	for _, p := range s.Probes {
		if p.State == l3af.Disabled {
			disabled = append(disabled, "probe/"+p.Name)
			continue
		}
		if p.State != l3af.Running || !strings.HasPrefix(p.Attach, "raw_tracepoint/") {
			t.Errorf("%s: probe %+v", name, p)
		}
		up = append(up, "probe/"+p.Name+" "+p.ID)
	}
	sameSet(t, name+": status", up, ids)
	sameSet(t, name+": waiting", waiting, want.Waiting)
	sameSet(t, name+": disabled", disabled, want.Disabled)
	outside := []string{}
	for _, path := range want.Outside {
		outside = append(outside, "/sys/fs/bpf/out/"+path)
	}
	sameSet(t, name+": pinned outside", m.outside(), outside)
	if want.Entries > 0 {
		if got := m.entries(); got != want.Entries {
			t.Errorf("%s: a/table has %d entries, want %d", name, got, want.Entries)
		}
	}
	return picture{strings.Join(ids, ", "), strings.Join(kernel, ", ")}
}

// document finds the chain that a status is of. Names come before globs.
func document(s *l3af.State, c l3af.ChainStatus) l3af.Chain {
	var found l3af.Chain
	for _, doc := range s.Chains {
		if doc.Hook != c.Hook || doc.Netns != c.Netns {
			continue
		}
		if doc.Interface == c.Interface {
			return doc
		}
		if ok, _ := filepath.Match(doc.Interface, c.Interface); ok && found.Hook == "" {
			found = doc
		}
	}
	return found
}

func sameSet(t *testing.T, what string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}
