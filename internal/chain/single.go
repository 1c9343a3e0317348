package chain

import (
	"strings"

	"github.com/cilium/ebpf"

	"l3af"
)

// Single makes a probe of one program: it is renamed, but otherwise runs as it
// is and is not counted. attach is as [l3af.NormalAttach] gives it.
func Single(attach string, m Member) (*Chain, error) {
	want, err := probeType(attach)
	if err != nil {
		return nil, err
	}
	p, err := take(m)
	if err != nil {
		return nil, err
	}
	if p.program.Type != want {
		return nil, refuse(p.Name, "%s is a %v program, %s runs %v", p.Entry, p.program.Type, attach, want)
	}
	c := &Chain{Attach: attach, Programs: []Linked{{Name: p.Name}}}
	if c.Maps, err = gatherMaps([]*part{p}); err != nil {
		return nil, err
	}
	if n := len(p.direct); n > maxMaps {
		return nil, refuse(p.Name, "it needs %d maps; the kernel allows a program %d", n, maxMaps)
	}
	spec := *p.program
	spec.AttachTo, spec.SectionName = "", ""
	c.Program = &spec

	if err := c.identify([]*part{p}); err != nil {
		return nil, err
	}
	names := functionNames("", p.funcs, map[string]bool{})
	entry := &listing{}
	if err := entry.keep(p.funcs[0], names); err != nil {
		return nil, refuse(p.Name, "%v", err)
	}
	rest, err := kept(p, names, names, nil)
	if err != nil {
		return nil, err
	}
	fns := append([]named{{ins: entry.ins, info: p.funcs[0].info}}, rest...)
	if err := finish(c.Program, NamePrefix+c.ID, title(c.ID, []string{p.Name}), fns); err != nil {
		return nil, err
	}
	return c, nil
}

// probeType is the type of program that an attach point runs.
func probeType(attach string) (ebpf.ProgramType, error) {
	if normal, err := l3af.NormalAttach(attach); err != nil || normal != attach || attach == "" {
		return 0, refuse("", "unknown attach point %q (%s)", attach, l3af.AttachForms)
	}
	switch kind, _, _ := strings.Cut(attach, "/"); kind {
	case "tracepoint":
		return ebpf.TracePoint, nil
	case "raw_tracepoint":
		return ebpf.RawTracepoint, nil
	default: // probes of the kernel and of processes are one type
		return ebpf.Kprobe, nil
	}
}
