package bind

import (
	"slices"
	"testing"

	"l3af"
	"l3af/internal/chain"
)

// With pinPath a program has all maps of its object, those that only other
// processes use as well, and their contents may be given.
func TestAllMapsAreFound(t *testing.T) {
	for _, r := range []struct {
		pinPath string
		has     bool
	}{{"", false}, {"/sys/fs/bpf/eth0", true}} {
		p := l3af.Program{Name: "one", Settings: l3af.Settings{PinPath: r.pinPath}}
		if r.has {
			decode(t, `{"maps": {"not_used": [{"key": 1, "value": 2}]}}`, &p)
		}
		b, mistakes := Program(bare(t, "all.bpf.o"), l3af.XDP, p, at)
		if mistakes != nil {
			t.Fatal(lines(mistakes))
		}
		made, err := chain.Compose(l3af.XDP, []chain.Member{b.Member})
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(made.Maps, func(m chain.Map) bool { return m.Name == "not_used" }); got != r.has {
			t.Errorf("pinPath %q: not_used is there: %v", r.pinPath, got)
		}
	}
}
