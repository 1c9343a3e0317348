package kernel

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// corpusMember is a program of the composer's corpus.
func corpusMember(t *testing.T, name, entry string) chain.Member {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec("../chain/testdata/corpus/" + name + ".bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	return chain.Member{Name: name, Spec: spec, Entry: entry}
}

// Maps of maps and arrays of programs hold what the object says, before the
// first packet, and across changes of the chain; nothing of a replaced chain
// is left.
func TestMapsThatHold(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo") // where no packets come by themselves
	run := func(packet []byte) uint32 {
		t.Helper()
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(attached(t, k, target).ProgramID))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		verdict, _, err := p.Test(packet)
		if err != nil {
			t.Fatal(err)
		}
		return verdict
	}
	trail := func() uint64 {
		t.Helper()
		v, err := pinnedMap(t, k, target, "tailcalls", ".bss").LookupBytes(uint32(0))
		if err != nil {
			t.Fatal(err)
		}
		return binary.NativeEndian.Uint64(v)
	}
	number := func(name string) (n uint64) {
		t.Helper()
		if err := pinnedMap(t, k, target, "mapinmap", name).Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	members := []chain.Member{
		corpusMember(t, "mapinmap", "mapinmap"), corpusMember(t, "tailcalls", "tailcalls"), corpusMember(t, "kconfig", "kconfig"),
	}
	packet := make([]byte, 64)
	for round, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0}, {0, 2, 1}} {
		var now []chain.Member
		for _, i := range order {
			now = append(now, members[i])
		}
		c, err := chain.Compose(l3af.XDP, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.TestLoad(host.Load{Target: target, Chain: c}); err != nil {
			t.Fatal(err)
		}
		attach(t, k, host.Load{Target: target, Chain: c})
		if err := k.Tidy(target, c); err != nil {
			t.Fatal(err)
		}
		before := trail()
		if v := run(packet); v != 2 {
			t.Fatalf("verdict %d", v)
		}
		// Slot 0 holds the program first, which leads no further here.
		if got := trail(); got != (before+1)*3+1 {
			t.Errorf("round %d: trail %d after %d", round, got, before)
		}
		// The map one is used directly and is in slot 0 of outer.
		n := uint64(round + 1)
		if one, two := number("one"), number("two"); one != 17*n || two != 256*n {
			t.Errorf("round %d: counted %d, %d", round, one, two)
		}
		arrays := 0
		for _, path := range tree(t, k.root) {
			if strings.HasSuffix(path, "/programs/"+c.ID+"/tailcalls/programs") {
				arrays++
			} else if strings.HasSuffix(path, "tailcalls/programs") {
				t.Errorf("left behind: %s", path)
			}
		}
		if arrays != 1 {
			t.Errorf("%d arrays pinned", arrays)
		}
	}
}
