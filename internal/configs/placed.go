package configs

import (
	"reflect"
	"strings"
	"time"

	"l3af"
)

// Placed is a program of L3AF's in a state, as metrics speak of it.
type Placed struct {
	Label     string // ebpf_program
	Version   string
	Direction string // xdpingress, ingress, egress; "" for a probe
	Iface     string // "" for a probe
	IPv4      string
	Since     time.Time
	Program   *l3af.Program // of a chain, else nil
	Probe     *l3af.Probe
	Sent      Program // zero for a probe that belongs to a program
}

// Everything lists L3AF's programs of a state, in its order.
func Everything(s *l3af.State) []Placed {
	var all []Placed
	for i := range s.Chains {
		c := &s.Chains[i]
		if c.Netns != "" {
			continue
		}
		for j := range c.Programs {
			p := &c.Programs[j]
			if sent, ok := sentAs(p.Settings); ok {
				sent = current(sent, *p)
				all = append(all, Placed{Label: p.Name, Version: sent.Version, Direction: directionOf(c.Hook).arg, Iface: c.Interface,
					IPv4: p.Annotations[keyIPv4], Since: since(p.Settings), Program: p, Sent: sent})
			}
		}
	}
	for i := range s.Probes {
		p := &s.Probes[i]
		sent, ok := sentAs(p.Settings)
		if ok {
			sent = current(sent, l3af.Program{Name: p.Name, Package: p.Package, Object: p.Object, Entry: p.Entry, Settings: p.Settings})
			all = append(all, Placed{Label: p.Name, Version: sent.Version, Since: since(p.Settings), Probe: p, Sent: sent})
		} else if of := owner(*p); of != nil {
			// As upstream calls them: NAME_TYPE_HOOK.
			event := strings.Split(p.Attach, "/")
			all = append(all, Placed{Label: strings.Join([]string{of[2], event[0], event[len(event)-1]}, "_"), Since: since(p.Settings), Probe: p})
		}
	}
	return all
}

// Hook is where a program of a chain runs.
func (p *Placed) Hook() l3af.Hook {
	for _, d := range directions {
		if d.arg == p.Direction {
			return l3af.Hook{Interface: p.Iface, Kind: d.kind}
		}
	}
	return l3af.Hook{}
}

// Compare tells how the programs of one state become those of another:
// which start, which change, and which stop.
func Compare(before, after *l3af.State) (start, update, stop []Placed) {
	old := Everything(before)
	find := func(list []Placed, p Placed) *Placed {
		for i := range list {
			if o := &list[i]; o.Label == p.Label && o.Direction == p.Direction && o.Iface == p.Iface {
				return o
			}
		}
		return nil
	}
	runs := func(p *Placed) bool {
		return p != nil && !(p.Program != nil && p.Program.Disabled || p.Probe != nil && p.Probe.Disabled)
	}
	now := Everything(after)
	for _, p := range now {
		switch o := find(old, p); {
		case runs(&p) && !runs(o):
			start = append(start, p)
		case !runs(&p) && runs(o):
			stop = append(stop, p)
		case runs(&p) && (!reflect.DeepEqual(o.Program, p.Program) || !reflect.DeepEqual(o.Probe, p.Probe)):
			update = append(update, p)
		}
	}
	for _, o := range old {
		if runs(&o) && find(now, o) == nil {
			stop = append(stop, o)
		}
	}
	return start, update, stop
}
