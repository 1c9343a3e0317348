package configs

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"l3af"
)

// Update makes the state in which the interfaces of the payload run what it
// lists for them and nothing else of L3AF's, and all other interfaces nothing
// of L3AF's. Programs that did not come through this API stay where they are.
// An interface needs one list at least, which may be empty: that removes.
func (h *Host) Update(ctx context.Context, now *l3af.State, payload []Interface) (*Edit, error) {
	e := h.edit(ctx, now)
	e.all = true
	if len(payload) == 0 {
		return nil, &Error{Reason: Invalid, Err: errors.New("failed to deploy ebpf programs: the payload names no interface: nothing was changed " +
			"(an interface with empty lists removes its programs)")}
	}
	for i, in := range payload {
		err := e.addressed(in.HostName, in.Iface, in.Programs == nil)
		if err == nil && reflect.DeepEqual(*in.Programs, Programs{}) {
			err = &Error{Reason: Invalid, Err: errors.New("iface name or bpf programs are empty: no list of programs is there (an empty list removes)")}
		}
		if j := slices.IndexFunc(payload[:i], func(o Interface) bool { return o.Iface == in.Iface }); err == nil && j >= 0 {
			err = &Error{Reason: Invalid, Err: fmt.Errorf("the interface is in the payload twice, at [%d] and at [%d]", j, i)}
		}
		if err == nil {
			err = e.wantAll(fmt.Sprintf("[%d].bpf_programs", i), in)
		}
		if err != nil {
			return nil, within(err, "failed to deploy ebpf programs: failed to deploy BPF program on iface %s with error", in.Iface)
		}
	}
	for _, c := range slices.Clone(now.Chains) {
		if c.Netns == "" && !slices.ContainsFunc(payload, func(in Interface) bool { return in.Iface == c.Interface }) {
			e.replace(c.Interface, directionOf(c.Hook), nil)
		}
	}
	e.state.Probes = slices.DeleteFunc(e.state.Probes, func(p l3af.Probe) bool {
		return isOurs(p.Settings) && !slices.ContainsFunc(e.probes, func(w *wanted) bool { return w.program.Name == p.Name })
	})
	for _, w := range e.probes {
		e.setProbe(w)
	}
	return e.done("failed to deploy ebpf programs")
}

// Add makes the state in which the programs of the payload run as well. One
// that is there already, and is the same, is left alone; with other contents it
// is a conflict.
func (h *Host) Add(ctx context.Context, now *l3af.State, payload []Interface) (*Edit, error) {
	e := h.edit(ctx, now)
	for i, in := range payload {
		err := e.addressed(in.HostName, in.Iface, in.Programs == nil)
		if err == nil {
			err = e.addAll(fmt.Sprintf("[%d].bpf_programs", i), in)
		}
		if err != nil {
			return nil, within(err, "failed to AddEbpfPrograms : failed to Add BPF program on iface %s with error", in.Iface)
		}
	}
	return e.done("failed to AddEbpfPrograms ")
}

// Delete makes the state without the programs that are named. Names that
// nothing has are no mistake, so that a delete can be sent again; notes tell
// them.
func (h *Host) Delete(ctx context.Context, now *l3af.State, payload []InterfaceNames) (*Edit, error) {
	e := h.edit(ctx, now)
	for _, in := range payload {
		err := e.addressed(in.HostName, in.Iface, in.Programs == nil)
		if err == nil {
			err = e.deleteAll(in)
		}
		if err != nil {
			return nil, within(err, "failed to DeleteEbpfPrograms : failed to Remove eBPF program on iface %s with error", in.Iface)
		}
	}
	return e.done("failed to DeleteEbpfPrograms ")
}

// within puts upstream's words before an error.
func within(err error, format string, args ...any) error {
	out := &Error{Reason: Invalid, Err: fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)}
	var e *Error
	if errors.As(err, &e) {
		out.Reason, out.Program = e.Reason, e.Program
	}
	return out
}

// Edit is what a request makes of a state.
type Edit struct {
	State *l3af.State
	Notes []string // what whoever sent it should know

	fresh  map[string]bool
	failed string
	paths  map[[3]string]string // by interface, hook and name: where in the payload a program is
}

// Fresh reports whether a package is to be opened anew: those of an update
// are, what else the state names stays what it is.
func (e *Edit) Fresh(ref string) bool { return e.fresh[ref] }

