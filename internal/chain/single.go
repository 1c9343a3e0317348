package chain

import (
	"strings"

	"github.com/cilium/ebpf"
)

// Single makes a probe of one program: it is renamed, but otherwise runs as it
// is and is not counted. attach is tracepoint/GROUP/NAME or raw_tracepoint/NAME.
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
	entry.keep(p.funcs[0], names)
	fns := append([]named{{ins: entry.ins, info: p.funcs[0].info}}, kept(p, names, names, nil)...)
	if err := finish(c.Program, NamePrefix+c.ID, title(c.ID, []string{p.Name}), fns); err != nil {
		return nil, err
	}
	return c, nil
}

// probeType is the type of program that an attach point runs.
func probeType(attach string) (ebpf.ProgramType, error) {
	kind, rest, _ := strings.Cut(attach, "/")
	group, name, two := strings.Cut(rest, "/")
	switch {
	case kind == "tracepoint" && two && group != "" && name != "" && !strings.Contains(name, "/"):
		return ebpf.TracePoint, nil
	case kind == "raw_tracepoint" && !two && rest != "":
		return ebpf.RawTracepoint, nil
	}
	return 0, refuse("", "unknown attach point %q (tracepoint/GROUP/NAME or raw_tracepoint/NAME)", attach)
}
