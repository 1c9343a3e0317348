package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/host"
)

// Somebody else detaches a chain: until the next look status says that it does
// not run, and not that its interface is missing.
func TestDetachedByOthers(t *testing.T) {
	r := newRig(t)
	r.apply(state("two"))
	if err := r.k.Detach(hookOf("xdp/v0")); err != nil {
		t.Fatal(err)
	}
	if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Waiting || c.Error != "it is not attached yet" {
		t.Errorf("%+v", c)
	}
	wantSteps(t, r.reconcile(), "attach xdp/v0")
	if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Running || c.Error != "" {
		t.Errorf("%+v", c)
	}
}

// A revision that cannot be read: what runs runs on, nothing is changed and
// the file stays until a state is applied.
func TestDamagedRevision(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"cut short":    func(b []byte) []byte { return b[:len(b)/2] },
		"cut by one":   func(b []byte) []byte { return b[:len(b)-2] },
		"empty":        func([]byte) []byte { return nil },
		"zeros":        func(b []byte) []byte { return make([]byte, len(b)) },
		"wrong number": func(b []byte) []byte { return bytes.Replace(b, []byte(`"revision": 2`), []byte(`"revision": 7`), 1) },
		"no state":     func([]byte) []byte { return []byte(`{"revision": 2}`) },
		"bad hook":     func(b []byte) []byte { return bytes.Replace(b, []byte(`"xdp"`), []byte(`"xpd"`), 1) },
		"two":          func(b []byte) []byte { return append(b, b...) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.apply(state("two"))
			r.apply(state("hooks"))
			r.n.Close()
			path := filepath.Join(r.dir, "revisions", revisionName(2))
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged := damage(whole)
			if bytes.Equal(damaged, whole) {
				t.Fatal("not damaged")
			}
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			before := r.k.Left()

			r.open()
			wantSteps(t, r.reconcile())
			if after := r.k.Left(); !slices.Equal(after, before) {
				t.Errorf("changed: %q, was %q", after, before)
			}
			s := r.status()
			if len(s.Errors) != 1 || !strings.Contains(s.Errors[0], path) || s.Revision != 2 {
				t.Errorf("status: %+v", s)
			}
			if len(s.Chains) != 3 || chainAt(t, s, "xdp/v0").State != l3af.Running || chainAt(t, s, "xdp/v0").Programs[0].Name != "a" {
				t.Errorf("chains: %+v", s.Chains)
			}
			if r.n.Current() != nil {
				t.Errorf("current: %+v", r.n.Current())
			}
			if _, err := r.n.Apply(context.Background(), state("two"), "test", 1); !isConflict(err, 2, false) {
				t.Errorf("apply on revision 1: %v", err)
			}
			if kept, err := os.ReadFile(path); err != nil || !bytes.Equal(kept, damaged) {
				t.Errorf("the damaged file was changed: %v", err)
			}

			a, err := r.n.Rollback(context.Background(), 0, "test", 2)
			if err != nil || a.Revision != 3 || !a.Changed {
				t.Fatalf("rollback: %+v, %v", a, err)
			}
			if kept, err := os.ReadFile(path + ".damaged"); err != nil || !bytes.Equal(kept, damaged) {
				t.Errorf("the damaged file was not kept: %v", err)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("the damaged file is still in the way")
			}
			if !sameState(r.n.Current(), state("two")) || len(r.status().Errors) > 0 {
				t.Errorf("after rollback: %+v, %+v", r.n.Current(), r.status())
			}
			// The number of a damaged revision is never used again.
			os.Remove(filepath.Join(r.dir, "revisions", revisionName(3)))
			os.Remove(filepath.Join(r.dir, "revisions", revisionName(1)))
			r.restart()
			if a := r.apply(state("one")); a.Revision != 3 {
				t.Errorf("revision %d after 2 was damaged", a.Revision)
			}
		})
	}
}

func isConflict(err error, current int, busy bool) bool {
	var c *l3af.ConflictError
	return errors.As(err, &c) && c.Current == current && c.Busy == busy
}

