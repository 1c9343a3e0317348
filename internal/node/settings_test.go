package node

import (
	"encoding/json"
	"os"
	"slices"
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

// Directories where maps cannot be pinned are mistakes, and so are programs
// that share a map there and want other contents.
func TestPinPathMistakes(t *testing.T) {
	tiny, byName := testObject(t, "tiny.bpf.o"), testObject(t, "byname.bpf.o")
	one := []l3af.MapEntry{{Key: json.Number("1"), Value: json.Number("5")}}
	other := []l3af.MapEntry{{Key: json.Number("1"), Value: json.Number("6")}}
	program := func(object, at string, table []l3af.MapEntry) l3af.Program {
		p := l3af.Program{Name: "a", Package: object, Entry: "tiny_tc", Settings: l3af.Settings{PinPath: at}}
		if table != nil {
			p.Maps = map[string][]l3af.MapEntry{"table": table}
		}
		return p
	}
	for _, r := range []struct {
		in, out l3af.Program
		want    string
	}{
		{program(byName, "/sys/fs/bpf/a", one), program(byName, "/sys/fs/bpf/a", one), ""},
		{program(byName, "/sys/fs/bpf/a", one), program(byName, "/sys/fs/bpf/a", nil), ""},
		{program(byName, "/sys/fs/bpf/a", one), program(byName, "/sys/fs/bpf/b", other), ""},
		{program(byName, "/sys/fs/bpf/a", one), program(byName, "/sys/fs/bpf/a", other),
			"chains[1].programs[0].maps.table: is not what chains[0].programs[0] wants in the map, which they share (/sys/fs/bpf/a/table) (write the same, or leave it out)"},
		{program(tiny, "/sys/fs/bpf/a", nil), program(tiny, "/sys/fs/bpf/b", nil), ""},
		{program(tiny, "/tmp/a", nil), program(tiny, "/sys/fs/bpf/l3af/hooks", nil),
			"chains[0].programs[0].pinPath: /tmp/a is not on bpffs (a directory below the mount point of bpffs, such as /sys/fs/bpf/eth0)\n" +
				"chains[1].programs[0].pinPath: /sys/fs/bpf/l3af/hooks is inside the directory of l3afd (a directory below the mount point of bpffs, such as /sys/fs/bpf/eth0)"},
	} {
		rig := newRig(t)
		s := &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{
			{Interface: "v0", Hook: l3af.TCIngress, Programs: []l3af.Program{r.in}},
			{Interface: "v0", Hook: l3af.TCEgress, Programs: []l3af.Program{r.out}}}}
		a, err := rig.n.Apply(t.Context(), s, "test", -1)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != r.want || r.want == "" && len(a.Failed) > 0 {
			t.Errorf("got  %s %+v\nwant %s", got, a, r.want)
		}
		if r.want == "" {
			if steps := rig.reconcile(); len(steps) > 0 {
				t.Errorf("not at rest: %+v", steps)
			}
			// Another map in the place is a failure of the hook that comes second.
			clash := &l3af.State{APIVersion: l3af.APIVersion, Chains: slices.Clone(s.Chains)}
			clash.Chains[1].Programs = []l3af.Program{program(tiny, r.in.PinPath, nil)}
			clash.Chains[1].Programs[0].Name = "z"
			a, err := rig.n.Apply(t.Context(), clash, "test", -1)
			if err != nil || len(a.Failed) != 1 || !strings.Contains(a.Failed[0].Error, "pin /sys/fs/bpf/a/table: there is another map") {
				t.Errorf("clash: %+v, %v", a, err)
			}
		}
		rig.n.Close()
	}
}

// Pins outside that somebody removes are mended.
func TestPinRemovedOutside(t *testing.T) {
	r := newRig(t)
	defer func() { r.n.Close() }()
	s := &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{
		{Name: "a", Package: testObject(t, "tiny.bpf.o"), Entry: "tiny", Settings: l3af.Settings{PinPath: "/sys/fs/bpf/x"}}}}}}
	r.apply(s)
	want := r.k.Outside()
	r.k.Unpin("/sys/fs/bpf/x/table")
	if steps := r.reconcile(); said(steps) != "write" || !slices.Equal(r.k.Outside(), want) || len(want) != 2 {
		t.Errorf("%+v, %q, want %q", steps, r.k.Outside(), want)
	}
	s.Chains[0].Programs[0].PinPath = ""
	if a := r.apply(s); said(a.Steps) != "write" || len(r.k.Outside()) > 0 {
		t.Errorf("%+v, %q", a, r.k.Outside())
	}
}

// Programs that change places outside, or take those of others that leave, do
// so in one apply, whatever their order in the document.
func TestPinPathsChangeHands(t *testing.T) {
	r := newRig(t)
	defer func() { r.n.Close() }()
	state := func(in, out string, tail bool) *l3af.State {
		chainOf := func(kind l3af.HookKind, name, at string) l3af.Chain {
			p := l3af.Program{Name: name, Package: testObject(t, "tiny.bpf.o"), Entry: "tiny_tc", Settings: l3af.Settings{PinPath: at}}
			c := l3af.Chain{Interface: "v0", Hook: kind, Programs: []l3af.Program{p}}
			if tail { // another chain
				c.Programs = append(c.Programs, l3af.Program{Name: "z", Package: testObject(t, "other.bpf.o"), Entry: "other_tc"})
			}
			if at == "" {
				c.Programs[0].Disabled = true
			}
			return c
		}
		return &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{chainOf(l3af.TCIngress, "i", in), chainOf(l3af.TCEgress, "e", out)}}
	}
	const a, b = "/sys/fs/bpf/a", "/sys/fs/bpf/b"
	for i, s := range []*l3af.State{state(a, b, false), state(b, a, false), state(a, b, true), state(b, "", true), state("", b, true), state("", a, true),
		state(a, "", true), state(b, a, false)} {
		applied := r.apply(s)
		for _, step := range applied.Steps {
			if step.Error != "" {
				t.Errorf("%d: %+v", i, step)
			}
		}
		var want []string
		for _, c := range s.Chains {
			if at := c.Programs[0].PinPath; at != "" {
				want = append(want, at+"/_data", at+"/table")
			}
		}
		slices.Sort(want)
		if got := r.k.Outside(); !slices.Equal(got, want) {
			t.Errorf("%d: pinned are %q, want %q", i, got, want)
		}
		if steps := r.reconcile(); len(steps) > 0 {
			t.Errorf("%d: not at rest: %+v", i, steps)
		}
	}
}
