package bind

import (
	"slices"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/chain"
)

// With pinPath a program has the maps of its object that only other processes
// use as well, and their contents may be given.
func TestUnusedMapsAreFound(t *testing.T) {
	for _, r := range []struct {
		kind    l3af.HookKind
		pinPath string
		want    string
	}{
		{l3af.XDP, "", ""},
		{l3af.XDP, "/sys/fs/bpf/eth0", "not_used not_used_named"},
		{l3af.TCIngress, "/sys/fs/bpf/tc", "not_used_named"},
	} {
		p := l3af.Program{Name: "one", Settings: l3af.Settings{PinPath: r.pinPath, Maps: map[string][]l3af.MapEntry{}}}
		for _, name := range strings.Fields(r.want) {
			p.Maps[name] = []l3af.MapEntry{}
		}
		b, mistakes := Program(bare(t, "all.bpf.o"), r.kind, p, at)
		if mistakes != nil {
			t.Fatal(lines(mistakes))
		}
		made, err := chain.Compose(r.kind, []chain.Member{b.Member})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range made.Maps {
			if strings.HasPrefix(m.Name, "not_used") {
				got = append(got, m.Name)
			}
		}
		if slices.Sort(got); strings.Join(got, " ") != r.want {
			t.Errorf("%s with pinPath %q has %q, want %s", r.kind, r.pinPath, got, r.want)
		}
	}
}
