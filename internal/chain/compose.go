package chain

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"l3af"
)

const (
	maxFunctions    = 256     // BPF_MAX_SUBPROGS
	maxInstructions = 1000000 // BPF_COMPLEXITY_LIMIT_INSNS
)

// Options change what is composed; the zero value is what runs on hosts.
type Options struct {
	NoCounters bool // leave the counters out, to measure what they cost
}

// Compose makes one program of the programs of a hook. They run in order on
// the same context: a verdict in a program's proceed set runs the next one,
// any other is the hook's result, and so is the last program's. An empty
// proceed set is the hook's default.
//
// Programs are inlined where that is possible, else called, and where one
// program of the kernel's cannot hold them all there are several, the chain's
// segments. The same members give the same chain.
//
// The members are left as they are; the chain shares nothing that may be
// written. Programs that cannot be composed are a [*RefusedError].
func Compose(kind l3af.HookKind, members []Member) (*Chain, error) {
	return ComposeWith(kind, members, Options{})
}

// ComposeWith is Compose with options.
func ComposeWith(kind l3af.HookKind, members []Member, o Options) (*Chain, error) {
	if !slices.Contains(l3af.HookKinds(), kind) {
		return nil, refuse("", "there is no hook %q", kind)
	}
	if len(members) == 0 {
		return nil, refuse("", "the chain is empty")
	}
	c := &composition{kind: kind, options: o}
	names := map[string]bool{}
	known := looked{}
	for _, m := range members {
		if names[m.Name] {
			return nil, refuse(m.Name, "the chain has two programs of this name")
		}
		names[m.Name] = true
		p, err := take(m)
		if err == nil {
			err = p.forHook(kind)
		}
		if err != nil {
			return nil, err
		}
		if err := known.look(p); err != nil {
			return nil, err
		}
		c.parts = append(c.parts, p)
	}
	var err error
	if c.frame, err = frameOf(kind, c.parts); err != nil {
		return nil, err
	}
	return c.compose(newPlan(c.parts))
}

// composition is what a chain is made of.
type composition struct {
	kind    l3af.HookKind
	options Options
	parts   []*part
	frame   *ebpf.ProgramSpec // of every segment

	// What was made of it.
	plan     plan
	segments []segment
	fusions  []*fusion
}

// compose makes the chain as the plan says, or with more calls where that is
// not possible. c is left as it is.
func (c *composition) compose(p plan) (*Chain, error) {
	now := *c
	now.plan = p
	for {
		made, err := now.link()
		far := (*farError)(nil)
		if !errors.As(err, &far) {
			return made, err
		}
		if now.plan.why[far.part] != "" {
			return nil, refuse(c.parts[far.part].Name, "%s", far.reason)
		}
		now.plan = now.plan.clone()
		now.plan.why[far.part] = far.reason
	}
}

// farError is a part that cannot be inlined as its jumps do not reach then.
type farError struct {
	part   int
	reason string
}

func (e *farError) Error() string { return e.reason }

func (c *composition) link() (*Chain, error) {
	var err error
	if c.segments, err = c.arrange(&c.plan); err != nil {
		return nil, err
	}
	made := &Chain{Kind: c.kind, Program: c.frame.Copy()}
	linked := make([]Linked, len(c.parts))
	for number, s := range c.segments {
		for i := s.from; i < s.to; i++ {
			linked[i] = Linked{Name: c.parts[i].Name, Linkage: Inlined, Proceed: c.parts[i].Proceed, Segment: number + 1, Why: s.why[i-s.from],
				Whole: c.kind == l3af.XDP && c.parts[i].program.Flags&flagXDPHasFrags == 0}
			if linked[i].Why != "" {
				linked[i].Linkage = Called
			}
		}
	}
	made.Programs = linked
	counters, own := newLayout(c.kind), []Map(nil)
	if !c.options.NoCounters {
		if size := counters.stride() * len(c.parts); size > maxCounters {
			return nil, refuse("", "counters of %d programs take %d bytes; a per-CPU map's value has at most %d", len(c.parts), size, maxCounters)
		}
		own = []Map{{Ref: CountersRef, Name: CountersName, Spec: counters.spec(linked), Pinned: true}}
	}
	if made.Maps, err = gatherMaps(c.parts, own...); err != nil {
		return nil, err
	}
	if err := made.identify(c.parts); err != nil {
		return nil, err
	}
	c.fusions = nil
	for number, s := range c.segments {
		f, spec := newFusion(c, s), made.Program
		if number < len(c.segments)-1 {
			f.next = number
		}
		if number > 0 {
			spec = c.frame.Copy()
			made.Rest = append(made.Rest, spec)
		}
		entry, err := f.fuse(false)
		far := (*rangeError)(nil)
		if errors.As(err, &far) {
			entry, err = f.fuse(true)
		}
		if errors.As(err, &far) {
			if at := f.partAt(far.at); at >= 0 {
				return nil, &farError{s.from + at, far.Error()}
			}
			err = refuse("", "%v", far)
		}
		if err != nil {
			return nil, err
		}
		id, names := made.ID, []string(nil)
		if number > 0 {
			id = fmt.Sprintf("%s_%d", id, number+1)
		}
		for _, p := range f.parts {
			names = append(names, p.Name)
		}
		fns, err := f.functions(entry)
		if err != nil {
			return nil, err
		}
		if err := finish(spec, NamePrefix+made.ID, title(id, names), fns); err != nil {
			return nil, err
		}
		c.fusions = append(c.fusions, f)
	}
	if n := uint32(len(made.Rest)); n > 0 {
		made.Segments = &ebpf.MapSpec{Name: "l3af_segments", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: n}
	}
	kept := *c
	made.made = &kept
	return made, nil
}

// frameOf makes the spec of the composed program, yet without instructions.
func frameOf(kind l3af.HookKind, parts []*part) (*ebpf.ProgramSpec, error) {
	spec := &ebpf.ProgramSpec{Type: ebpf.SchedCLS}
	switch kind {
	case l3af.XDP:
		spec.Type, spec.AttachType = ebpf.XDP, ebpf.AttachXDP
	case l3af.TCIngress:
		spec.AttachType = ebpf.AttachTCXIngress
	case l3af.TCEgress:
		spec.AttachType = ebpf.AttachTCXEgress
	}
	first := parts[0].program
	spec.License, spec.Flags, spec.ByteOrder = first.License, first.Flags, first.ByteOrder
	for _, p := range parts[1:] {
		// Fragments are only for chains whose every program knows them.
		spec.Flags &= p.program.Flags
		if gpl := gplCompatible(first.License); gplCompatible(p.program.License) != gpl {
			closed := p
			if !gpl {
				closed = parts[0]
			}
			return nil, refuse(closed.Name, "its license %q is not GPL-compatible, and other programs of the chain are: "+
				"they would become one program, which the kernel must know as the one or the other", closed.program.License)
		} else if p.program.License != spec.License {
			spec.License = "Proprietary"
			if gpl {
				spec.License = "GPL"
			}
		}
	}
	return spec, nil
}

// gplCompatible is license_is_gpl_compatible of the kernel (linux/license.h).
func gplCompatible(license string) bool {
	switch license {
	case "GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL":
		return true
	}
	return false
}
