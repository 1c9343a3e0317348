package agent

import (
	"strings"
	"testing"

	"l3af"
)

// A limit far below what this program itself has mapped holds for the command
// alone.
func TestLowMemory(t *testing.T) {
	r := newRig(t)
	p := r.pack(map[string]string{"daemon": `ulimit -v >> $OUT/limits; exec sleep 1000`})
	for i := range 20 {
		spec := r.spec(p, l3af.Agent{Start: []string{"daemon", strings.Repeat("x", i)}, Daemon: true, Memory: 16 << 20})
		if err := r.want(spec); err != nil {
			t.Fatal(err)
		}
		r.eventually("it runs", func() bool { return strings.Count(r.said("limits"), "16384") == i+1 })
		if s := r.s.Status(spec.Key); s.State != l3af.Running || s.Restarts != 0 {
			t.Fatalf("status %+v", s)
		}
	}
}
