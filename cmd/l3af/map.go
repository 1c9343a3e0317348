package main

import "slices"

func mapObject() object {
	return object{
		name:  "map",
		short: "See and handle the maps of the kernel",
		long: `Maps of anyone, ours or not, as bpftool has them: the same words, options and
JSON. The daemon is not needed.`,
		verbs: slices.Concat(mapShowVerbs, mapReadVerbs(), mapChangeVerbs, mapEventVerbs()),
	}
}
