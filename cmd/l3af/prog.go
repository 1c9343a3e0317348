package main

import "slices"

func progObject() object {
	return object{
		name:  "prog",
		short: "See and handle the programs of the kernel",
		long: `Programs of anyone, ours or not, as bpftool has them: the same words, options
and JSON. The daemon is not needed.`,
		verbs: slices.Concat(progShowVerbs, progDumpVerbs, progPinVerbs, progLoadVerbs, progRunVerbs, progTraceVerbs, progProfileVerbs),
	}
}
