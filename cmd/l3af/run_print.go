package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"l3af"
	"l3af/internal/doc"
	"l3af/internal/packet"
	"l3af/internal/pcap"
)

// runPrinter tells what became of packets, one after the other, and in the end
// of all of them.
type runPrinter interface {
	packet(number int, p pcap.Packet, ran l3af.PacketRun) error
	end(*l3af.ChainRun) error
}

func (a *app) runPrinter(c *captured) runPrinter {
	switch a.output {
	case formatJSON:
		return &runJSON{w: a.out}
	case formatYAML:
		return &runYAML{w: a.out}
	}
	return &runTable{w: a.out, c: c}
}

// runTable is for people. The columns are as wide as the first rows want it:
// those behind may stand out.
type runTable struct {
	w     io.Writer
	c     *captured
	rows  *table // the first ones; nil: they are printed
	width []int
}

const firstRows = 1000

func (t *runTable) packet(number int, p pcap.Packet, ran l3af.PacketRun) error {
	row := []string{fmt.Sprint(number), packet.Describe(p.Data)}
	if ran.Error != "" {
		row = append(row, "-", "-", ran.Error)
	} else {
		verdict := string(ran.Verdict)
		if ran.Verdict == l3af.Other {
			verdict = fmt.Sprintf("other (%d)", ran.Code)
		}
		changed := ""
		switch before := len(p.Data); {
		case ran.Data != nil && ran.Length != before:
			changed = fmt.Sprintf("%d -> %d bytes", before, ran.Length)
		case ran.Data != nil:
			changed = "yes"
		}
		row = append(row, verdict, ran.Program, changed)
	}
	switch {
	case t.width != nil:
		_, err := io.WriteString(t.w, line(row, t.width, map[int]bool{0: true}))
		return err
	case t.rows == nil:
		t.rows = runRows()
	}
	t.rows.add(row...)
	if len(t.rows.rows) <= firstRows {
		return nil
	}
	return t.head()
}

func runRows() *table { return newTable("", "PACKET", "VERDICT", "BY", "CHANGED").numbers(0) }

// head prints the first rows.
func (t *runTable) head() error {
	if t.rows == nil {
		t.rows = runRows()
	}
	t.width = t.rows.widths()
	return t.rows.print(t.w)
}

func (t *runTable) end(ran *l3af.ChainRun) error {
	if t.width == nil {
		if err := t.head(); err != nil {
			return err
		}
	}
	fmt.Fprintf(t.w, "\n%s  chain %s  %s\n\n", t.c.h, ran.ID, plural(t.c.count, "packet"))
	sum := newTable("PROGRAM", "RUNS", "VERDICTS", "DECIDED").numbers(1)
	kind := t.c.h.Kind
	for _, p := range ran.Programs {
		var decided []string
		for _, v := range append(kind.Verdicts(), l3af.Other) {
			if n := t.c.sums[outcome{v, p.Name}]; n > 0 {
				decided = append(decided, fmt.Sprintf("%s %d", v, n))
			}
		}
		sum.add(p.Name, fmt.Sprint(p.Packets), dash(verdicts(kind, p.Verdicts)), dash(strings.Join(decided, ", ")))
	}
	if err := sum.print(t.w); err != nil {
		return err
	}
	notes := slices.Clone(ran.Notes)
	if t.c.failed > 0 {
		notes = append(notes, plural(t.c.failed, "packet")+" could not be run")
	}
	if t.c.cut > 0 {
		notes = append(notes, plural(t.c.cut, "packet")+" ran shorter than on the wire: the capture was cut (tcpdump -s 0 keeps all)")
	}
	if len(notes) > 0 {
		fmt.Fprintln(t.w)
	}
	for _, n := range notes {
		fmt.Fprintln(t.w, "note: "+n)
	}
	return nil
}

// runJSON prints a ChainRun whose packets come first.
type runJSON struct {
	w     io.Writer
	begun bool
}

func (j *runJSON) packet(_ int, _ pcap.Packet, ran l3af.PacketRun) error {
	between := ",\n"
	if !j.begun {
		j.begun, between = true, "{\n  \"packets\": [\n"
	}
	var b bytes.Buffer
	b.WriteString(between + "    ")
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("    ", "  ")
	if err := e.Encode(ran); err != nil {
		return err
	}
	_, err := j.w.Write(bytes.TrimRight(b.Bytes(), "\n"))
	return err
}

func (j *runJSON) end(ran *l3af.ChainRun) error {
	if !j.begun {
		return printJSON(j.w, ran)
	}
	var b bytes.Buffer
	if err := printJSON(&b, withoutPackets{ChainRun: ran}); err != nil {
		return err
	}
	_, err := fmt.Fprintf(j.w, "\n  ],%s", strings.TrimPrefix(b.String(), "{"))
	return err
}

// withoutPackets hides a field of what it embeds.
type withoutPackets struct {
	*l3af.ChainRun
	Packets *struct{} `json:"packets,omitempty"`
}

// runYAML prints a ChainRun whose packets come first.
type runYAML struct {
	w     io.Writer
	begun bool
}

func (y *runYAML) packet(_ int, _ pcap.Packet, ran l3af.PacketRun) error {
	text, err := doc.YAML([]l3af.PacketRun{ran})
	if err != nil {
		return err
	}
	if !y.begun {
		y.begun = true
		text = append([]byte("packets:\n"), text...)
	}
	_, err = y.w.Write(text)
	return err
}

func (y *runYAML) end(ran *l3af.ChainRun) error {
	if !y.begun {
		return printYAML(y.w, ran)
	}
	return printYAML(y.w, withoutPackets{ChainRun: ran})
}
