package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/btftext"
	"l3af/internal/doc"
	"l3af/internal/entries"
	"l3af/internal/inspect"
)

func mapReadVerbs() []verb {
	var watch watchOptions
	return []verb{{
		name: "dump", args: "MAP [--watch [INTERVAL]]",
		short: "Print all entries of maps",
		long: `Dump prints the entries of the maps that are meant: in hex, and by the map's
types where it has BTF. With JSON it prints both, and with -o yaml what the
documents of l3af take. Where every CPU has a value of its own, the sum is
printed, too. MAP is ` + mapSelection.usage() + `.

Entries are read many at once. What changes meanwhile may be printed or not.

With --watch it looks again and again, and prints the numbers in the entries and
how fast they grow, the fastest first. With JSON each look is one line.`,
		example: `  l3af map dump name flows
  l3af map dump id 12 -j | jq '.[].formatted.value.packets'
  l3af map dump name packets -j | jq '.[].sum'
  l3af map dump pinned /sys/fs/bpf/deny -o yaml
  l3af map dump name flows --watch 5s`,
		flags: watch.register,
		run:   func(c *call) error { return c.mapDump(&watch) },
	}, {
		name: "lookup", args: "MAP [key DATA]",
		short: "Print the entry of a key",
		long:  `Lookup prints one entry. ` + dataHelp,
		example: `  l3af map lookup name deny key 10.0.0.0/8
  l3af map lookup id 12 key hex 0a 00 00 01
  l3af map lookup id 12 key '{ip: 10.0.0.1, port: 80}' -j`,
		run: (*call).mapLookup,
	}, {
		name: "getnext", args: "MAP [key DATA]",
		short: "Print the key behind another, or the first",
		long:  `Getnext prints the key behind another one, or the first. ` + dataHelp,
		run:   (*call).mapGetNext,
	}, {
		name: "peek", args: "MAP",
		short: "Print what a queue or stack gives next",
		run:   func(c *call) error { return c.mapTake(bpfsys.Lookup) },
	}, {
		name: "pop", args: "MAP",
		short: "Take the top of a stack, and print it",
		run:   func(c *call) error { return c.mapTake(bpfsys.LookupAndDelete) },
	}, {
		name: "dequeue", args: "MAP",
		short: "Take the head of a queue, and print it",
		run:   func(c *call) error { return c.mapTake(bpfsys.LookupAndDelete) },
	}}
}

// openEntries takes a selector and opens the maps it means; free closes them.
func (c *call) openEntries() (list []*entries.Map, free func(), err error) {
	maps, err := c.selectMaps()
	if err != nil {
		return nil, nil, err
	}
	free = func() { closeAll(maps) }
	for _, m := range maps {
		e, err := entries.Open(m)
		if err != nil {
			free()
			return nil, nil, err
		}
		if e.Untyped != nil {
			fmt.Fprintf(c.err, "note: %s is without types: %v\n", e, e.Untyped)
		}
		list = append(list, e)
	}
	return list, free, nil
}

// openEntry is openEntries for verbs that are about one map.
func (c *call) openEntry() (*entries.Map, func(), error) {
	list, free, err := c.openEntries()
	if err == nil && len(list) > 1 {
		free()
		ids := ""
		for _, m := range list {
			ids += fmt.Sprintf(" %d", m.Info.ID)
		}
		return nil, nil, &hinted{fmt.Errorf("%d maps have that name", len(list)), "say which: id" + ids}
	}
	if err != nil {
		return nil, nil, err
	}
	return list[0], free, nil
}

func (c *call) mapDump(watch *watchOptions) error {
	maps, free, err := c.openEntries()
	if err != nil {
		return err
	}
	defer free()
	if watch.on() {
		return c.mapWatch(maps, watch)
	}
	if err := c.end(); err != nil {
		return err
	}
	switch {
	case c.opts.asJSON(c.app):
		return c.dumpJSON(maps)
	case c.output == formatYAML:
		return c.dumpYAML(maps)
	}
	var errs []error
	for i, m := range maps {
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		if len(maps) > 1 {
			fmt.Fprintf(c.out, "%d: %s  ", m.Info.ID, typeText(inspect.MapType(m.Type())))
			if name := m.Name(); name != "" {
				fmt.Fprintf(c.out, "name %s  ", name)
			}
			fmt.Fprintf(c.out, "flags %#x\n", m.Info.Flags)
		}
		if err := c.dumpText(m); err != nil {
			errs = append(errs, fmt.Errorf("dump %s: %w", m, err))
		}
	}
	return errors.Join(errs...)
}

// flushAt is how many bytes of output are collected.
const flushAt = 1 << 18

