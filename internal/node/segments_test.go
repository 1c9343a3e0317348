package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"l3af"
	"l3af/internal/node"
	"l3af/internal/testenv"
)

// Status tells how the programs of a chain are linked, and in which of its
// segments they are; a restart knows no less.
func TestStatusOfSegments(t *testing.T) {
	m := onReal(t)
	testenv.Veth(t, testenv.End{Name: "p0"}, testenv.End{Netns: "blue", Name: "p1"})
	dir := t.TempDir()
	open := func() *node.Node {
		n, err := node.Open(node.Options{Dir: dir, Kernel: m.kernel, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := open()
	for _, count := range []int{2, 64, 3} {
		c := l3af.Chain{Interface: "p0", Hook: l3af.XDP}
		for i := range count {
			c.Programs = append(c.Programs, l3af.Program{Name: fmt.Sprint("s", i), Package: "builtin:stats"})
		}
		s := &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{c}}
		if a, err := n.Apply(context.Background(), s, "test", -1); err != nil || len(a.Failed) > 0 {
			t.Fatalf("apply: %+v, %v", a, err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		n = open()
		status, err := n.Status(context.Background())
		if err != nil || len(status.Chains) != 1 {
			t.Fatalf("%+v, %v", status, err)
		}
		got := status.Chains[0]
		last := got.Programs[count-1]
		if got.State != l3af.Running || last.Linkage != "inlined" || last.Why != "" {
			t.Errorf("%d programs: %s %s, %+v", count, got.State, got.Error, last)
		}
		if several := count == 64; several != (got.Segments > 1) || several && last.Segment != got.Segments || !several && last.Segment != 0 {
			t.Errorf("%d programs: %d segments, the last program is in segment %d", count, got.Segments, last.Segment)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}
