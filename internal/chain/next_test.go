package chain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/testenv"
)

// Programs for L3AF do in a chain what they do when L3AF chains them: each
// calls the next by its own array.
func TestNext(t *testing.T) {
	testenv.Clean(t)
	spec := object(t, "corpus/l3af")
	middle := Member{Name: "middle", Spec: object(t, "corpus/subprograms"), Entry: "subprograms"}
	for n := 1; n <= 4; n++ {
		var members []Member
		for i := range n {
			members = append(members, Member{Name: fmt.Sprint("n", i), Spec: spec, Entry: "l3af_xdp", Next: "next_program"})
		}
		members = append(members, middle)
		c := compose(t, l3af.XDP, members...)
		for _, p := range c.Programs {
			if p.Linkage != Inlined {
				t.Errorf("%s is %s: %s", p.Name, p.Linkage, p.Why)
			}
		}
		for _, m := range c.Maps {
			if m.Spec.Type == ebpf.ProgramArray {
				t.Errorf("map %s is still there", m.Ref)
			}
		}
		fused := load(t, c)
		// L3AF fills the array of each with the next.
		var single []*loaded
		for _, m := range members {
			l, err := whole(m)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			single = append(single, l)
		}
		for i := range n {
			if err := single[i].maps[ref(members[i].Name, "next_program")].Put(uint32(0), single[i+1].Program); err != nil {
				t.Fatal(err)
			}
		}
		r := rand.New(rand.NewPCG(1, uint64(n)))
		for range 200 {
			in := randomPacket(r, l3af.XDP)
			got, err := in.through(fused.Program, l3af.XDP)
			if err != nil {
				t.Fatal(err)
			}
			want, err := in.through(single[0].Program, l3af.XDP)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != want.String() {
				t.Fatalf("%d programs\nin   %v\ngot  %v\nwant %v", n, in, got, want)
			}
		}
		for i, l := range single {
			for _, name := range []string{"packets", ".bss"} {
				symbol := ref(members[i].Name, name)
				if l.maps[symbol] == nil {
					continue
				}
				got, want := contents(t, fused.maps[symbol]), contents(t, l.maps[symbol])
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("map %s: got %v, want %v", symbol, got, want)
				}
			}
		}
	}
}

// What is not written as L3AF's programs are is refused with the reason.
func TestNextRefused(t *testing.T) {
	spec := object(t, "corpus/l3af")
	next := func(entry int32, verdict int32) *ebpf.CollectionSpec {
		m := assembled("x", ebpf.XDP,
			asm.LoadMapPtr(asm.R2, 0).WithReference("next_program"),
			asm.Mov.Imm(asm.R3, entry),
			asm.FnTailCall.Call(),
			asm.Mov.Imm(asm.R0, verdict),
			asm.Return())
		m.Spec.Maps = spec.Maps
		return m.Spec
	}
	for _, c := range []struct {
		want string
		m    Member
	}{
		{`no map "gone"`, Member{Spec: spec, Entry: "l3af_xdp", Next: "gone"}},
		{"map packets is no array of one program", Member{Spec: spec, Entry: "l3af_xdp", Next: "packets"}},
		{"map programs is no array of one program", Member{Spec: object(t, "corpus/tailcalls"), Entry: "tailcalls", Next: "programs"}},
		{"l3af_last does more behind its call of the next program", Member{Spec: spec, Entry: "l3af_last", Next: "next_program"}},
		{"returns drop behind its call of the next program", Member{Spec: next(0, 1), Entry: "x", Next: "next_program"}},
		{"returns pass behind its call", Member{Spec: spec, Entry: "l3af_xdp", Next: "next_program", Proceed: []l3af.Verdict{"tx"}}},
		{"uses map next_program for more", Member{Spec: next(1, 2), Entry: "x", Next: "next_program"}},
	} {
		c.m.Name = "m"
		if _, err := Compose(l3af.XDP, []Member{c.m}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	// Without Next the call stays, and leads nowhere.
	c := compose(t, l3af.XDP, Member{Name: "m", Spec: spec, Entry: "l3af_xdp"})
	if !slices.ContainsFunc(c.Maps, func(m Map) bool { return m.Name == "next_program" }) {
		t.Error("the map is gone")
	}
}

// Compilers let other ways lead behind the call as well, where the verdict is
// returned by all of them.
func TestNextJoined(t *testing.T) {
	testenv.Clean(t)
	m := assembled("x", ebpf.XDP,
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm32(asm.R7, 1), // XDP_DROP
		asm.LoadMem(asm.R2, asm.R1, 12, asm.Word),
		asm.JEq.Imm(asm.R2, 0x7fffffff, "end"),
		asm.Mov.Imm32(asm.R7, 2), // XDP_PASS
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, 0).WithReference("next_program"),
		asm.Mov.Imm32(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Reg32(asm.R0, asm.R7).WithSymbol("end"),
		asm.Return())
	m.Spec.Maps = object(t, "corpus/l3af").Maps
	m.Name, m.Next = "m", "next_program"
	other := m
	other.Name = "other"
	c := compose(t, l3af.XDP, m, other)
	for _, p := range c.Programs {
		if p.Linkage != Inlined {
			t.Errorf("%s is %s: %s", p.Name, p.Linkage, p.Why)
		}
	}
	got, err := randomPacket(rand.New(rand.NewPCG(1, 1)), l3af.XDP).through(load(t, c).Program, l3af.XDP)
	if err != nil || got.verdict != 2 {
		t.Errorf("got %v, %v, want pass", got, err)
	}
}
