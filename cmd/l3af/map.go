package main

import (
	"slices"
	"strings"
)

// mapVerbs is the order of bpftool's table, in which abbreviations are tried.
const mapVerbs = "show dump update lookup getnext delete pin event_pipe peek push enqueue pop dequeue freeze create"

func mapObject() object {
	verbs := slices.Concat(mapShowVerbs, mapReadVerbs(), mapChangeVerbs, mapEventVerbs())
	order := strings.Fields(mapVerbs)
	slices.SortFunc(verbs, func(a, b verb) int { return slices.Index(order, a.name) - slices.Index(order, b.name) })
	return object{
		name:  "map",
		short: "See and handle the maps of the kernel",
		long: `Maps of anyone, ours or not, as bpftool has them: the same words, options and
JSON. The daemon is not needed.`,
		verbs: verbs,
	}
}
