package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"l3af/internal/inspect"
)

var btfSelection = selection{"btf", "BTF object", []inspect.By{inspect.ID}}

func btfObject() object {
	return object{
		name:  "btf",
		short: "See the types of programs, maps and the kernel",
		long: `BTF is what programs, maps and the kernel say of their types. The words,
options and JSON are those of bpftool. The daemon is not needed.`,
		verbs: slices.Concat(btfShowVerbs, btfDumpVerbs()),
	}
}

var btfShowVerbs = []verb{{
	name: "show", aliases: []string{"list"}, args: "[id ID]",
	short: "Show BTF objects",
	long:  `Show lists the BTF objects of the kernel, and which programs and maps have them.`,
	example: `  l3af btf show
  l3af btf show -j | jq 'map(select(.kernel | not) | .size) | add'`,
	run: (*call).btfShow,
}}

func (c *call) btfShow() error {
	s, err := c.lastSelector(btfSelection)
	if err != nil {
		return err
	}
	opts, err := c.inspect()
	if err != nil {
		return err
	}
	list, err := inspect.BTFs(s, opts)
	if err != nil {
		return btfSelection.explain(s, err)
	}
	return answerList(c, list, s.By != inspect.All, func(w io.Writer) error {
		var b strings.Builder
		for i := range list {
			printBTF(&b, &list[i])
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}

// printBTF prints a BTF object as bpftool does, for scripts that read that.
func printBTF(w io.Writer, b *inspect.BTF) {
	name := "name <anon>"
	switch {
	case b.Kernel:
		name = "name [" + b.Name + "]"
	case b.Name != "":
		name = "name " + b.Name
	}
	fmt.Fprintf(w, "%d: %s  size %dB", b.ID, name, b.Size)
	printIDs(w, "  prog_ids ", b.ProgIDs)
	printIDs(w, "  map_ids ", b.MapIDs)
	printPids(w, b.Pids)
	fmt.Fprintln(w)
}
