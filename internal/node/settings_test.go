package node

import (
	"os"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/host"
)

// A disabled program does not run, and is as it was when it runs again: its
// maps and counts are its own as long as the document has it.
func TestDisabled(t *testing.T) {
	r := newRig(t)
	defer func() { r.n.Close() }()
	tiny, hook := testObject(t, "tiny.bpf.o"), HookOf("xdp/v0")
	state := func(disabled ...bool) *l3af.State {
		c := l3af.Chain{Interface: "v0", Hook: l3af.XDP}
		for i, off := range disabled {
			c.Programs = append(c.Programs, l3af.Program{Name: string(rune('a' + i)), Package: tiny, Entry: "tiny", Settings: l3af.Settings{Disabled: off}})
		}
		return &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{c}}
	}
	counted := tally{}
	for i, test := range []struct {
		disabled []bool
		steps    string
		state    string
		left     string // maps of programs
	}{
		{[]bool{true, false}, "attach", l3af.Running, "b"},
		{[]bool{false, false}, "replace", l3af.Running, "a b"},
		{[]bool{true, false}, "replace", l3af.Running, "a b"},
		{[]bool{true, true}, "detach", l3af.Disabled, "a b"},
		{[]bool{true}, "", l3af.Disabled, "a"},
		{[]bool{false}, "attach", l3af.Running, "a"},
		{[]bool{true}, "detach", l3af.Disabled, "a"},
		{[]bool{true, false}, "attach", l3af.Running, "a b"},
	} {
		plan, err := r.n.Plan(t.Context(), state(test.disabled...))
		if err != nil {
			t.Fatal(err)
		}
		a := r.apply(state(test.disabled...))
		if got := said(a.Steps); got != test.steps || said(plan.Steps) != got {
			t.Errorf("%d: steps %s, planned %s, want %s", i, got, said(plan.Steps), test.steps)
		}
		if i == 4 {
			delete(counted, key(hook, "b"))
		}
		r.k.Traffic(1, func(at host.Target, program string) { counted[key(at, program)]++ })
		c := r.status().Chains[0]
		if c.State != test.state {
			t.Errorf("%d: %s %s", i, c.State, c.Error)
		}
		for j, p := range c.Programs {
			if (p.State == l3af.Disabled) != test.disabled[j] || p.Packets != counted[key(hook, p.Name)] {
				t.Errorf("%d: %+v, counted %v", i, p, counted)
			}
		}
		var left []string
		for _, line := range r.k.Left() {
			if name, ok := strings.CutSuffix(line, "/table"); ok {
				left = append(left, name[len(name)-1:])
			}
		}
		if got := strings.Join(left, " "); got != test.left {
			t.Errorf("%d: maps of %s, want %s", i, got, test.left)
		}
		r.restart()
		if steps := r.reconcile(); len(steps) > 0 {
			t.Errorf("%d: not at rest: %+v", i, steps)
		}
	}
	if _, err := r.n.Apply(t.Context(), &l3af.State{APIVersion: l3af.APIVersion}, "test", -1); err != nil {
		t.Fatal(err)
	}
	if left := r.k.Left(); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// A chain that cannot be detached runs on, and is told to have failed.
func TestDisabledCannotDetach(t *testing.T) {
	r := newRig(t)
	defer func() { r.n.Close() }()
	s := &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: l3af.XDP,
		Programs: []l3af.Program{{Name: "a", Package: testObject(t, "tiny.bpf.o"), Entry: "tiny"}}}}}
	r.apply(s)
	s.Chains[0].Programs[0].Disabled = true
	r.k.Before = func(method string, _ host.Target) error {
		if method == "Detach" {
			return os.ErrPermission
		}
		return nil
	}
	a, err := r.n.Apply(t.Context(), s, "test", -1)
	if err != nil || len(a.Failed) != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	if c := r.status().Chains[0]; c.State != l3af.Failed || c.ID == "" || !strings.Contains(c.Error, "detach xdp/v0: ") {
		t.Errorf("%+v", c)
	}
	r.k.Before = nil
	if steps := r.reconcile(); said(steps) != "detach" {
		t.Errorf("%+v", steps)
	}
	if c := r.status().Chains[0]; c.State != l3af.Disabled || c.Error != "" {
		t.Errorf("%+v", c)
	}
}

func said(steps []l3af.Step) string {
	var list []string
	for _, s := range steps {
		list = append(list, s.Verb)
	}
	return strings.Join(list, " ")
}
