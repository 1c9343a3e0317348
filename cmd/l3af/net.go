package main

import "slices"

func netObject() object {
	return object{
		name:  "net",
		short: "See and handle what is attached to the network",
		long: `Programs at XDP, TC, netkit, netfilter, and in network namespaces as a whole:
anyone's, ours or not, as bpftool has them: the same words, options and JSON. The
daemon is not needed.`,
		verbs: slices.Concat(netShowVerbs(), netAttachVerbs()),
	}
}
