package main

import (
	"fmt"
	"io"
	"time"

	"l3af/internal/inspect"
)

var progShowVerbs = []verb{{
	name: "show", aliases: []string{"list"}, args: "[PROG]",
	short: "Show programs",
	long: `Show says of each program what the kernel knows of it. PROG is ` + progSelection.usage() + `;
a name or a tag may be that of many.`,
	example: `  l3af prog show
  l3af prog show name xdp_filter
  l3af prog show -j | jq '.[] | select(.type == "xdp") | .id'`,
	run: (*call).progShow,
}}

func (c *call) progShow() error {
	return show(c, progSelection, inspect.Programs, func(o *inspect.Program) *inspect.Chain { return o.Chain }, printProgram)
}

// printProgram prints a program as bpftool does, for scripts that read that.
func printProgram(w io.Writer, p *inspect.Program) {
	printProgramHead(w, p)
	if p.LoadedAt != nil {
		fmt.Fprintf(w, "\tloaded_at %s  uid %d\n", time.Unix(*p.LoadedAt, 0).Format("2006-01-02T15:04:05-0700"), *p.UID)
	}
	fmt.Fprintf(w, "\txlated %dB", p.BytesXlated)
	if p.JITed {
		fmt.Fprintf(w, "  jited %dB", p.BytesJITed)
	} else {
		fmt.Fprint(w, "  not jited")
	}
	if p.BytesMemlock > 0 {
		fmt.Fprintf(w, "  memlock %dB", p.BytesMemlock)
	}
	if p.Orphaned {
		fmt.Fprint(w, "  orphaned")
	}
	printIDs(w, "  map_ids ", p.MapIDs)
	printPins(w, p.Pinned)
	if p.BTFID > 0 {
		fmt.Fprintf(w, "\n\tbtf_id %d", p.BTFID)
	}
	printPids(w, p.Pids)
	printChainOf(w, p.Chain)
	fmt.Fprintln(w)
	for i, m := range p.Metadata {
		if i == 0 {
			fmt.Fprintln(w, "\tmetadata:")
		}
		fmt.Fprintf(w, "\t\t%s = %s\n", m.Name, m.Text)
	}
}

// printProgramHead prints the first line of it.
func printProgramHead(w io.Writer, p *inspect.Program) {
	fmt.Fprintf(w, "%d: %s  ", p.ID, typeText(p.Type))
	if p.Name != "" {
		fmt.Fprintf(w, "name %s  ", p.Name)
	}
	fmt.Fprintf(w, "tag %s", p.Tag)
	printDevice(w, p.Dev)
	if p.GPLCompatible {
		fmt.Fprint(w, "  gpl")
	}
	if p.RunTimeNS > 0 {
		fmt.Fprintf(w, " run_time_ns %d run_cnt %d", p.RunTimeNS, p.RunCount)
	}
	if p.RecursionMisses > 0 {
		fmt.Fprintf(w, " recursion_misses %d", p.RecursionMisses)
	}
	fmt.Fprintln(w)
}

// typeText is a type as bpftool prints it to people.
func typeText(t inspect.TypeName) string {
	if t.Known() {
		return string(t)
	}
	return "type " + string(t)
}

func printPins(w io.Writer, pins []string) {
	for _, p := range pins {
		fmt.Fprintf(w, "\n\tpinned %s", word(p))
	}
}

func printPids(w io.Writer, pids []inspect.Holder) {
	before := "\n\tpids "
	for _, p := range pids {
		fmt.Fprintf(w, "%s%s(%d)", before, word(p.Comm), p.PID)
		before = ", "
	}
}

func printIDs(w io.Writer, before string, ids []uint32) {
	for _, id := range ids {
		fmt.Fprintf(w, "%s%d", before, id)
		before = ","
	}
}

func printDevice(w io.Writer, d *inspect.Device) {
	switch {
	case d == nil:
	case d.Ifname != "":
		fmt.Fprintf(w, "  offloaded_to %s", d.Ifname)
	default:
		fmt.Fprintf(w, "  offloaded_to ifindex %d ns_dev %d ns_ino %d", d.Ifindex, d.NSDev, d.NSInode)
	}
}
