package main

import (
	"fmt"
	"os/exec"
	"testing"

	"l3af/internal/testenv"
	"l3af/internal/testenv/zoo"
)

// What one attaches to sockets the other detaches, ours and bpftool.
func TestAttachSockets(t *testing.T) {
	testenv.Clean(t)
	bpftool, z := testenv.Tool(t, "bpftool"), zoo.Open(t)
	info, err := z.Maps["zoo_sockmap"].Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	theirs := func(args []string) {
		t.Helper()
		if out, err := exec.Command(bpftool, args...).CombinedOutput(); err != nil {
			t.Errorf("bpftool %v: %v: %s", args, err, out)
		}
	}
	ours := func(args []string) {
		t.Helper()
		if got := l3afJSON(t, append(args, "-j")...); got != nil {
			t.Errorf("l3af %v: %v", args, got)
		}
	}
	for _, what := range [][]string{
		{"id", idOf(t, z.Programs["zoo_sk_skb"]), "stream_verdict", "id", fmt.Sprint(uint32(id))},
		{"id", idOf(t, z.Programs["zoo_dissector"]), "flow_dissector"},
	} {
		attach, detach := append([]string{"prog", "attach"}, what...), append([]string{"prog", "detach"}, what...)
		ours(attach)
		theirs(detach)
		theirs(attach)
		ours(detach)
		if exec.Command(bpftool, detach...).Run() == nil {
			t.Errorf("%v is still attached", what)
		}
	}
}
