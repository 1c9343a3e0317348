package chain

import (
	"errors"
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
	c := &Chain{Kind: kind}
	parts := make([]*part, len(members))
	for i, m := range members {
		if slices.ContainsFunc(c.Programs, func(l Linked) bool { return l.Name == m.Name }) {
			return nil, refuse(m.Name, "the chain has two programs of this name")
		}
		p, err := take(m)
		if err == nil {
			err = p.forHook(kind)
		}
		if err != nil {
			return nil, err
		}
		parts[i] = p
		c.Programs = append(c.Programs, Linked{Name: p.Name, Linkage: Inlined, Proceed: p.Proceed})
	}
	var err error
	if c.Program, err = frameOf(kind, parts); err != nil {
		return nil, err
	}
	counters, own := newLayout(kind), []Map(nil)
	if !o.NoCounters {
		if size := counters.stride() * len(parts); size > maxCounters {
			return nil, refuse("", "counters of %d programs take %d bytes; a per-CPU map's value has at most %d", len(parts), size, maxCounters)
		}
		own = []Map{{Ref: CountersRef, Name: CountersName, Spec: counters.spec(c.Programs), Pinned: true}}
	}
	if c.Maps, err = gatherMaps(parts, own...); err != nil {
		return nil, err
	}
	f := newFusion(parts, counters, !o.NoCounters)
	entry, err := f.fuse(false)
	if far := (*rangeError)(nil); errors.As(err, &far) {
		if entry, err = f.fuse(true); errors.As(err, &far) {
			err = refuse("", "%v", far)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := c.finish(parts, f.functions(entry, kind)); err != nil {
		return nil, err
	}
	return c, nil
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
