package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af/internal/inspect"
	"l3af/internal/kernel"
	"l3af/internal/near"
)

var progPinVerbs = []verb{{
	name: "pin", args: "PROG FILE",
	short: "Pin a program in bpffs",
	run:   (*call).progPin,
}, {
	name: "attach", args: "PROG ATTACH_TYPE [MAP]",
	short: "Attach a program to the sockets of a map, or to this network namespace",
	long: `Attach attaches a program to the sockets of a map: ` + strings.Join(socketAttachTypes, ", ") + `;
or as the flow dissector of this network namespace. Programs of other types are
attached with l3af net attach and l3af cgroup attach.`,
	run: func(c *call) error { return c.progAttach(true) },
}, {
	name: "detach", args: "PROG ATTACH_TYPE [MAP]",
	short: "Detach what attach attached",
	run:   func(c *call) error { return c.progAttach(false) },
}}

func (c *call) progPin() error {
	p, err := c.selectProgram()
	if err != nil {
		return err
	}
	defer p.Close()
	path, err := c.next("file to pin the program at")
	if err != nil {
		return err
	}
	if err := c.end(); err != nil {
		return err
	}
	return c.pinned(path, p)
}

// pinned is what verbs end with that only pin an object.
func (c *call) pinned(path string, object interface{ Pin(string) error }) error {
	if err := c.pin(path, object); err != nil {
		return err
	}
	return c.done()
}

// pin pins an object at a new file. bpffs is mounted on an empty folder,
// unless --nomount is given.
func (c *call) pin(path string, object interface{ Pin(string) error }) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if in, err := os.ReadDir(filepath.Dir(path)); !c.opts.nomount && (err != nil || len(in) == 0) {
		dir, err := kernel.MountBpffs(filepath.Dir(path), slog.New(slog.DiscardHandler))
		if err != nil {
			return fmt.Errorf("pin: %w", err)
		}
		path = filepath.Join(dir, filepath.Base(path))
	}
	err = object.Pin(path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("pin at %s: something is there already", path)
	case errors.Is(err, unix.EPERM) && strings.Contains(filepath.Base(path), "."):
		return fmt.Errorf("pin at %s: %w (bpffs takes no names with dots)", path, os.ErrPermission)
	case err != nil:
		return &hinted{fmt.Errorf("pin at %s: %w", path, err), "the file must be new and in a folder of bpffs, such as /sys/fs/bpf"}
	}
	return nil
}

// unfit says of an attachment that the kernel calls invalid what the program is,
// which may be made for another place.
func unfit(err error, p *ebpf.Program) error {
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	return &hinted{err, fmt.Sprintf("the program is of type %s: it may not be made for that place", inspect.ProgramType(p.Type()))}
}

// socketAttachTypes are those that prog attach takes.
var socketAttachTypes = []string{"sk_msg_verdict", "sk_skb_verdict", "sk_skb_stream_verdict", "sk_skb_stream_parser", "flow_dissector"}

func (c *call) progAttach(attach bool) error {
	p, err := c.selectProgram()
	if err != nil {
		return err
	}
	defer p.Close()
	name, err := c.next("type of attachment")
	if err != nil {
		return err
	}
	t, known := inspect.ParseAttachType(name)
	if !known || !slices.Contains(socketAttachTypes, string(inspect.AttachType(t))) {
		return &usageError{fmt.Sprintf("cannot attach to %q", name), near.Hint(name, socketAttachTypes)}
	}
	target := 0 // this network namespace
	if t != ebpf.AttachFlowDissector {
		m, err := c.selectMap()
		if err != nil {
			return err
		}
		defer m.Close()
		target = m.FD()
	}
	if err := c.end(); err != nil {
		return err
	}
	if attach {
		err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: target, Program: p, Attach: t})
	} else {
		err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: target, Program: p, Attach: t})
	}
	if err != nil {
		verb := map[bool]string{true: "attach", false: "detach"}[attach]
		return unfit(fmt.Errorf("%s as %s: %w", verb, name, err), p)
	}
	return c.done()
}
