package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"unicode"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/inspect"
	"l3af/internal/near"
)

var mapChangeVerbs = []verb{{
	name: "update", args: "MAP [key DATA] value VALUE [any | exist | noexist]",
	short: "Write an entry",
	long: `Update writes an entry: any way, only where there is one (exist), or only
where there is none (noexist). All CPUs get the value. ` + dataHelp + `
The value of a map of maps is MAP, that of an array of programs is PROG.`,
	example: `  l3af map update name deny key 10.0.0.0/8 value 1
  l3af map update id 12 key 10.0.0.1 value '{rate: 5}' noexist
  l3af map update id 12 key hex 0a 00 00 01 value hex 05 00 00 00 00 00 00 00
  l3af map update name jumps key 0 value pinned /sys/fs/bpf/next`,
	run: func(c *call) error { return c.mapUpdate(wantKey | wantValue | wantFlags) },
}, {
	name: "delete", args: "MAP key DATA",
	short: "Delete an entry",
	long:  `Delete deletes the entry of a key. ` + dataHelp,
	run:   (*call).mapDelete,
}, {
	name: "push", args: "MAP value VALUE",
	short: "Put a value onto a stack",
	run:   func(c *call) error { return c.mapUpdate(wantValue) },
}, {
	name: "enqueue", args: "MAP value VALUE",
	short: "Put a value at the end of a queue",
	run:   func(c *call) error { return c.mapUpdate(wantValue) },
}, {
	name: "create", args: "FILE type TYPE [key BYTES] value BYTES entries N name NAME [flags FLAGS] [inner_map MAP] [dev NAME]",
	short: "Make a map, and pin it",
	example: `  l3af map create /sys/fs/bpf/deny type lpm_trie key 8 value 4 entries 100 name deny flags 1
  l3af map create /sys/fs/bpf/jobs type queue value 8 entries 64 name jobs`,
	run: (*call).mapCreate,
}, {
	name: "pin", args: "MAP FILE",
	short: "Pin a map in bpffs",
	run:   (*call).mapPin,
}, {
	name: "freeze", args: "MAP",
	short: "Make a map read-only for user space, for ever",
	run:   (*call).mapFreeze,
}}

func (c *call) mapUpdate(want wants) error {
	m, free, err := c.openEntry()
	if err != nil {
		return err
	}
	defer free()
	if want&wantKey == 0 && !m.Keyless() {
		return &hinted{fmt.Errorf("%s is a %s, whose entries have keys", m, typeText(inspect.MapType(m.Type()))), "l3af map update writes them"}
	}
	d, err := c.data(m, want)
	if err != nil {
		return err
	}
	defer d.close()
	err = bpfsys.Update(m, d.key, m.Spread(d.value), d.flags)
	switch {
	case errors.Is(err, unix.EEXIST):
		err = errors.New("there is an entry of this key")
	case errors.Is(err, unix.ENOENT) && d.flags == unix.BPF_EXIST:
		err = errors.New("there is no entry of this key")
	case errors.Is(err, unix.E2BIG):
		err = fmt.Errorf("it is full, or the key is outside of it: it has room for %d", m.Info.MaxEntries)
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: it may be frozen or read-only", err)
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", m, err)
	}
	return c.done()
}

func (c *call) mapDelete() error {
	m, free, err := c.openEntry()
	if err != nil {
		return err
	}
	defer free()
	if m.Keyless() {
		return &hinted{fmt.Errorf("%s has no keys", m), "l3af map pop takes what it gives next"}
	}
	key, err := c.onlyKey(m)
	if err != nil {
		return err
	}
	err = bpfsys.Delete(m, key)
	switch {
	case errors.Is(err, unix.ENOENT):
		err = errors.New("there is no entry of this key")
	case errors.Is(err, unix.EINVAL) && (m.Type() == ebpf.Array || m.Type() == ebpf.PerCPUArray):
		err = errors.New("the entries of an array cannot be deleted")
	}
	if err != nil {
		return fmt.Errorf("delete in %s: %w", m, err)
	}
	return c.done()
}

