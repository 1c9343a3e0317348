package node

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/host"
)

// hookOf reads "kind/iface" or "kind/netns:iface", or "probe/name".
func hookOf(s string) host.Target {
	kind, at, _ := strings.Cut(s, "/")
	if kind == "probe" {
		return host.Target{Probe: at}
	}
	netns, iface, ok := strings.Cut(at, ":")
	if !ok {
		netns, iface = "", at
	}
	return host.Target{Hook: l3af.Hook{Netns: netns, Interface: iface, Kind: l3af.HookKind(kind)}}
}

func madeOf(at, id string, mode l3af.Mode) *made {
	t := hookOf(at)
	m := &made{id: id}
	switch id {
	case "off":
		m.id = ""
	case "":
		m.err = errors.New("cannot be composed")
	}
	if t.Probe != "" {
		m.probe = &l3af.Probe{Name: t.Probe}
	} else {
		m.chain = &l3af.Chain{Interface: t.Hook.Interface, Netns: t.Hook.Netns, Hook: t.Hook.Kind, Mode: mode}
	}
	return m
}

func TestPlan(t *testing.T) {
	type w struct {
		at, id string
		mode   l3af.Mode
	}
	type h struct {
		at, id string
		mode   l3af.Mode
	}
	for _, test := range []struct {
		name  string
		wants []w
		have  []h
		steps []string
	}{
		{"nothing wanted, nothing there", nil, nil, nil},
		{"new", []w{{"xdp/a", "1", ""}}, nil, []string{"attach xdp/a 1"}},
		{"right already", []w{{"xdp/a", "1", ""}}, []h{{"xdp/a", "1", "native"}}, nil},
		{"right already, and auto became generic", []w{{"xdp/a", "1", "auto"}}, []h{{"xdp/a", "1", "generic"}}, nil},
		{"other chain", []w{{"xdp/a", "2", ""}}, []h{{"xdp/a", "1", "native"}}, []string{"replace xdp/a 1 2"}},
		{"other mode", []w{{"xdp/a", "1", "generic"}}, []h{{"xdp/a", "1", "native"}}, []string{"replace xdp/a 1 1"}},
		{"dead link or pins only", []w{{"xdp/a", "1", ""}}, []h{{"xdp/a", "", ""}}, []string{"attach xdp/a 1"}},
		{"same interface, other kind", []w{{"tc-ingress/a", "1", ""}}, []h{{"xdp/a", "1", "native"}},
			[]string{"attach tc-ingress/a 1", "remove xdp/a 1"}},
		{"same name, other namespace", []w{{"xdp/blue:a", "1", ""}}, []h{{"xdp/a", "1", "native"}},
			[]string{"attach xdp/blue:a 1", "remove xdp/a 1"}},
		{"leftover pins", nil, []h{{"xdp/a", "", ""}}, []string{"remove xdp/a"}},
		{"waits", []w{{"xdp/gone", "1", ""}}, nil, nil},
		{"waits with pins", []w{{"xdp/gone", "1", ""}}, []h{{"xdp/gone", "", ""}}, []string{"detach xdp/gone"}},
		{"glob", []w{{"xdp/[ab]", "1", ""}}, []h{{"xdp/b", "1", "native"}}, []string{"attach xdp/a 1"}},
		{"name wins over an earlier glob", []w{{"xdp/*", "1", ""}, {"xdp/a", "2", ""}}, nil,
			[]string{"attach xdp/lo 1", "attach xdp/b 1", "attach xdp/a 2"}},
		{"name wins though it cannot run", []w{{"xdp/[ab]", "1", ""}, {"xdp/a", "", ""}}, []h{{"xdp/a", "9", "native"}},
			[]string{"attach xdp/b 1"}},
		{"first glob wins", []w{{"xdp/a*", "1", ""}, {"xdp/[ab]", "2", ""}}, nil,
			[]string{"attach xdp/a 1", "attach xdp/b 2"}},
		{"globs of other kinds do not compete", []w{{"xdp/a", "1", ""}, {"tc-egress/?", "2", ""}}, nil,
			[]string{"attach xdp/a 1", "attach tc-egress/a 2", "attach tc-egress/b 2"}},
		{"glob's interface is gone", []w{{"xdp/g*", "1", ""}}, []h{{"xdp/gone", "", ""}}, []string{"detach xdp/gone"}},
		{"glob's interface is gone for good", []w{{"xdp/o*", "1", ""}}, []h{{"xdp/old", "", ""}}, []string{"remove xdp/old"}},
		{"named interface is gone for good", []w{{"xdp/old", "1", ""}}, []h{{"xdp/old", "", ""}}, []string{"detach xdp/old"}},
		{"cannot be composed, runs on", []w{{"xdp/a", "", ""}}, []h{{"xdp/a", "1", "native"}}, nil},
		{"namespace unread, runs on", []w{{"xdp/dark:a", "2", ""}}, []h{{"xdp/dark:a", "1", "native"}}, nil},
		{"namespace unread, glob", []w{{"xdp/dark:*", "2", ""}}, []h{{"xdp/dark:a", "1", "native"}, {"xdp/dark:b", "", ""}}, nil},
		{"cannot be read back", []w{{"xdp/a", "1", ""}, {"xdp/o*", "1", ""}}, []h{{"xdp/a", "?", ""}, {"xdp/old", "?", ""}}, nil},
		{"cannot be read back, not wanted", nil, []h{{"xdp/a", "?", ""}}, []string{"remove xdp/a"}},
		{"disabled", []w{{"xdp/a", "off", ""}, {"probe/p", "off", ""}, {"xdp/b", "2", ""}}, []h{{"xdp/a", "1", "native"}, {"probe/p", "3", ""}},
			[]string{"attach xdp/b 2", "detach xdp/a 1", "detach probe/p 3"}},
		{"disabled, and nothing runs", []w{{"xdp/a", "off", ""}, {"xdp/b", "off", ""}}, []h{{"xdp/a", "", ""}}, []string{"detach xdp/a"}},
		{"disabled, and cannot be read back", []w{{"xdp/a", "off", ""}, {"xdp/dark:a", "off", ""}}, []h{{"xdp/a", "?", ""}, {"xdp/dark:a", "1", "native"}}, nil},
		{"disabled for a glob that is gone for good", []w{{"xdp/o*", "off", ""}}, []h{{"xdp/old", "", ""}}, []string{"remove xdp/old"}},
		{"namespace is gone", []w{{"xdp/nowhere:a", "2", ""}}, nil, nil},
		{"probes", []w{{"probe/p", "1", ""}, {"probe/q", "2", ""}, {"probe/r", "3", ""}},
			[]h{{"probe/p", "1", ""}, {"probe/q", "9", ""}, {"probe/x", "8", ""}},
			[]string{"replace probe/q 9 2", "attach probe/r 3", "remove probe/x 8"}},
		{"a probe is no hook", []w{{"xdp/*", "1", ""}}, []h{{"probe/a", "1", ""}, {"xdp/a", "1", "native"}, {"xdp/b", "1", "native"}, {"xdp/lo", "1", "generic"}},
			[]string{"remove probe/a 1"}},
	} {
		var all []*made
		for _, w := range test.wants {
			all = append(all, madeOf(w.at, w.id, w.mode))
		}
		var have []host.Attached
		for _, h := range test.have {
			if h.id == "?" {
				have = append(have, host.Attached{Target: hookOf(h.at), Err: os.ErrPermission})
				continue
			}
			have = append(have, host.Attached{Target: hookOf(h.at), ID: h.id, Mode: h.mode})
		}
		wants := expand(all, func(netns string) ([]host.Interface, error) {
			switch netns {
			case "dark":
				return nil, os.ErrPermission
			case "nowhere":
				return nil, nil
			}
			return []host.Interface{{Name: "lo", Index: 1}, {Name: "a", Index: 2}, {Name: "b", Index: 3}}, nil
		})
		var steps []string
		for _, s := range plan(wants, have, func(t host.Target) bool { return t.Hook.Interface == "old" }) {
			verb := s.verb
			if s.remove {
				verb = "remove"
			}
			words := []string{verb, s.target.String()}
			if s.from != "" {
				words = append(words, s.from)
			}
			if s.want != nil {
				words = append(words, s.want.made.id)
			}
			steps = append(steps, strings.Join(words, " "))
		}
		if !slices.Equal(steps, test.steps) {
			t.Errorf("%s:\n got %q\nwant %q", test.name, steps, test.steps)
		}
	}
}
