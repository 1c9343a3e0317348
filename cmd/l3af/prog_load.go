package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"

	"l3af/internal/loader"
	"l3af/internal/near"
)

const loadArgs = "OBJ PATH [type TYPE] [{xdpmeta_dev|offload_dev} NAME] [map {idx IDX|name NAME} MAP]… [pinmaps DIR] [autoattach] [kernel_btf FILE]"

var progLoadVerbs = []verb{{
	name: "load", args: loadArgs,
	short: "Load the first program of an object, and pin it",
	long: `Load loads the first program of an object file and pins it at PATH in bpffs, which
is mounted where it is missing. With -d the verifier says what it did.

  type TYPE              what the program is, whatever its section says: ` + `xdp, classifier,
                         cgroup/connect4, …
  xdpmeta_dev NAME       bind an XDP program to an interface, which it may ask about packets
  offload_dev NAME       have the interface run it
  map name NAME MAP      use a map that there is in place of the object's; with idx by its
                         number in the object. MAP is ` + mapSelection.usage() + `
  pinmaps DIR            pin the maps too
  autoattach             attach it to the event that its section names, and pin the link
  kernel_btf FILE        the kernel's types, where it does not give them itself`,
	example: `  l3af prog load acl.bpf.o /sys/fs/bpf/acl
  l3af prog load acl.bpf.o /sys/fs/bpf/acl map name deny pinned /sys/fs/bpf/deny`,
	run: func(c *call) error { return c.progLoad(false) },
}, {
	name: "loadall", args: loadArgs,
	short: "Load all programs of an object, and pin them in a folder",
	long: `Loadall loads all programs of an object file and pins them in the folder PATH by
their names. Its words are those of l3af prog load.`,
	example: `  l3af prog loadall execs.bpf.o /sys/fs/bpf/execs autoattach`,
	run:     func(c *call) error { return c.progLoad(true) },
}}

// loading says how an object is loaded.
type loading struct {
	*loader.Object
	path, pinMaps string
	attach        bool
	given         []*ebpf.Map // maps in place of the object's
}

func (c *call) progLoad(all bool) error {
	l, err := c.loading(all)
	if err != nil {
		return err
	}
	defer closeAll(l.given)
	coll, err := l.Load("/sys/fs/bpf", c.opts.debug)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer coll.Close()
	if c.opts.debug {
		for _, name := range l.Programs {
			fmt.Fprintf(c.err, "%s:\n%s\n", name, strings.TrimSpace(coll.Programs[name].VerifierLog))
		}
	}
	var pinned []string
	if err := c.pinLoaded(l, coll, all, &pinned); err != nil {
		for _, path := range pinned {
			_ = os.Remove(path)
		}
		return err
	}
	return c.done()
}

// pinLoaded pins what was loaded, and tells the files.
func (c *call) pinLoaded(l *loading, coll *ebpf.Collection, all bool, pinned *[]string) error {
	pin := func(path string, object interface{ Pin(string) error }) error {
		err := c.pin(path, object)
		if err == nil {
			*pinned = append(*pinned, path)
		}
		return err
	}
	for _, name := range l.Programs {
		path := l.path
		if all {
			path = filepath.Join(l.path, name)
		}
		if l.attach {
			link, err := loader.Attach(l.Spec.Programs[name], coll.Programs[name])
			if err == nil {
				err = pin(path, link)
				link.Close()
				if err != nil {
					return fmt.Errorf("link of program %s: %w", name, err)
				}
				continue
			}
			if !errors.Is(err, loader.ErrNoEvent) {
				return fmt.Errorf("attach program %s: %w", name, err)
			}
			fmt.Fprintf(c.err, "note: program %s is pinned without being attached: %v\n", name, err)
		}
		if err := pin(path, coll.Programs[name]); err != nil {
			return fmt.Errorf("program %s: %w", name, err)
		}
	}
	if l.pinMaps == "" {
		return nil
	}
	for _, name := range l.Maps {
		m := coll.Maps[name]
		if m == nil {
			continue // replaced, and pinned by whoever made it
		}
		if err := pin(filepath.Join(l.pinMaps, l.PinName(name)), m); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	return nil
}

func (c *call) loading(all bool) (_ *loading, err error) {
	object, err := c.next("object file")
	if err != nil {
		return nil, err
	}
	l := &loading{}
	defer func() {
		if err != nil {
			closeAll(l.given)
		}
	}()
	if l.path, err = c.next("file to pin the program at"); err != nil {
		return nil, err
	}
	if l.Object, err = loader.Open(object); err != nil {
		return nil, err
	}
	if len(l.Programs) == 0 {
		return nil, fmt.Errorf("object %s: it has no program", object)
	}
	if !all {
		l.Only(l.Programs[0])
	}
	// Types come first: a device takes programs by theirs.
	var device func() error
	for len(c.words) > 0 {
		switch {
		case c.take("type"):
			err = c.loadType(l)
		case c.take("map"):
			err = c.loadMap(l)
		case c.take("pinmaps"):
			l.pinMaps, err = c.next("folder for maps")
		case c.take("autoattach"):
			l.attach = true
		case c.take("kernel_btf"):
			var file string
			if file, err = c.next("file of the kernel's types"); err == nil {
				err = l.KernelTypes(file)
			}
		case c.take("xdpmeta_dev"):
			device, err = c.loadDevice(l.Bind)
		case c.take("offload_dev"), c.take("dev"):
			device, err = c.loadDevice(l.Offload)
		default:
			err = &usageError{fmt.Sprintf("unknown word %q", c.peek()), "there is type, map, pinmaps, autoattach, kernel_btf, xdpmeta_dev and offload_dev"}
		}
		if err != nil {
			return nil, err
		}
	}
	if device != nil {
		if err := device(); err != nil {
			return nil, fmt.Errorf("load: %w", err)
		}
	}
	return l, nil
}

func (c *call) loadType(l *loading) error {
	name, err := c.next("type")
	if err != nil {
		return err
	}
	t, ok := loader.ParseType(name)
	if !ok {
		return &usageError{fmt.Sprintf("unknown type %q", name), near.Hint(name, loader.Types())}
	}
	l.SetType(t)
	return nil
}

func (c *call) loadMap(l *loading) error {
	var name string
	var err error
	switch {
	case c.take("idx"):
		n, err := c.number("idx", 31)
		if err != nil {
			return err
		}
		if int(n) >= len(l.Maps) {
			return &usageError{fmt.Sprintf("no map %d in the object", n), fmt.Sprintf("it has %s", plural(len(l.Maps), "map"))}
		}
		name = l.Maps[n]
	case c.take("name"):
		if name, err = c.next("name of a map"); err != nil {
			return err
		}
	default:
		return &usageError{"which map of the object is meant?", "there is idx and name"}
	}
	m, err := c.selectMap()
	if err != nil {
		return err
	}
	l.given = append(l.given, m)
	return l.Replace(name, m)
}

func (c *call) loadDevice(bind func(ifindex uint32) error) (func() error, error) {
	dev, err := c.device()
	if err != nil {
		return nil, err
	}
	return func() error { return bind(uint32(dev.Index)) }, nil
}