// edit is a state that is being changed.
type edit struct {
	h      *Host
	all    bool            // the payload is the whole state, and packages are as they are now
	fresh  map[string]bool // references that are opened anew
	ctx    context.Context
	now    *l3af.State
	state  *l3af.State
	probes []*wanted // that an update lists
	paths  map[[3]string]string
	notes  []string
	ifaces map[string]bool // of the host; nil: not asked yet
}

func (h *Host) edit(ctx context.Context, now *l3af.State) *edit {
	s := &l3af.State{APIVersion: l3af.APIVersion, Probes: slices.Clone(now.Probes)}
	for _, c := range now.Chains {
		c.Programs = slices.Clone(c.Programs)
		s.Chains = append(s.Chains, c)
	}
	return &edit{h: h, ctx: ctx, now: now, state: s, paths: map[[3]string]string{}, fresh: map[string]bool{}}
}

func (e *edit) note(format string, args ...any) {
	e.notes = append(e.notes, fmt.Sprintf(format, args...))
}

// addressed checks that a payload is for this host and for an interface that
// it has, or that it had when its programs came.
func (e *edit) addressed(host, iface string, empty bool) error {
	switch {
	case host != e.h.Name:
		return &Error{Reason: Invalid, Err: fmt.Errorf("provided bpf programs do not belong to this host (they are for %.80q, this is %q)", host, e.h.Name)}
	case iface == "" || empty:
		return &Error{Reason: Invalid, Err: errors.New("iface name or bpf programs are empty")}
	case slices.ContainsFunc(All(e.now, e.h.Name), func(in Interface) bool { return in.Iface == iface }):
		return nil
	}
	if e.ifaces == nil {
		var err error
		if e.ifaces, err = e.h.Interfaces(); err != nil {
			return &Error{Reason: Unavailable, Err: fmt.Errorf("failed to get net interfaces: %w", err)}
		}
	}
	loopback, ok := e.ifaces[iface]
	if !ok {
		return &Error{Reason: Unknown, Err: fmt.Errorf("%.80s interface name not found in the host", iface)}
	}
	if loopback {
		return &Error{Reason: Invalid, Err: fmt.Errorf("%s interface name not found in the host: it is a loopback interface, which L3AF does not use", iface)}
	}
	return nil
}

// wantAll is what an update says of one interface.
func (e *edit) wantAll(at string, in Interface) error {
	for _, d := range directions {
		var list []*wanted
		for i, p := range *in.Programs.list(d) {
			path := fmt.Sprintf("%s.%s[%d]", at, d.name, i)
			w, err := e.translate(in, d, p, path)
			if err != nil {
				return err
			}
			if d.kind == "" {
				if err := e.wantProbe(in, w); err != nil {
					return err
				}
				continue
			}
			if j := slices.IndexFunc(list, func(o *wanted) bool { return o.sent.Name == p.Name }); j >= 0 {
				return &Error{Reason: Invalid, Err: fmt.Errorf("%s: %s is another program of the same name", path, list[j].path)}
			}
			if j := slices.IndexFunc(list, func(o *wanted) bool { return o.sent.SeqID == p.SeqID }); j >= 0 {
				e.note("%s has the seq_id %d of %s, and runs behind it", path, p.SeqID, list[j].path)
			}
			list = append(list, w)
		}
		if d.kind == "" {
			continue
		}
		slices.SortStableFunc(list, func(a, b *wanted) int { return a.sent.SeqID - b.sent.SeqID })
		if err := e.replace(in.Iface, d, list); err != nil {
			return err
		}
	}
	return nil
}

// wantProbe collects the probes of a payload: they are the host's, whichever
// interface they are listed with.
func (e *edit) wantProbe(in Interface, w *wanted) error {
	w.program.Annotations[keyIface] = in.Iface
	for _, o := range e.probes {
		if o.sent.Name != w.sent.Name {
			continue
		}
		if !reflect.DeepEqual(o.sent, w.sent) {
			return &Error{Reason: Invalid, Err: fmt.Errorf("%s: %s is another probe of the same name, and probes are the whole host's", w.path, o.path)}
		}
		return nil
	}
	e.probes = append(e.probes, w)
	return nil
}

