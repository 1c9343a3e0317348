package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/btftext"
	"l3af/internal/entries"
	"l3af/internal/events"
	"l3af/internal/inspect"
	"l3af/internal/rawbtf"
)

func mapEventVerbs() []verb {
	var count uint
	return []verb{{
		name: "event_pipe", args: "MAP [cpu N index M] [type NAME [file FILE]]",
		short: "Print what programs send to user space",
		long: `Event_pipe prints the events of a perf event array, of all CPUs or of one, or of
a ring buffer, until it is interrupted. They are taken away from who reads the map
at the same time.

type is a struct of the BTF of FILE, or of the programs that use the map and their
other maps: events are printed by it; JSON has the bytes, too. With -j and -p events
are the elements of one array, which ends when the command does; with -o json each
is a document on a line of its own.`,
		example: `  l3af map event_pipe name events
  l3af map event_pipe name events type event -o json | jq .formatted
  l3af map event_pipe id 12 cpu 0 index 0
  l3af map event_pipe name ring type event file ./probe.bpf.o --count 10`,
		flags: func(f *pflag.FlagSet) {
			f.UintVar(&count, "count", 0, "how many events to print; 0: until interrupted")
		},
		run: func(c *call) error { return c.mapEvents(count) },
	}}
}

// eventOptions are the words of event_pipe.
type eventOptions struct {
	cpu, index int // -1: all
	typ, file  string
}

func (c *call) eventOptions() (o eventOptions, err error) {
	o.cpu, o.index = -1, -1
	for c.peek() != "" {
		var n uint64
		switch {
		case c.take("cpu"):
			n, err = c.number("cpu", 31)
			o.cpu = int(n)
		case c.take("index"):
			n, err = c.number("index", 31)
			o.index = int(n)
		case c.take("type"):
			o.typ, err = c.next("type")
		case c.take("file"):
			o.file, err = c.next("file")
		default:
			err = &usageError{fmt.Sprintf("unknown word %q", c.peek()), "there are cpu, index, type and file"}
		}
		if err != nil {
			return o, err
		}
	}
	switch {
	case (o.cpu < 0) != (o.index < 0):
		return o, &usageError{what: "cpu and index belong together", hint: "cpu N index M puts the buffer of CPU N at M"}
	case o.file != "" && o.typ == "":
		return o, &usageError{what: "file without type", hint: "type names a struct of the file"}
	}
	return o, nil
}

func (c *call) mapEvents(count uint) error {
	m, err := c.selectMap()
	if err != nil {
		return err
	}
	defer m.Close()
	o, err := c.eventOptions()
	if err != nil {
		return err
	}
	var info bpfsys.MapInfo
	if err := bpfsys.Info(m, &info); err != nil {
		return fmt.Errorf("map: %w", err)
	}
	what := fmt.Sprintf("map %d %s", info.ID, bpfsys.Text(info.Name[:]))
	var by *btftext.Formatter
	if o.typ != "" {
		if by, err = eventType(info.ID, &o); err != nil {
			return fmt.Errorf("events of %s: %w", what, err)
		}
	}
	r, err := openEvents(m, &info, &o)
	if err != nil {
		return fmt.Errorf("events of %s: %w", what, err)
	}
	defer r.Close()
	return c.printEvents(r, &eventPrinter{ring: m.Type() == ebpf.RingBuf, by: by}, count)
}

func openEvents(m *ebpf.Map, info *bpfsys.MapInfo, o *eventOptions) (events.Reader, error) {
	switch {
	case m.Type() == ebpf.RingBuf && o.cpu >= 0:
		return nil, errors.New("a ring buffer is that of all CPUs")
	case m.Type() == ebpf.RingBuf:
		return events.OpenRing(m)
	case m.Type() != ebpf.PerfEventArray:
		return nil, fmt.Errorf("it is of type %s, neither a perf_event_array nor a ringbuf", typeText(inspect.MapType(m.Type())))
	case o.cpu >= 0:
		return events.OpenPerfAt(m, o.cpu, o.index)
	}
	return events.OpenPerf(m, info.MaxEntries)
}

