package kernel

import (
	"errors"
	"os"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/disasm"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// What a chain costs grows with its programs, and finding out leaves nothing.
func TestCost(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	var costs [2]host.Cost
	for i, verdicts := range [][]int32{{xdpPass}, {xdpPass, xdpPass}} {
		var err error
		if costs[i], err = k.Cost(host.Load{Target: target, Chain: gate(t, l3af.XDP, verdicts...)}); err != nil {
			t.Fatal(err)
		}
	}
	one, two := costs[0], costs[1]
	if one.Instructions < 20 || one.Verified < 20 || one.LoadTime <= 0 || one.Jited == 0 || len(one.Stack) == 0 || one.Stack[0] < 8 {
		t.Errorf("one program: %+v", one)
	}
	if two.Instructions <= one.Instructions || two.Verified <= one.Verified || two.Jited <= one.Jited || two.Maps <= one.Maps {
		t.Errorf("one program: %+v, two: %+v", one, two)
	}
	if left := tree(t, k.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestJited(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.TCIngress, "", "lo")
	if _, err := k.Jited(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no chain: %v", err)
	}
	c := gate(t, l3af.TCIngress, tcUnspec)
	attach(t, k, host.Load{Target: target, Chain: c})
	list, err := k.Jited(target)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 || list[0].Size == 0 || list[0].Name != "l3af_"+c.ID+"__g0" || list[0].Code != nil && len(list[0].Code) != list[0].Size {
		t.Errorf("machine code: %+v", list)
	}
	if disasm.ThisMachine() == nil {
		return
	}
	owned := 0
	for i, ins := range list[0].Instructions {
		if i == 0 && ins.Offset != 0 || i > 0 && ins.Offset <= list[0].Instructions[i-1].Offset || ins.Text == "" || strings.HasPrefix(ins.Text, disasm.Bad) {
			t.Errorf("instruction %d: %+v", i, ins)
		}
		if ins.Program == "g0" {
			owned++
		}
	}
	if owned == 0 || owned == len(list[0].Instructions) {
		t.Errorf("%d of %d instructions are those of g0", owned, len(list[0].Instructions))
	}
}