func (e *edit) addAll(at string, in Interface) error {
	for _, d := range directions {
		for i, p := range *in.Programs.list(d) {
			path := fmt.Sprintf("%s.%s[%d]", at, d.name, i)
			w, err := e.translate(in, d, p, path)
			if err != nil {
				return err
			}
			if d.kind == "" {
				w.program.Annotations[keyIface] = in.Iface
				err = e.addProbe(w)
			} else {
				err = e.addProgram(in.Iface, d, w)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *edit) addProgram(iface string, d direction, w *wanted) error {
	c := e.chain(iface, d.kind)
	if c == nil {
		e.state.Chains = append(e.state.Chains, l3af.Chain{Interface: iface, Hook: d.kind})
		c = &e.state.Chains[len(e.state.Chains)-1]
	}
	at, last, tie := -1, -1, ""
	for i, p := range c.Programs {
		if p.Name == w.sent.Name {
			return e.same(p.Settings, w, string(d.kind)+"/"+iface)
		}
		sent, ok := sentAs(p.Settings)
		if !ok {
			continue
		}
		if sent.SeqID > w.sent.SeqID && at < 0 {
			at = i
		}
		if sent.SeqID == w.sent.SeqID {
			tie = p.Name
		}
		last = i
	}
	if tie != "" {
		e.note("%s has the seq_id %d of %s, and runs behind it", w.path, w.sent.SeqID, tie)
	}
	switch {
	case at >= 0:
	case last >= 0:
		at = last + 1
	default:
		at = len(c.Programs)
	}
	e.began(&w.program.Settings, nil)
	c.Programs = slices.Insert(c.Programs, at, w.program)
	return e.take(iface, d, w)
}

// same says whether what is to be added is there already.
func (e *edit) same(have l3af.Settings, w *wanted, place string) error {
	sent, ok := sentAs(have)
	switch {
	case !ok:
		return &Error{Reason: Conflict, Err: fmt.Errorf("%s: %s runs a program of this name that did not come through this API", w.path, place)}
	case reflect.DeepEqual(sent, w.sent):
		return nil
	}
	return &Error{Reason: Conflict, Err: fmt.Errorf("%s: %q is there already, and is another one (update changes programs)", w.path, w.sent.Name)}
}

func (e *edit) addProbe(w *wanted) error {
	if i := e.probe(w.sent.Name); i >= 0 {
		return e.same(e.state.Probes[i].Settings, w, "probe/"+w.sent.Name)
	}
	return e.setProbe(w)
}

func (e *edit) deleteAll(in InterfaceNames) error {
	for _, d := range directions {
		for _, name := range in.Programs.list(d) {
			have, place := e.find(in.Iface, d, name)
			switch {
			case have == nil:
				e.note("%s %s of %s is not there: nothing to delete", d.name, name, in.Iface)
				continue
			case !isOurs(*have):
				return &Error{Reason: Conflict, Err: fmt.Errorf("%s: %q did not come through this API: it is deleted where it came from (l3af apply)", place, name)}
			case d.kind == "":
				e.state.Probes = slices.Delete(e.state.Probes, e.probe(name), e.probe(name)+1)
				continue
			}
			c := e.chain(in.Iface, d.kind)
			c.Programs = slices.DeleteFunc(c.Programs, func(p l3af.Program) bool { return p.Name == name })
			e.dropCompanions(in.Iface, d, name)
		}
	}
	return nil
}

func (e *edit) find(iface string, d direction, name string) (s *l3af.Settings, place string) {
	if d.kind == "" {
		if i := e.probe(name); i >= 0 {
			return &e.state.Probes[i].Settings, "probe/" + name
		}
		return nil, ""
	}
	if c := e.chain(iface, d.kind); c != nil {
		if i := slices.IndexFunc(c.Programs, func(p l3af.Program) bool { return p.Name == name }); i >= 0 {
			return &c.Programs[i].Settings, string(d.kind) + "/" + iface
		}
	}
	return nil, ""
}

func (e *edit) chain(iface string, kind l3af.HookKind) *l3af.Chain {
	i := slices.IndexFunc(e.state.Chains, func(c l3af.Chain) bool { return c.Interface == iface && c.Netns == "" && c.Hook == kind })
	if i < 0 {
		return nil
	}
	return &e.state.Chains[i]
}

func (e *edit) probe(name string) int {
	return slices.IndexFunc(e.state.Probes, func(p l3af.Probe) bool { return p.Name == name })
}

// replace makes list all programs of L3AF's in a chain.
func (e *edit) replace(iface string, d direction, list []*wanted) error {
	c := e.chain(iface, d.kind)
	if c == nil && len(list) == 0 {
		return nil
	}
	if c == nil {
		e.state.Chains = append(e.state.Chains, l3af.Chain{Interface: iface, Hook: d.kind})
		c = &e.state.Chains[len(e.state.Chains)-1]
	}
	had := map[string]*l3af.Settings{}
	for i := range c.Programs {
		p := c.Programs[i]
		if isOurs(p.Settings) {
			had[p.Name] = &p.Settings
			e.dropCompanions(iface, d, p.Name)
		} else if j := slices.IndexFunc(list, func(w *wanted) bool { return w.sent.Name == p.Name }); j >= 0 {
			return e.same(p.Settings, list[j], string(d.kind)+"/"+iface)
		}
	}
	var programs []l3af.Program
	for _, w := range list {
		e.began(&w.program.Settings, had[w.sent.Name])
		programs = append(programs, w.program)
		if err := e.take(iface, d, w); err != nil {
			return err
		}
	}
	c.Programs = merge(c.Programs, programs)
	return nil
}

// merge puts programs of L3AF's into a chain. Those of others keep their
// places: what is new follows the program that it is to follow, and where the
// order of L3AF's own changes they exchange their places.
func merge(chain, want []l3af.Program) []l3af.Program {
	place := func(list []l3af.Program, name string) int {
		return slices.IndexFunc(list, func(p l3af.Program) bool { return p.Name == name })
	}
	out := slices.DeleteFunc(slices.Clone(chain), func(p l3af.Program) bool { return isOurs(p.Settings) && place(want, p.Name) < 0 })
	var kept []int // places of those that stay, in order
	var stay []l3af.Program
	for i, p := range out {
		if isOurs(p.Settings) {
			kept = append(kept, i)
		}
	}
	for _, p := range want {
		if place(out, p.Name) >= 0 {
			stay = append(stay, p)
		}
	}
	for i, p := range stay {
		out[kept[i]] = p
	}
	for i, p := range want {
		switch at := place(out, p.Name); {
		case at >= 0:
		case i > 0:
			out = slices.Insert(out, place(out, want[i-1].Name)+1, p)
		case len(stay) > 0:
			out = slices.Insert(out, place(out, stay[0].Name), p)
		default:
			out = append(out, p)
		}
	}
	return out
}

// take makes the probes of a program's object part of the state, and remembers
// where in the payload the program is.
func (e *edit) take(iface string, d direction, w *wanted) error {
	e.paths[[3]string{iface, string(d.kind), w.sent.Name}] = w.path
	for _, p := range w.probes {
		if i := e.probe(p.Name); i >= 0 {
			return &Error{Reason: Conflict, Err: fmt.Errorf("%s: its object has the program %s, and there is a probe named %s already", w.path, p.Entry, p.Name)}
		}
		e.state.Probes = append(e.state.Probes, p)
	}
	return nil
}

func (e *edit) dropCompanions(iface string, d direction, name string) {
	e.state.Probes = slices.DeleteFunc(e.state.Probes, func(p l3af.Probe) bool { return p.Annotations[keyOf] == ownerOf(iface, d, name) })
}

// setProbe makes a probe of the payload part of the state, in the place of the
// one it replaces.
func (e *edit) setProbe(w *wanted) error {
	p := l3af.Probe{Name: w.sent.Name, Package: w.program.Package, Object: w.program.Object, Entry: w.program.Entry, Settings: w.program.Settings}
	e.paths[[3]string{"", "", w.sent.Name}] = w.path
	if i := e.probe(p.Name); i >= 0 {
		if !isOurs(e.state.Probes[i].Settings) {
			return e.same(e.state.Probes[i].Settings, w, "probe/"+p.Name)
		}
		e.began(&p.Settings, &e.state.Probes[i].Settings)
		e.state.Probes[i] = p
		return nil
	}
	e.began(&p.Settings, nil)
	e.state.Probes = append(e.state.Probes, p)
	return nil
}

// began notes when a program began to be what it is.
func (e *edit) began(s, before *l3af.Settings) {
	since := time.Now().UTC().Format(time.RFC3339)
	if before != nil && before.Annotations[keySent] == s.Annotations[keySent] && before.Annotations[keySince] != "" {
		since = before.Annotations[keySince]
	}
	s.Annotations[keySince] = since
}

// done gives the state, and says what is wrong with it at the place in the
// payload that it comes from.
func (e *edit) done(failed string) (*Edit, error) {
	e.state.Chains = slices.DeleteFunc(e.state.Chains, func(c l3af.Chain) bool { return len(c.Programs) == 0 })
	done := &Edit{State: e.state, Notes: e.notes, fresh: e.fresh, failed: failed, paths: e.paths}
	if err := e.state.Validate(); err != nil {
		return nil, done.Explain(err)
	}
	return done, nil
}
