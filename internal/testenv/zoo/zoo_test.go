package zoo

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"

	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// Everything loads, attaches, and goes again.
func TestZoo(t *testing.T) {
	testenv.Clean(t)
	z := Open(t)
	z.Attach(t)
	types := map[ebpf.MapType]bool{}
	for _, m := range z.Maps {
		types[m.Type()] = true
	}
	if len(z.Programs) < 15 || len(z.Links) < 15 || len(types) < 20 {
		t.Errorf("%d programs, %d links, %d types of maps", len(z.Programs), len(z.Links), len(types))
	}
	if info, err := z.Programs[LongName].Info(); err != nil || info.Name != LongName {
		t.Errorf("got %v, %v, want %s", info, err, LongName)
	}
}