// eventType finds the type that is named in the file, else in the BTF of the
// programs that use the map.
func eventType(mapID uint32, o *eventOptions) (*btftext.Formatter, error) {
	if o.file != "" {
		spec, err := rawbtf.ReadFile(o.file, nil)
		if err != nil {
			return nil, err
		}
		if id, ok := spec.Find(o.typ); ok {
			return btftext.Compile(spec, id)
		}
		return nil, fmt.Errorf("there is no type %s in %s", o.typ, o.file)
	}
	ids, err := btfAround(mapID)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		spec, err := rawbtf.FromKernel(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if id, ok := spec.Find(o.typ); ok {
			return btftext.Compile(spec, id)
		}
	}
	return nil, &hinted{fmt.Errorf("there is no type %s in the BTF of the programs that use it", o.typ), "file FILE names an object that has it"}
}

// btfAround are the BTF objects of the programs that use a map, and of their
// other maps: some loaders give each only the types that it needs itself.
func btfAround(mapID uint32) ([]uint32, error) {
	programs, err := inspect.Programs(inspect.Selector{}, inspect.Options{})
	if err != nil {
		return nil, err
	}
	var ids []uint32
	add := func(id uint32) {
		if id != 0 && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, p := range programs {
		if !slices.Contains(p.MapIDs, mapID) {
			continue
		}
		add(p.BTFID)
		for _, id := range p.MapIDs {
			maps, err := inspect.Maps(inspect.Selector{By: inspect.ID, ID: id}, inspect.Options{})
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			for _, m := range maps {
				add(m.BTFID)
			}
		}
	}
	return ids, nil
}

var errEnough = errors.New("enough")

func (c *call) printEvents(r events.Reader, p *eventPrinter, count uint) error {
	inJSON := c.opts.asJSON(c.app)
	array := c.opts.json || c.opts.pretty
	if array {
		p.w.Indent = c.indent()
		p.w.BeginArray()
	}
	n := uint(0)
	err := r.Read(c.ctx, func(e *events.Event) error {
		switch {
		case inJSON && !array:
			p.w.Reset()
			p.json(e)
			p.w.Buf = append(p.w.Buf, '\n')
		case inJSON:
			p.json(e)
		default:
			p.text(e)
		}
		if _, err := c.out.Write(p.w.Buf); err != nil {
			return err
		}
		p.w.Buf = p.w.Buf[:0]
		if n++; n == count {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if array {
		p.w.EndArray()
		return c.endJSON(&p.w, err)
	}
	return err
}

// eventPrinter writes events.
type eventPrinter struct {
	w    btftext.Writer
	ring bool
	by   *btftext.Formatter // nil: in hex only
}

// typed says whether an event is long enough for the type.
func (p *eventPrinter) typed(e *events.Event) bool { return p.by != nil && len(e.Data) >= p.by.Size() }

func (p *eventPrinter) json(e *events.Event) {
	w := &p.w
	num := func(name string, n uint64) {
		w.Name(name)
		w.Uint(n)
	}
	w.BeginObject()
	if !p.ring {
		num("type", uint64(e.Type))
		num("cpu", uint64(e.CPU))
		num("index", uint64(e.Index))
	}
	switch e.Type {
	case unix.PERF_RECORD_SAMPLE:
		if !p.ring {
			num("timestamp", e.Time)
		}
		w.Name("data") // numbers, unlike the bytes of entries
		w.BeginArray()
		for _, b := range e.Data {
			w.Uint(uint64(b))
		}
		w.EndArray()
		if p.typed(e) {
			w.Name("formatted")
			p.by.Value(w, e.Data, false)
		}
	case unix.PERF_RECORD_LOST:
		w.Name("lost")
		w.BeginObject()
		num("id", e.LostID)
		num("lost", e.Lost)
		w.EndObject()
	}
	w.EndObject()
}

func (p *eventPrinter) text(e *events.Event) {
	b := p.w.Buf
	switch {
	case e.Type == unix.PERF_RECORD_LOST:
		b = fmt.Appendf(b, "lost %d events\n", e.Lost)
	case e.Type != unix.PERF_RECORD_SAMPLE:
		b = fmt.Appendf(b, "unknown event type=%d\n", e.Type)
	default:
		if !p.ring {
			s := time.Second
			b = fmt.Appendf(b, "== @%d.%09d CPU: %d index: %d =====\n", e.Time/uint64(s), e.Time%uint64(s), e.CPU, e.Index)
		}
		if p.typed(e) {
			p.w.Buf = b
			p.w.Reset()
			p.by.Value(&p.w, e.Data, true)
			b = append(p.w.Buf, '\n')
			break
		}
		b = append(entries.AppendHex(b, e.Data), '\n')
		if p.ring {
			b = append(b, '\n')
		}
	}
	p.w.Buf = b
}