// number32 is a number as the kernel has it in 4 bytes.
func number32(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

func (c *call) mapCreate() error {
	path, err := c.next("file to pin the map at")
	if err != nil {
		return err
	}
	var spec bpfsys.MapSpec
	for c.peek() != "" {
		set := func(what string, field *uint32) error {
			n, err := c.number(what, 32)
			*field = uint32(n)
			return err
		}
		switch {
		case c.take("type"):
			spec.Type, err = c.mapType()
		case c.take("key"):
			err = set("size of keys", &spec.KeySize)
		case c.take("value"):
			err = set("size of values", &spec.ValueSize)
		case c.take("entries"):
			err = set("entries", &spec.MaxEntries)
		case c.take("name"):
			spec.Name, err = c.next("name")
		case c.take("flags"):
			err = set("flags", &spec.Flags)
		case c.take("inner_map"):
			var maps []*ebpf.Map
			if maps, err = c.selectMaps(); err == nil {
				defer closeAll(maps)
				spec.Inner = maps[0]
			}
		case c.take("dev"), c.take("offload_dev"):
			var dev *net.Interface
			if dev, err = c.device(); err == nil {
				spec.Ifindex = uint32(dev.Index)
			}
		default:
			err = &usageError{fmt.Sprintf("unknown word %q", c.peek()), "there are type, key, value, entries, name, flags, inner_map and dev"}
		}
		if err != nil {
			return err
		}
	}
	if spec.Type == 0 {
		return &usageError{what: "no type", hint: near.Hint("", inspect.MapTypes())}
	}
	if cut := spec.Name[:min(len(spec.Name), unix.BPF_OBJ_NAME_LEN-1)]; cut != spec.Name {
		fmt.Fprintf(c.err, "note: the kernel keeps %s of the name %s\n", cut, spec.Name)
		spec.Name = cut
	}
	if strings.IndexFunc(spec.Name, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '.'
	}) >= 0 {
		return &usageError{fmt.Sprintf("name %q: the kernel takes letters, digits, _ and . only", spec.Name), ""}
	}
	if t := ebpf.MapType(spec.Type); spec.Inner == nil && (t == ebpf.ArrayOfMaps || t == ebpf.HashOfMaps) {
		return &usageError{fmt.Sprintf("no inner_map for a %s", inspect.MapType(t)), "what maps it is to hold is told by one of them: inner_map {id ID | name NAME | pinned FILE}"}
	}
	fd, err := bpfsys.CreateMap(&spec)
	if errors.Is(err, unix.EINVAL) {
		return &hinted{
			fmt.Errorf("create map %s: %w", spec.Name, err),
			fmt.Sprintf("the kernel takes no %s with keys of %d bytes, values of %d, %d entries and flags %#x",
				inspect.MapType(ebpf.MapType(spec.Type)), spec.KeySize, spec.ValueSize, spec.MaxEntries, spec.Flags),
		}
	} else if err != nil {
		return fmt.Errorf("create map %s: %w", spec.Name, err)
	}
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return fmt.Errorf("create map %s: %w", spec.Name, err)
	}
	defer m.Close()
	return c.pinned(path, m)
}

func (c *call) mapType() (uint32, error) {
	name, err := c.next("type")
	if err != nil {
		return 0, err
	}
	t, ok := inspect.ParseMapType(name)
	if !ok {
		return 0, &usageError{fmt.Sprintf("unknown type %q", name), near.Hint(name, inspect.MapTypes())}
	}
	return uint32(t), nil
}

func (c *call) mapPin() error {
	maps, err := c.selectMaps()
	if err != nil {
		return err
	}
	defer closeAll(maps)
	if len(maps) > 1 {
		return fmt.Errorf("%d maps have that name: say which by its id", len(maps))
	}
	path, err := c.next("file to pin the map at")
	if err != nil {
		return err
	}
	if err := c.end(); err != nil {
		return err
	}
	return c.pinned(path, maps[0])
}

func (c *call) mapFreeze() error {
	maps, err := c.selectMaps()
	if err != nil {
		return err
	}
	defer closeAll(maps)
	if err := c.end(); err != nil {
		return err
	}
	if len(maps) > 1 {
		return fmt.Errorf("%d maps have that name: say which by its id", len(maps))
	}
	if err := maps[0].Freeze(); err != nil {
		return fmt.Errorf("freeze map: %w", err)
	}
	return c.done()
}
