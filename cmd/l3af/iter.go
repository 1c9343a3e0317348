package main

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l3af/internal/loader"
)

func iterObject() object {
	return object{
		name:  "iter",
		short: "Make files of programs that go through what the kernel has",
		verbs: []verb{{
			name: "pin", args: "OBJ FILE [map MAP]",
			short: "Load an iterator, and pin it: whoever reads the file gets what it writes",
			long: `Pin loads the first iterator of an object file and pins its link at FILE in bpffs.
Each reading of the file runs the program anew. Iterators over the elements of a map
need one: MAP is ` + mapSelection.usage() + `.`,
			example: `  l3af iter pin tasks.bpf.o /sys/fs/bpf/tasks && cat /sys/fs/bpf/tasks
  l3af iter pin sums.bpf.o /sys/fs/bpf/sums map name flows`,
			run: (*call).iterPin,
		}},
	}
}

func (c *call) iterPin() error {
	file, err := c.next("object file")
	if err != nil {
		return err
	}
	path, err := c.next("file to pin the iterator at")
	if err != nil {
		return err
	}
	var over *ebpf.Map
	if c.take("map") {
		if over, err = c.selectMap(); err != nil {
			return err
		}
		defer over.Close()
	}
	if err := c.end(); err != nil {
		return err
	}
	o, err := loader.Open(file)
	if err != nil {
		return err
	}
	name, ok := o.Iterator(over != nil)
	if !ok {
		return &hinted{fmt.Errorf("object %s: it has no iterator", file), "its section is iter/KIND, as iter/task"}
	}
	o.Only(name)
	coll, err := o.Load("/sys/fs/bpf", c.opts.debug)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer coll.Close()
	l, err := link.AttachIter(link.IterOptions{Program: coll.Programs[name], Map: over})
	if err != nil {
		err = fmt.Errorf("attach program %s: %w", name, err)
		if over == nil && loader.OverMap(o.Spec.Programs[name]) {
			return &hinted{err, "it goes through the elements of a map: map MAP says which"}
		}
		return err
	}
	defer l.Close()
	return c.pinned(path, l)
}
