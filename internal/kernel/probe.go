package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/host"
)

// attachProbe binds prog to a kernel event. The new link runs before the old
// one goes, so no event is missed; for that moment one may be seen by both.
func (k *Kernel) attachProbe(t host.Target, attach string, prog *ebpf.Program) error {
	l, err := k.openProbe(attach, prog)
	if err != nil {
		return fmt.Errorf("attach %s: %w", attach, err)
	}
	defer l.Close()
	return k.switchPin(t, l)
}

func (k *Kernel) openProbe(attach string, prog *ebpf.Program) (link.Link, error) {
	kind, event, _ := strings.Cut(attach, "/")
	switch kind {
	case "tracepoint":
		group, name, ok := strings.Cut(event, "/")
		if !ok {
			return nil, errors.New("want tracepoint/GROUP/NAME")
		}
		// Before the library looks for it: it looks only once.
		if err := mountTracefs(k.log); err != nil {
			return nil, err
		}
		l, err := link.Tracepoint(group, name, prog, nil)
		// A tracepoint has place for 64 programs, and those that were replaced
		// leave it some time later. (The library hides the error's number.)
		for tries := 0; tries < 50 && err != nil && strings.Contains(err.Error(), unix.E2BIG.Error()); tries++ {
			time.Sleep(20 * time.Millisecond)
			l, err = link.Tracepoint(group, name, prog, nil)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w (`ls /sys/kernel/tracing/events` shows which tracepoints this kernel has)", os.ErrNotExist)
		}
		return l, err
	case "raw_tracepoint":
		l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: event, Program: prog})
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w (the name of a tracepoint without its group)", err)
		}
		return l, err
	}
	// Where the kernel does not make them without a name, the library makes
	// events of tracefs.
	if err := mountTracefs(k.log); err != nil {
		return nil, err
	}
	switch kind {
	case "kprobe", "kretprobe":
		open := link.Kprobe
		if kind == "kretprobe" {
			open = link.Kretprobe
		}
		l, err := open(event, prog, nil)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w (/proc/kallsyms has the symbols of this kernel, which must be built with kprobes)", os.ErrNotExist)
		}
		return l, err
	case "uprobe", "uretprobe":
		at := strings.LastIndexByte(event, ':')
		if at < 0 {
			break
		}
		file, err := link.OpenExecutable(event[:at])
		if err != nil {
			return nil, err
		}
		if kind == "uretprobe" {
			return file.Uretprobe(event[at+1:], prog, nil)
		}
		return file.Uprobe(event[at+1:], prog, nil)
	}
	return nil, errors.New("want " + l3af.AttachForms)
}
