package kernel

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// Where packets come in fragments, the error of a chain that does not know
// them names the programs to blame; a chain that does runs.
func TestFragments(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	k := open(t)
	for ns, name := range map[string]string{"": "v0", "far": "v1"} {
		testenv.In(t, ns, func() {
			l, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetMTU(l, 9000)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	target := hook(l3af.XDP, "", "v0")
	frags, whole := corpusMember(t, "frags", "frags"), corpusMember(t, "frags", "whole")
	whole.Name = "whole"
	compose := func(members ...chain.Member) *chain.Chain {
		c, err := chain.Compose(l3af.XDP, members)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const why = "too large for native XDP); packets that large come in fragments, which a chain gets only if all its programs " +
		`are made for them (SEC("xdp.frags")); not made for them: `
	refused := func(c *chain.Chain, names string) {
		t.Helper()
		_, err := k.Attach(t.Context(), host.Load{Target: target, Mode: l3af.Native, Chain: c})
		if err == nil || !strings.HasSuffix(err.Error(), why+names) || !strings.Contains(err.Error(), unix.ERANGE.Error()) {
			t.Errorf("got %v", err)
		}
	}
	refused(compose(frags, whole), "whole")
	refused(compose(whole), "all")
	attach(t, k, host.Load{Target: target, Mode: l3af.Native, Chain: compose(frags)})
	refused(compose(frags, whole), "whole") // the running chain is updated
	if err := k.Tidy(target, nil); err != nil {
		t.Fatal(err)
	}
	res := attach(t, k, host.Load{Target: target, Chain: compose(frags, whole)})
	if res.Mode != l3af.Generic || !strings.HasSuffix(res.Note, why+"whole") {
		t.Errorf("got %+v", res)
	}
}
