package loader

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l3af/internal/trace"
)

// ErrNoEvent is a program whose section does not say what to attach it to.
var ErrNoEvent = errors.New("its section names no event of the kernel")

// Attach attaches a program to the event that its section names, as
// tracepoint/sched/sched_switch. It is [ErrNoEvent] where there is none.
func Attach(spec *ebpf.ProgramSpec, p *ebpf.Program) (link.Link, error) {
	kind, event, named := strings.Cut(strings.TrimPrefix(spec.SectionName, "?"), "/")
	if !named {
		return nil, ErrNoEvent
	}
	switch kind {
	case "tracepoint", "tp":
		group, name, ok := strings.Cut(event, "/")
		if !ok {
			return nil, fmt.Errorf("section %s: want tracepoint/GROUP/NAME", spec.SectionName)
		}
		var l link.Link
		// The library reads the event's number there.
		err := trace.In(func(string) (err error) {
			l, err = link.Tracepoint(group, name, p, nil)
			return err
		})
		return l, err
	case "raw_tracepoint", "raw_tp", "raw_tracepoint.w", "raw_tp.w":
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: event, Program: p})
	case "kprobe":
		name, offset := place(event)
		return link.Kprobe(name, p, &link.KprobeOptions{Offset: offset})
	case "kretprobe":
		return link.Kretprobe(event, p, nil)
	case "ksyscall":
		return link.Kprobe("sys_"+event, p, nil)
	case "kretsyscall":
		return link.Kretprobe("sys_"+event, p, nil)
	case "uprobe", "uretprobe":
		return uprobe(kind, event, p)
	case "iter", "iter.s":
		return link.AttachIter(link.IterOptions{Program: p})
	case "tp_btf", "fentry", "fentry.s", "fexit", "fexit.s", "fmod_ret", "fmod_ret.s":
		return link.AttachTracing(link.TracingOptions{Program: p})
	case "lsm", "lsm.s":
		return link.AttachLSM(link.LSMOptions{Program: p})
	}
	return nil, ErrNoEvent
}

// uprobe attaches to FILE:FUNCTION+OFFSET.
func uprobe(kind, event string, p *ebpf.Program) (link.Link, error) {
	at := strings.LastIndexByte(event, ':')
	if at < 0 {
		return nil, fmt.Errorf("section %s/%s: want %s/FILE:FUNCTION", kind, event, kind)
	}
	file, err := link.OpenExecutable(event[:at])
	if err != nil {
		return nil, err
	}
	name, offset := place(event[at+1:])
	if kind == "uretprobe" {
		return file.Uretprobe(name, p, &link.UprobeOptions{Offset: offset})
	}
	return file.Uprobe(name, p, &link.UprobeOptions{Offset: offset})
}

// place takes FUNCTION+OFFSET apart.
func place(s string) (name string, offset uint64) {
	name, plus, _ := strings.Cut(s, "+")
	offset, err := strconv.ParseUint(plus, 0, 64)
	if err != nil {
		return s, 0
	}
	return name, offset
}
