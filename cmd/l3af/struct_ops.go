package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/inspect"
	"l3af/internal/loader"
)

var structOpsSelection = selection{"struct_ops", "struct_ops map", []inspect.By{inspect.ID, inspect.Name}}

func structOpsObject() object {
	return object{
		name:  "struct_ops",
		short: "See and handle programs that are the functions of a struct of the kernel's",
		long: `Struct_ops are maps whose programs the kernel calls as the functions of one of its
structs, such as those of TCP congestion control. The words, options and JSON are
those of bpftool.`,
		verbs: []verb{{
			name: "show", aliases: []string{"list"}, args: "[STRUCT_OPS_MAP]",
			short: "Show which there are",
			long:  `Show lists them, registered or not. STRUCT_OPS_MAP is ` + structOpsSelection.usage() + `.`,
			run:   (*call).structOpsShow,
		}, {
			name: "dump", args: "[STRUCT_OPS_MAP]",
			short: "Print what is in them: which programs are the functions, and the values",
			long:  `Dump prints what the kernel has of them. STRUCT_OPS_MAP is ` + structOpsSelection.usage() + `.`,
			run:   (*call).structOpsDump,
		}, {
			name: "register", args: "OBJ LINK_DIR",
			short: "Load those of an object file, and have the kernel use them",
			long: `Register loads all of an object file, of its section .struct_ops.link, and registers
them for as long as their links are there, which it pins in the folder LINK_DIR
of bpffs by their names. The section .struct_ops, of which there are no links, is not
read.`,
			example: "  l3af struct_ops register still.bpf.o /sys/fs/bpf/tcp",
			run:     (*call).structOpsRegister,
		}, {
			name: "unregister", args: "STRUCT_OPS_MAP",
			short: "Have the kernel use them no more",
			long:  `Unregister takes those of a name or an id. STRUCT_OPS_MAP is ` + structOpsSelection.usage() + `.`,
			run:   (*call).structOpsUnregister,
		}},
	}
}

// structOps reads what the selector means that ends the line.
func (c *call) structOps() (s inspect.Selector, list []inspect.StructOps, err error) {
	if s, err = c.lastSelector(structOpsSelection); err != nil {
		return s, nil, err
	}
	if list, err = inspect.StructOpsMaps(s); err != nil {
		return s, nil, structOpsSelection.explain(s, err)
	}
	return s, list, c.found(structOpsSelection, s, len(list))
}

func (c *call) structOpsShow() error {
	s, list, err := c.structOps()
	if err != nil {
		return err
	}
	return answerList(c, list, s.By != inspect.All, func(w io.Writer) error {
		var b strings.Builder
		for _, o := range list {
			fmt.Fprintf(&b, "%d: %-15s %-32s\n", o.ID, o.Name, o.Kernel)
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}

func (c *call) structOpsRegister() error {
	file, err := c.next("object file")
	if err != nil {
		return err
	}
	dir, err := c.next("folder for links")
	if err != nil {
		return &usageError{err.Error(), "what is registered goes with its link: name a folder of bpffs to pin it in"}
	}
	if err := c.end(); err != nil {
		return err
	}
	o, err := loader.Open(file)
	if err != nil {
		return err
	}
	var names []string
	for _, name := range o.Maps {
		if o.Spec.Maps[name].Type == ebpf.StructOpsMap {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("object %s: it has no struct_ops", file)
	}
	coll, err := o.Load("/sys/fs/bpf", c.opts.debug)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer coll.Close()
	for _, name := range names {
		l, err := link.AttachStructOps(link.StructOpsOptions{Map: coll.Maps[name]})
		if err != nil {
			return fmt.Errorf("register %s: %w", name, err)
		}
		info, err := coll.Maps[name].Info()
		if err == nil { // pins have the kernel's name, as of bpftool
			err = c.pin(filepath.Join(dir, info.Name), l)
		}
		l.Close()
		if err != nil {
			return fmt.Errorf("link of %s: %w", name, err)
		}
		id, _ := info.ID()
		list, err := inspect.StructOpsMaps(inspect.Selector{By: inspect.ID, ID: uint32(id)})
		if err != nil {
			return err
		}
		c.structOpsNote("registered", list[0])
	}
	return c.done()
}

// structOpsNote tells people what was done with one; JSON has null.
func (c *call) structOpsNote(done string, o inspect.StructOps) {
	if !c.opts.asJSON(c.app) {
		fmt.Fprintf(c.err, "%s %s %s id %d\n", done, o.Kernel, o.Name, o.ID)
	}
}

func (c *call) structOpsUnregister() error {
	s, err := c.selector(structOpsSelection)
	if err != nil {
		return err
	}
	if err := c.end(); err != nil {
		return err
	}
	list, err := inspect.StructOpsMaps(s)
	if err == nil && len(list) == 0 {
		return structOpsSelection.explain(s, fs.ErrNotExist)
	} else if err != nil {
		return structOpsSelection.explain(s, err)
	}
	var errs []error // one that cannot be taken keeps none of the others
	for _, o := range list {
		if err := unregister(o.ID); err != nil {
			errs = append(errs, fmt.Errorf("unregister %s id %d: %w", o.Name, o.ID, err))
		} else {
			c.structOpsNote("unregistered", o)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return c.done()
}

func unregister(id uint32) error {
	only := inspect.Selector{By: inspect.ID, ID: id}
	maps, err := inspect.OpenMaps(only)
	if err != nil {
		return structOpsSelection.explain(only, err)
	}
	defer closeAll(maps)
	switch err := bpfsys.Delete(maps[0], make([]byte, 4)); {
	case errors.Is(err, unix.ENOENT):
		return errors.New("it is not registered")
	case errors.Is(err, unix.EOPNOTSUPP):
		return &hinted{errors.New("it is registered by links, and goes with them"), "l3af link show tells which there are, l3af link detach ends one"}
	default:
		return err
	}
}
