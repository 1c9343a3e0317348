package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"

	"l3af/internal/bpfsys"
	"l3af/internal/btftext"
	"l3af/internal/near"
	"l3af/internal/rawbtf"
)

func btfDumpVerbs() []verb {
	var o btfDumpOptions
	return []verb{{
		name: "dump", args: "{id ID | prog PROG | map MAP [key | value | kv | all] | file FILE} [format {raw | c}] [root_id ID]…",
		short: "Print types",
		long: `Dump prints the types of a BTF object, a program, a map's key and value, or a
file: BTF, or an ELF object that has some. raw has every type with its number; c
is a header that compiles, with all that the wanted types need. root_id prints
that type only.`,
		example: `  l3af btf dump file /sys/kernel/btf/vmlinux format c > vmlinux.h
  l3af btf dump map name flows kv format c
  l3af btf dump prog id 12 -j | jq '.types[] | select(.kind == "STRUCT")'`,
		flags: func(f *pflag.FlagSet) {
			f.StringVarP(&o.base, "base-btf", "B", "", "what the types of the file build on, for modules")
		},
		run: func(c *call) error { return c.btfDump(&o) },
	}}
}

type btfDumpOptions struct {
	base string
}

// types are what btf dump is about.
type types struct {
	spec  *rawbtf.Spec
	roots []rawbtf.ID // none: all
}

func (c *call) btfDump(o *btfDumpOptions) error {
	t, err := c.btfSource(o)
	if err != nil {
		return err
	}
	asC := false
	var roots []rawbtf.ID
	for c.peek() != "" {
		switch {
		case c.take("format"):
			format, err := c.next("format")
			if err != nil {
				return err
			}
			if format != "raw" && format != "c" {
				return &usageError{fmt.Sprintf("unknown format %q", format), near.Hint(format, []string{"raw", "c"})}
			}
			asC = format == "c"
		case c.take("root_id"):
			id, err := c.number("root_id", 32)
			if err != nil {
				return err
			}
			if id == 0 || t.spec.Type(rawbtf.ID(id)) == nil {
				return fmt.Errorf("there is no type %d: the last is %d", id, t.spec.End()-1)
			}
			roots = append(roots, rawbtf.ID(id))
		case asC && c.take("unsorted"): // the order is that of need, anyway
		default:
			return &usageError{fmt.Sprintf("unknown word %q", c.peek()), "there are format and root_id"}
		}
	}
	if roots != nil {
		t.roots = roots
	}
	if asC {
		return c.typesAsC(t)
	}
	return c.listTypes(t)
}

// btfSource takes what to dump.
func (c *call) btfSource(o *btfDumpOptions) (*types, error) {
	switch {
	case c.take("id"):
		id, err := c.number("id", 32)
		if err != nil {
			return nil, err
		}
		spec, err := rawbtf.FromKernel(uint32(id))
		return &types{spec: spec}, err
	case c.take("prog"):
		return c.btfOfProgram()
	case c.take("map"):
		return c.btfOfMap()
	case c.take("file"):
		path, err := c.next("file")
		if err != nil {
			return nil, err
		}
		base := o.base
		if dir, _ := filepath.Split(path); base == "" && dir == "/sys/kernel/btf/" && filepath.Base(path) != "vmlinux" {
			base = dir + "vmlinux"
		}
		var on *rawbtf.Spec
		if base != "" {
			if on, err = rawbtf.ReadFile(base, nil); err != nil {
				return nil, err
			}
		}
		spec, err := rawbtf.ReadFile(path, on)
		return &types{spec: spec}, err
	}
	return nil, &usageError{"it is not said whose types", "there are id ID, prog PROG, map MAP and file FILE"}
}

var errNoTypes = errors.New("it has no BTF")

func (c *call) btfOfProgram() (*types, error) {
	p, err := c.selectProgram()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	var info bpfsys.ProgInfo
	if err := bpfsys.Info(p, &info); err != nil {
		return nil, fmt.Errorf("program: %w", err)
	}
	if info.BTFID == 0 {
		return nil, fmt.Errorf("program %d: %w", info.ID, errNoTypes)
	}
	spec, err := rawbtf.FromKernel(info.BTFID)
	return &types{spec: spec}, err
}

func (c *call) btfOfMap() (*types, error) {
	m, err := c.selectMap()
	if err != nil {
		return nil, err
	}
	defer m.Close()
	var info bpfsys.MapInfo
	if err := bpfsys.Info(m, &info); err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	key, value := rawbtf.ID(info.BTFKeyTypeID), rawbtf.ID(info.BTFValueTypeID)
	var spec *rawbtf.Spec
	switch {
	case info.BTFVmlinuxValueTypeID != 0:
		key, value = 0, rawbtf.ID(info.BTFVmlinuxValueTypeID)
		spec, err = rawbtf.Vmlinux()
	case info.BTFID != 0:
		spec, err = rawbtf.FromKernel(info.BTFID)
	default:
		err = fmt.Errorf("map %d %s: %w", info.ID, bpfsys.Text(info.Name[:]), errNoTypes)
	}
	if err != nil {
		return nil, err
	}
	t := &types{spec: spec}
	switch {
	case c.peek() == "key":
		t.roots = []rawbtf.ID{key}
	case c.peek() == "value":
		t.roots = []rawbtf.ID{value}
	case c.peek() == "all":
	default:
		t.roots = []rawbtf.ID{key, value}
		if c.peek() != "kv" {
			return t, nil
		}
	}
	_, err = c.next("part")
	return t, err
}

func (c *call) typesAsC(t *types) error {
	if c.opts.asJSON(c.app) {
		return &usageError{what: "C is no JSON", hint: "format raw has JSON"}
	}
	header := btftext.NewC(t.spec)
	if t.roots == nil {
		header.All()
	}
	for _, id := range t.roots {
		header.Add(id)
	}
	_, err := c.out.Write(header.Header())
	return err
}

func (c *call) listTypes(t *types) error {
	roots := t.roots
	if roots == nil {
		for id := max(t.spec.First(), 1); id < t.spec.End(); id++ {
			roots = append(roots, id)
		}
	}
	var text []byte
	l := btftext.Listing{Spec: t.spec}
	if c.opts.asJSON(c.app) {
		l.W = &btftext.Writer{Indent: c.indent()}
		l.W.BeginObject()
		l.W.Name("types")
		l.W.BeginArray()
	}
	for _, id := range roots {
		text = l.Type(text, id)
	}
	if l.W != nil {
		l.W.EndArray()
		l.W.EndObject()
		text = append(l.W.Buf, '\n')
	}
	_, err := c.out.Write(text)
	return err
}
