package main

import (
	"fmt"
	"io"
	"strings"

	"l3af/internal/inspect"
)

var mapShowVerbs = []verb{{
	name: "show", aliases: []string{"list"}, args: "[MAP]",
	short: "Show maps",
	long: `Show says of each map what the kernel knows of it. MAP is ` + mapSelection.usage() + `;
a name may be that of many.`,
	example: `  l3af map show
  l3af map show pinned /sys/fs/bpf/flows
  l3af map show -j | jq 'map(.bytes_memlock) | add'`,
	run: (*call).mapShow,
}}

func (c *call) mapShow() error {
	return show(c, mapSelection, inspect.Maps, func(o *inspect.Map) *inspect.Chain { return o.Chain }, printMap)
}

// printMap prints a map as bpftool does, for scripts that read that.
func printMap(w io.Writer, m *inspect.Map) {
	fmt.Fprintf(w, "%d: %s  ", m.ID, typeText(m.Type))
	if m.Name != "" {
		fmt.Fprintf(w, "name %s  ", m.Name)
	}
	fmt.Fprintf(w, "flags %#x", m.Flags)
	printDevice(w, m.Dev)
	fmt.Fprintf(w, "\n\tkey %dB  value %dB  max_entries %d", m.BytesKey, m.BytesValue, m.MaxEntries)
	if m.BytesMemlock != nil {
		fmt.Fprintf(w, "  memlock %dB", *m.BytesMemlock)
	}
	if m.OwnerProgType != nil || m.OwnerJITed != nil {
		fmt.Fprint(w, "\n\t")
	}
	if m.OwnerProgType != nil {
		fmt.Fprintf(w, "owner_prog_type %s  ", *m.OwnerProgType)
	}
	if m.OwnerJITed != nil {
		not := " not"
		if *m.OwnerJITed {
			not = ""
		}
		fmt.Fprintf(w, "owner%s jited", not)
	}
	printPins(w, m.Pinned)
	var more []string
	if m.BTFID > 0 {
		more = append(more, fmt.Sprintf("btf_id %d", m.BTFID))
	}
	if m.Frozen > 0 {
		more = append(more, "frozen")
	}
	if len(more) > 0 {
		fmt.Fprint(w, "\n\t"+strings.Join(more, "  "))
	}
	printPids(w, m.Pids)
	printChainOf(w, m.Chain)
	fmt.Fprintln(w)
}
