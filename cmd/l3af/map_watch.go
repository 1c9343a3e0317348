package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"l3af/internal/btftext"
	"l3af/internal/doc"
	"l3af/internal/entries"
)

const (
	watchedRows    = 40      // that a look prints for people
	watchedEntries = 500_000 // of which numbers are kept
)

// watched is one number of an entry.
type watched struct {
	Map   uint32      `json:"map_id"`
	Key   any         `json:"key,omitempty"`
	Field string      `json:"field,omitempty"`
	Value json.Number `json:"value"`
	Rate  *float64    `json:"rate"` // per second; null when it was not there at the last look
}

// look is what one look found, as JSON.
type look struct {
	Seconds float64   `json:"seconds"` // since the last look; 0: this is the first
	Numbers []watched `json:"numbers"`
}

// mapWatch looks at maps until it is interrupted.
func (c *call) mapWatch(list []*entries.Map, o *watchOptions) error {
	every, err := c.interval()
	if err != nil {
		return err
	}
	people := make([]*entries.People, len(list))
	for i, m := range list {
		if !m.HasNumbers() {
			return fmt.Errorf("watch %s: there are no numbers in its values: it has no BTF, or nothing that can be added", m)
		}
		if people[i], err = m.People(); err != nil {
			return err
		}
	}
	before, at := map[string][]btftext.Number{}, time.Time{}
	for n := uint(1); ; n++ {
		now := time.Now()
		l := look{Numbers: []watched{}}
		if !at.IsZero() {
			l.Seconds = now.Sub(at).Seconds()
		}
		numbers := map[string][]btftext.Number{}
		for i, m := range list {
			if err := l.read(c, m, people[i], before, numbers); err != nil {
				return fmt.Errorf("watch %s: %w", m, err)
			}
		}
		before, at = numbers, now
		if err := c.printLook(&l, n, len(list) > 1); err != nil {
			return err
		}
		if n == o.count {
			return nil
		}
		select {
		case <-c.ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

func (l *look) read(c *call, m *entries.Map, p *entries.People, before, numbers map[string][]btftext.Number) error {
	return m.Each(c.ctx, func(b entries.Batch) error {
		for _, e := range b {
			if e.Err != nil {
				continue
			}
			id := fmt.Sprintf("%d %s", m.Info.ID, e.Key)
			if len(numbers) >= watchedEntries {
				return fmt.Errorf("more than %d entries", watchedEntries)
			}
			now := m.Numbers(e)
			numbers[id] = now
			key, err := p.KeyOf(e)
			if err != nil {
				return err
			}
			was, known := before[id]
			for i, n := range now {
				w := watched{Map: m.Info.ID, Key: key, Field: strings.TrimPrefix(n.Path, "."), Value: json.Number(n.String())}
				if known && l.Seconds > 0 {
					rate := n.Since(was[i]) / l.Seconds
					w.Rate = &rate
				}
				l.Numbers = append(l.Numbers, w)
			}
		}
		return nil
	})
}

func (c *call) printLook(l *look, n uint, several bool) error {
	switch {
	case c.opts.asJSON(c.app):
		return printJSONAs(c.out, l, false) // one line for each look
	case c.output == formatYAML:
		text, err := doc.YAML(l)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "---\n%s", text)
		return err
	}
	sort.SliceStable(l.Numbers, func(i, j int) bool { return l.Numbers[i].rate() > l.Numbers[j].rate() })
	switch {
	case terminal(c.out):
		fmt.Fprint(c.out, "\x1b[H\x1b[2J")
	case n > 1:
		fmt.Fprintln(c.out)
	}
	t := newTable("KEY", "FIELD", "VALUE", "PER SECOND").numbers(2, 3)
	if several {
		t = newTable("KEY", "FIELD", "VALUE", "PER SECOND", "MAP").numbers(2, 3)
	}
	for _, w := range l.Numbers[:min(len(l.Numbers), watchedRows)] {
		rate := "-"
		if w.Rate != nil {
			rate = perSecond(*w.Rate)
		}
		row := []string{keyText(w.Key), dash(w.Field), w.Value.String(), rate}
		if several {
			row = append(row, fmt.Sprint(w.Map))
		}
		t.add(row...)
	}
	if err := t.print(c.out); err != nil {
		return err
	}
	if more := len(l.Numbers) - watchedRows; more > 0 {
		fmt.Fprintf(c.out, "and %s that grow less\n", plural(more, "number"))
	}
	return nil
}

func (w *watched) rate() float64 {
	if w.Rate == nil {
		return 0
	}
	return *w.Rate
}

// keyText is a key on one line, as documents have it.
func keyText(key any) string {
	switch k := key.(type) {
	case nil:
		return "-"
	case map[string]any:
		parts := make([]string, 0, len(k))
		for _, name := range slices.Sorted(maps.Keys(k)) {
			parts = append(parts, name+": "+keyText(k[name]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		parts := make([]string, len(k))
		for i, e := range k {
			parts[i] = keyText(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	text, err := doc.YAML(key)
	if err != nil {
		return fmt.Sprint(key)
	}
	return strings.TrimSpace(string(text))
}