// What cannot be removed, read or counted is told, and done when it can be.
func TestTroubles(t *testing.T) {
	r := newRig(t)
	r.apply(state("hooks"))
	for method, wants := range map[string]string{
		"Attached": "node", "Detach": "tc-ingress/v0", "Tidy": "tc-ingress/v0", "Counts": "xdp/v0",
	} {
		r.apply(state("hooks"))
		r.k.Before = func(m string, target host.Target) error {
			if m == method && (m == "Attached" || target == hookOf(wants)) {
				return errors.New("the kernel is out of sorts")
			}
			return nil
		}
		a, err := r.n.Apply(context.Background(), state("two"), "test", -1)
		if err != nil || len(a.Failed) != 1 || a.Failed[0].Target != wants || !strings.Contains(a.Failed[0].Error, "out of sorts") {
			t.Errorf("%s: %+v, %v", method, a, err)
		}
		r.k.Before = nil
		if s := r.status(); len(s.Errors) != 1 || s.Errors[0] != a.Failed[0].Error {
			t.Errorf("%s: status: %+v", method, s)
		}
		r.reconcile()
		if s := r.status(); len(s.Errors) != 0 || chainAt(t, s, "xdp/v0").State != l3af.Running {
			t.Errorf("%s: status in the end: %+v", method, s)
		}
		if left := strings.Join(r.k.Left(), ", "); strings.Contains(left, "tc-") || strings.Count(left, "counters") != 1 {
			t.Errorf("%s: left: %s", method, left)
		}
	}
}

func TestSecondDaemon(t *testing.T) {
	r := newRig(t)
	r.apply(state("two"))
	before := r.seen
	_, err := Open(Options{Dir: r.dir, Kernel: r.k, point: r.point})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) || !strings.Contains(err.Error(), r.dir) {
		t.Errorf("second daemon: %v", err)
	}
	if len(r.seen) != len(before) {
		t.Errorf("it changed %q", r.seen[len(before):])
	}
	r.n.Close()
	r.open()
}