func (c *call) dumpText(m *entries.Map) error {
	if m.Typed() {
		w := btftext.Writer{Indent: 4}
		w.BeginArray()
		err := c.writeEntries(m, &w, func(w *btftext.Writer, e entries.Entry) { m.TypedText(w, e) })
		if err != nil {
			return err
		}
		w.EndArray()
		w.Buf = append(w.Buf, '\n')
		_, err = c.out.Write(w.Buf)
		return err
	}
	found := 0
	var w btftext.Writer
	err := c.writeEntries(m, &w, func(w *btftext.Writer, e entries.Entry) {
		w.Buf = m.AppendText(w.Buf, e)
		if e.Err == nil {
			found++
		}
	})
	if err != nil {
		return err
	}
	w.Buf = fmt.Appendf(w.Buf, "Found %s\n", plural(found, "element"))
	_, err = c.out.Write(w.Buf)
	return err
}

// writeEntries writes the entries of a map as they come, and leaves the last
// part of the text in the writer.
func (c *call) writeEntries(m *entries.Map, w *btftext.Writer, write func(*btftext.Writer, entries.Entry)) error {
	return m.Each(c.ctx, func(b entries.Batch) error {
		for _, e := range b {
			write(w, e)
		}
		if len(w.Buf) < flushAt {
			return nil
		}
		_, err := c.out.Write(w.Buf)
		w.Buf = w.Buf[:0]
		return err
	})
}

// dumpJSON prints entries as they are read. What fails after the first entry
// does not make the document less valid: it is told on standard error.
func (c *call) dumpJSON(maps []*entries.Map) error {
	w := btftext.Writer{Indent: c.indent()}
	if len(maps) == 1 {
		m := maps[0]
		printed := false
		w.BeginArray()
		err := c.writeEntries(m, &w, func(w *btftext.Writer, e entries.Entry) {
			printed = true
			m.JSON(w, e)
		})
		if err != nil && !printed {
			return fmt.Errorf("dump %s: %w", m, err)
		}
		w.EndArray()
		return c.endJSON(&w, err)
	}
	var errs []error
	w.BeginArray()
	for _, m := range maps {
		w.BeginObject()
		w.Name("id")
		w.Uint(uint64(m.Info.ID))
		w.Name("type")
		if name, err := inspect.MapType(m.Type()).MarshalJSON(); err == nil {
			w.JSON(name)
		}
		w.Name("name")
		w.String(m.Name())
		w.Name("flags")
		w.Uint(uint64(m.Info.Flags))
		w.Name("elements")
		w.BeginArray()
		err := c.writeEntries(m, &w, m.JSON)
		w.EndArray()
		if err != nil {
			w.Name("error")
			w.String(err.Error())
			errs = append(errs, fmt.Errorf("dump %s: %w", m, err))
		}
		w.EndObject()
	}
	w.EndArray()
	return c.endJSON(&w, errors.Join(errs...))
}

// endJSON writes the end of a document, and tells on standard error what failed.
func (c *call) endJSON(w *btftext.Writer, failed error) error {
	w.Buf = append(w.Buf, '\n')
	if _, err := c.out.Write(w.Buf); err != nil {
		return err
	}
	if failed == nil {
		return nil
	}
	c.complain(failed)
	return &errTold{failed}
}

// indent is what JSON is indented by.
func (c *call) indent() int {
	if c.opts.pretty || c.output == formatJSON {
		return 2
	}
	return 0
}

func (c *call) dumpYAML(maps []*entries.Map) error {
	for i, m := range maps {
		p, err := m.People()
		if err != nil {
			return err
		}
		if len(maps) > 1 {
			start := ""
			if i > 0 {
				start = "---\n"
			}
			fmt.Fprintf(c.out, "%s# map %d %s\n", start, m.Info.ID, m.Name())
		}
		none := true
		err = m.Each(c.ctx, func(b entries.Batch) error {
			list := make([]entries.PeopleEntry, len(b))
			for i, e := range b {
				if list[i], err = p.Entry(e); err != nil {
					return err
				}
			}
			text, err := doc.YAML(list)
			if err != nil {
				return err
			}
			none = false
			_, err = c.out.Write(text)
			return err
		})
		if err != nil {
			return fmt.Errorf("dump %s: %w", m, err)
		}
		if none {
			fmt.Fprintln(c.out, "[]")
		}
	}
	return nil
}

// errNoEntry is that there is no entry, which was printed.
var errNoEntry = &errTold{errors.New("no entry")}

func (c *call) mapLookup() error {
	m, free, err := c.openEntry()
	if err != nil {
		return err
	}
	defer free()
	key, err := c.onlyKey(m)
	if err != nil {
		return err
	}
	value := make([]byte, m.Size())
	err = bpfsys.Lookup(m, key, value)
	if errors.Is(err, unix.ENOENT) {
		if err := c.answer(nil, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "key:\n%s\n\nNot found\n", entries.AppendHex(nil, key))
			return err
		}); err != nil {
			return err
		}
		return errNoEntry
	}
	if errors.Is(err, entries.ErrNotSupported) {
		err = fmt.Errorf("a %s gives its values to programs only", inspect.MapType(m.Type()))
	}
	if err != nil {
		return fmt.Errorf("look up in %s: %w", m, err)
	}
	return c.printEntry(m, entries.Entry{Key: key, Value: value})
}

