package main

import "slices"

func linkObject() object {
	return object{
		name:  "link",
		short: "See and handle the links of the kernel",
		long: `Links hold programs where they run. Those of anyone, ours or not, as bpftool has
them: the same words, options and JSON. The daemon is not needed.`,
		verbs: slices.Concat(linkShowVerbs, linkChangeVerbs),
	}
}