// A chain that does not load leaves the others alone and what ran running.
func TestBrokenHookIsAlone(t *testing.T) {
	r := newRig(t)
	r.apply(state("globs")) // a and b at w0, b at v0 and w1
	r.k.Traffic(10, func(host.Target, string) {})
	r.k.Refuse = map[string]error{"a": errors.New("verifier: 1: R1 invalid mem access\n2: and so on")}
	before := chainAt(t, r.status(), "xdp/w0")

	s := state("globs")
	for i := range s.Chains {
		s.Chains[i].Programs = slices.Clone(s.Chains[i].Programs)
		slices.Reverse(s.Chains[i].Programs)
	}
	s.Chains[1].Programs = append(s.Chains[1].Programs, l3af.Program{Name: "c", Package: s.Chains[1].Programs[0].Package, Entry: "other"})
	a, err := r.n.Apply(context.Background(), s, "test", -1)
	if err != nil {
		t.Fatal(err)
	}
	wantSteps(t, a.Steps, "replace xdp/w0", "replace xdp/v0")
	if len(a.Failed) != 1 || a.Failed[0].Target != "xdp/w0" || !strings.Contains(a.Failed[0].Error, "and so on") {
		t.Errorf("failed: %+v", a.Failed)
	}
	r.k.Traffic(5, func(host.Target, string) {})
	st := r.status()
	c := chainAt(t, st, "xdp/w0")
	if c.State != l3af.Failed || !strings.Contains(c.Error, "and so on") || c.ID != before.ID || c.ProgramID != before.ProgramID || c.LinkID != before.LinkID {
		t.Errorf("broken: %+v, was %+v", c, before)
	}
	if len(c.Programs) != 2 || c.Programs[0].Name != "b" || c.Programs[0].Packets != 15 || c.Programs[1].Packets != 15 {
		t.Errorf("broken: programs %+v", c.Programs)
	}
	if c := chainAt(t, st, "xdp/v0"); c.State != l3af.Running || len(c.Programs) != 2 || c.Programs[1].Packets != 5 {
		t.Errorf("other: %+v", c)
	}
	// It is tried again, told once, and heals by itself.
	wantSteps(t, r.reconcile(), "replace xdp/w0")
	n := 0
	for ev := range events0(r.n) {
		if ev.Kind == eventFailed {
			n++
		}
	}
	if n != 1 {
		t.Errorf("told %d times", n)
	}
	r.k.Refuse = nil
	wantSteps(t, r.reconcile(), "replace xdp/w0")
	if c := chainAt(t, r.status(), "xdp/w0"); c.State != l3af.Running || c.Error != "" || c.ID == before.ID || c.Programs[0].Packets != 15 {
		t.Errorf("healed: %+v", c)
	}

	if want := "replace xdp/w0: load: verifier"; !strings.HasPrefix(c.Error, want) {
		t.Errorf("error %q, want %s…", c.Error, want)
	}

	// Failing to begin with, then removed: nothing is left.
	r.k.Refuse = map[string]error{"a": errors.New("no")}
	if a, err := r.n.Apply(context.Background(), state("hooks"), "test", -1); err != nil || len(a.Failed) != 2 {
		t.Errorf("%+v, %v", a, err)
	}
	r.apply(state("empty"))
	if left := r.k.Left(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A change of XDP mode that the machine refuses has a price: it is tried at an
// apply, and not again and again.
func TestModeRefused(t *testing.T) {
	r := newRig(t)
	r.k.OnlyGeneric = map[string]bool{"v0": true}
	s := state("two")
	s.Chains[0].Mode = l3af.Generic
	r.apply(s)
	tries := 0
	r.k.Before = func(method string, _ host.Target) error {
		if method == "Attach" {
			tries++
		}
		return nil
	}
	s.Chains[0].Mode = l3af.Native
	for want := 1; want <= 2; want++ {
		a, err := r.n.Apply(context.Background(), s, "test", -1)
		if err != nil || len(a.Failed) != 1 || !strings.Contains(a.Failed[0].Error, "not supported (tried again at the next apply") {
			t.Errorf("%+v, %v", a, err)
		}
		for range 3 {
			wantSteps(t, r.reconcile())
		}
		if c := chainAt(t, r.status(), "xdp/v0"); tries != want || c.State != l3af.Failed || c.Mode != l3af.Generic || c.Error != a.Failed[0].Error {
			t.Errorf("tried %d times, want %d: %+v", tries, want, c)
		}
	}
	// Where nothing runs, nothing is lost by a try.
	r.k.DeleteInterface("", "v0")
	r.reconcile()
	r.k.OnlyGeneric = nil
	r.k.AddInterface("", "v0")
	wantSteps(t, r.reconcile(), "attach xdp/v0")
	if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Running || c.Mode != l3af.Native || c.Error != "" {
		t.Errorf("%+v", c)
	}
}

// events0 gives the events so far.
func events0(n *Node) <-chan l3af.Event {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return n.Events(ctx, "")
}

func TestInterfaceDeletedMidApply(t *testing.T) {
	r := newRig(t)
	for _, method := range []string{"Attach", "Write"} {
		r.apply(state("empty"))
		r.k.AddInterface("", "v0")
		if method == "Write" {
			r.apply(state("all"))
		}
		r.k.Before = func(m string, target host.Target) error {
			if m == method && target == hookOf("xdp/v0") {
				r.k.DeleteInterface("", "v0")
			}
			return nil
		}
		a := r.apply(state("all")) // fails the test if any hook failed
		r.k.Before = nil
		if method == "Attach" && a.Steps[0].Error == "" {
			t.Errorf("steps: %+v", a.Steps)
		}
		s := r.status()
		if c := chainAt(t, s, "xdp/v0"); c.State != l3af.Waiting || c.ID != "" {
			t.Errorf("%s: %+v", method, c)
		}
		for _, at := range []string{"xdp/w0", "tc-egress/blue:v1"} {
			if c := chainAt(t, s, at); c.State != l3af.Running {
				t.Errorf("%s: %+v", method, c)
			}
		}
	}
}

// A namespace that cannot be read holds up nothing else, and what runs in it
// runs on.
func TestNamespaceUnread(t *testing.T) {
	r := newRig(t)
	r.apply(state("namespace"))
	calls := 0
	r.k.Before = func(method string, _ host.Target) error {
		if method == "Interfaces" {
			if calls++; calls == 1 { // blue is first in the document
				return os.ErrPermission
			}
		}
		return nil
	}
	s := state("namespace")
	s.Chains[1] = state("two").Chains[0]
	a, err := r.n.Apply(context.Background(), s, "test", -1)
	if err != nil || len(a.Failed) != 1 || a.Failed[0].Target != "xdp/blue:v1" {
		t.Errorf("%+v, %v", a, err)
	}
	wantSteps(t, a.Steps, "replace xdp/v0")
	if len(r.k.Running()) != 2 {
		t.Errorf("running: %v", r.k.Running())
	}
	wantSteps(t, r.reconcile())
	if c := chainAt(t, r.status(), "xdp/blue:v1"); c.State != l3af.Running {
		t.Errorf("%+v", c)
	}
}

// A target that cannot be read back is left as it is, and the others are not.
func TestTargetUnread(t *testing.T) {
	r := newRig(t)
	r.apply(state("hooks"))
	before := chainAt(t, r.status(), "xdp/v0")
	r.k.Before = func(method string, target host.Target) error {
		if method == "ReadBack" && target == hookOf("xdp/v0") {
			return errors.New("too many open files")
		}
		return nil
	}
	a, err := r.n.Apply(context.Background(), state("two"), "test", -1)
	if err != nil || len(a.Failed) != 1 || a.Failed[0].Target != "xdp/v0" {
		t.Errorf("%+v, %v", a, err)
	}
	if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Failed || !strings.Contains(c.Error, "too many open files") {
		t.Errorf("%+v", c)
	}
	if p, err := r.n.Plan(context.Background(), state("two")); err != nil || len(p.Failed) != 1 || len(p.Steps) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	r.k.Before = nil
	if now := r.k.Running(); len(now) != 1 || now[hookOf("xdp/v0")] != before.ID {
		t.Errorf("running: %v", now)
	}
	r.reconcile()
	if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Running || c.Error != "" {
		t.Errorf("%+v", c)
	}
}

// An interface that comes or goes is no reason to read the maps of others, but
// for those that could not be written.
func TestContentsWait(t *testing.T) {
	r := newRig(t)
	r.apply(state("two"))
	r.restart()
	writes, fail := 0, error(nil)
	r.k.Before = func(method string, _ host.Target) error {
		if method == "Write" {
			writes++
			return fail
		}
		return nil
	}
	look := func(contents bool, want int) {
		t.Helper()
		r.n.mu.Lock()
		defer r.n.mu.Unlock()
		writes = 0
		r.n.reconcile(context.Background(), contents)
		if writes != want {
			t.Errorf("looked at %d targets, want %d", writes, want)
		}
	}
	look(false, 0)
	look(true, 1)
	fail = errors.New("no memory")
	look(true, 1)
	look(false, 1)
	fail = nil
	look(false, 1)
	look(false, 0)
	if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Running || c.Error != "" {
		t.Errorf("%+v", c)
	}
}

// Who began to ask before a chain is removed does not bring its counts back to
// life.
func TestStatusDuringRemoval(t *testing.T) {
	r := newRig(t)
	r.apply(state("two"))
	r.k.Traffic(10, func(host.Target, string) {})
	r.status()
	r.k.Before = func(method string, target host.Target) error {
		if method == "Tidy" && r.n.totals.mu.TryLock() {
			r.n.totals.mu.Unlock()
			_, err := r.n.totals.show(target)
			return err
		}
		return nil
	}
	r.apply(state("empty"))
	r.apply(state("two"))
	r.k.Before = nil
	for _, p := range chainAt(t, r.status(), "xdp/v0").Programs {
		if p.Packets != 0 {
			t.Errorf("%+v", p)
		}
	}
}

func TestDamagedCounters(t *testing.T) {
	r := newRig(t)
	r.apply(state("two"))
	r.n.Close()
	path := filepath.Join(r.dir, "counters.json")
	if err := os.WriteFile(path, []byte(`{"boot": "x", "tot`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if s := r.status(); len(s.Errors) != 1 || !strings.Contains(s.Errors[0], path) || chainAt(t, s, "xdp/v0").State != l3af.Running {
		t.Errorf("%+v", s)
	}
	if b, err := os.ReadFile(path + ".damaged"); err != nil || len(b) == 0 {
		t.Errorf("not kept: %v", err)
	}
}