// onlyKey takes "key DATA" and nothing else; maps without keys have none.
func (c *call) onlyKey(m *entries.Map) ([]byte, error) {
	d, err := c.data(m, wantKey)
	if err != nil {
		return nil, err
	}
	return d.key, nil
}

func (c *call) printEntry(m *entries.Map, e entries.Entry) error {
	w := btftext.Writer{Indent: c.indent()}
	switch {
	case c.opts.asJSON(c.app):
		m.JSON(&w, e)
		w.Buf = append(w.Buf, '\n')
	case c.output == formatYAML:
		p, err := m.People()
		if err != nil {
			return err
		}
		entry, err := p.Entry(e)
		if err != nil {
			return err
		}
		if w.Buf, err = doc.YAML(entry); err != nil {
			return err
		}
	case m.Typed():
		w.Indent = 4
		m.TypedText(&w, e)
		w.Buf = append(w.Buf, '\n')
	default:
		w.Buf = m.AppendText(nil, e)
	}
	_, err := c.out.Write(w.Buf)
	return err
}

// nextKey is what getnext prints as JSON.
type nextKey struct {
	Key  []string `json:"key"`
	Next []string `json:"next_key"`
}

func (c *call) mapGetNext() error {
	m, free, err := c.openEntry()
	if err != nil {
		return err
	}
	defer free()
	var key []byte
	if c.peek() != "" {
		if key, err = c.onlyKey(m); err != nil {
			return err
		}
	}
	if m.Keyless() {
		return fmt.Errorf("next key of %s: a %s has no keys", m, typeText(inspect.MapType(m.Type())))
	}
	next := make([]byte, m.Info.KeySize)
	err = bpfsys.NextKey(m, key, next)
	switch {
	case errors.Is(err, unix.ENOENT) && key == nil:
		return fmt.Errorf("next key of %s: it is empty", m)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("next key of %s: there is none behind this one", m)
	case err != nil:
		return fmt.Errorf("next key of %s: %w", m, err)
	}
	return c.answer(nextKey{hexTexts(key), hexTexts(next)}, func(w io.Writer) error {
		b := []byte("key: None\n")
		if key != nil {
			b = append(entries.AppendHex([]byte("key:\n"), key), '\n')
		}
		b = append(entries.AppendHex(append(b, "next key:\n"...), next), '\n')
		_, err := w.Write(b)
		return err
	})
}

// hexTexts is bytes as bpftool's JSON has them.
func hexTexts(b []byte) []string {
	if b == nil {
		return nil
	}
	list := make([]string, len(b))
	for i, c := range b {
		list[i] = fmt.Sprintf("0x%02x", c)
	}
	return list
}

// mapTake prints what a queue or stack gives.
func (c *call) mapTake(take func(m bpfsys.Handle, key, value []byte) error) error {
	m, free, err := c.openEntry()
	if err != nil {
		return err
	}
	defer free()
	if err := c.end(); err != nil {
		return err
	}
	if m.Type() != ebpf.Queue && m.Type() != ebpf.Stack {
		return &hinted{fmt.Errorf("%s is of type %s, neither a queue nor a stack", m, typeText(inspect.MapType(m.Type()))), "l3af map lookup prints the entry of a key"}
	}
	value := make([]byte, m.Size())
	err = take(m, nil, value)
	if errors.Is(err, unix.ENOENT) {
		if !c.opts.asJSON(c.app) {
			return fmt.Errorf("%s is empty", m)
		}
		if err := c.answer(nil, nil); err != nil {
			return err
		}
		return errNoEntry
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", m, err)
	}
	return c.printEntry(m, entries.Entry{Value: value})
}

// watchOptions are those of map dump --watch.
type watchOptions struct {
	set   bool
	count uint
}

func (o *watchOptions) register(f *pflag.FlagSet) {
	f.BoolVar(&o.set, "watch", false, "look again and again, and print how fast numbers grow")
	f.UintVar(&o.count, "count", 0, "with --watch: how often to look; 0: until interrupted")
}

func (o *watchOptions) on() bool { return o.set }

// interval takes how often to look.
func (c *call) interval() (time.Duration, error) {
	if c.peek() == "" {
		return time.Second, nil
	}
	word, _ := c.next("interval")
	d, err := time.ParseDuration(word)
	if err != nil || d <= 0 {
		return 0, &usageError{fmt.Sprintf("interval %q: must be a time above 0", word), "such as 500ms or 2s"}
	}
	return d, c.end()
}
