package chain

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/testenv"
)

// A program is called where inlining it is not possible, with the reason, and
// does what it does alone, at any place of a chain.
func TestCalled(t *testing.T) {
	testenv.Clean(t)
	toEnd := []asm.Instruction{asm.Mov.Imm(asm.R0, 2), asm.Mov.Imm(asm.R1, 1), asm.JEq.Imm(asm.R0, 1, "end")}
	for range 16000 {
		toEnd = append(toEnd, asm.Mov.Reg(asm.R2, asm.R10), asm.Mov.Imm(asm.R2, 0))
	}
	toEnd = append(toEnd, asm.Return().WithSymbol("end"))
	pass := []asm.Instruction{asm.Mov.Imm(asm.R0, 2), asm.Return()}
	for want, ins := range map[string][]asm.Instruction{
		"uses 512 bytes of stack in its entry function; inlining leaves it 504": append([]asm.Instruction{asm.StoreImm(asm.R10, -512, 0, asm.Word)}, pass...),
		"calculates with the frame pointer (SubReg":                             append([]asm.Instruction{asm.Mov.Reg(asm.R1, asm.R10), asm.Sub.Reg(asm.R1, asm.R10)}, pass...),
		"stores the frame pointer":                                              append([]asm.Instruction{asm.StoreMem(asm.R10, -8, asm.R10, asm.DWord)}, pass...),
		"compares the frame pointer":                                            append([]asm.Instruction{asm.Mov.Reg(asm.R2, asm.R10), asm.JEq.Reg(asm.R2, asm.R10, "x"), asm.Mov.Imm(asm.R0, 2).WithSymbol("x")}, pass[1:]...),
		"has a jump over 48000 instructions; 16 bits reach":                     toEnd,
	} {
		x := assembled("x", ebpf.XDP, ins...)
		for at := range 3 {
			members := []Member{returns("a", 2), returns("b", 2)}
			members = append(members[:at], append([]Member{x}, members[at:]...)...)
			c := compose(t, l3af.XDP, members...)
			if l := c.Programs[at]; l.Linkage != Called || !strings.Contains(l.Why, want) {
				t.Errorf("%s is %s: %q, want %q", l.Name, l.Linkage, l.Why, want)
			}
			l := load(t, c)
			if got, _, err := l.Test(make([]byte, 64)); err != nil || got != 2 {
				t.Errorf("%s at %d: got %d, %v", want, at, got, err)
			}
			if n := counts(t, l); n[2].Verdicts[l3af.Pass] != 1 {
				t.Errorf("%s at %d: %v", want, at, n)
			}
		}
	}
}

// A load past the packet's end returns 0 from the program, not from the chain.
func TestAbsoluteLoads(t *testing.T) {
	testenv.Clean(t)
	absolute := Member{Name: "x", Spec: object(t, "tc"), Entry: "absolute", Proceed: []l3af.Verdict{l3af.OK, l3af.Unspec}}
	end := assembled("end", ebpf.SchedCLS, asm.Mov.Imm(asm.R0, 7), asm.Return())
	c := compose(t, l3af.TCIngress, absolute, end)
	if got := linkages(c); got != "1c 1" {
		t.Errorf("linked %s", got)
	}
	l := load(t, c)
	alone, err := alone(absolute)
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	for _, size := range []int{14, 15, 20, 64, 600} {
		in := make([]byte, size)
		for i := range in {
			in[i] = byte(i)
		}
		want, _, err := alone.Test(in)
		if err != nil {
			t.Fatal(err)
		}
		if v := l3af.TCIngress.Verdict(int32(want)); v == l3af.OK || v == l3af.Unspec {
			want = 7
		}
		if got, _, err := l.Test(in); err != nil || got != want {
			t.Errorf("%d bytes: got %d, %v; want %d", size, int32(got), err, int32(want))
		}
	}
}

// The tail calls of a program are its own affair: what they lead to returns to
// the chain, in whatever way the programs around it are linked.
func TestTailCallsReturn(t *testing.T) {
	testenv.Clean(t)
	for _, frame := range []int16{8, 400} {
		tailer := assembled("tailer", ebpf.XDP, asm.LoadMapPtr(asm.R2, 0).WithReference("progs"), asm.Mov.Imm(asm.R3, 0),
			asm.FnTailCall.Call(), asm.Mov.Imm(asm.R0, 1), asm.Return())
		tailer.Spec.Maps = map[string]*ebpf.MapSpec{"progs": {Name: "progs", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1}}
		tailer.Proceed = []l3af.Verdict{l3af.Redirect, l3af.TX}
		around := func(name string) Member {
			return assembled(name, ebpf.XDP, asm.StoreImm(asm.R10, -frame, 0, asm.Word), asm.Mov.Imm(asm.R0, 2), asm.Return())
		}
		l := load(t, compose(t, l3af.XDP, around("a"), tailer, around("b")))
		if got, _, err := l.Test(make([]byte, 64)); err != nil || got != 1 {
			t.Errorf("no target: got %d, %v", got, err)
		}
		for verdict, want := range map[int32]uint32{0: 0, 1: 1, 2: 2, 3: 2, 4: 2} {
			target, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "GPL",
				Instructions: asm.Instructions{asm.StoreImm(asm.R10, -512, 0, asm.Word), asm.Mov.Imm(asm.R0, verdict), asm.Return()}})
			if err != nil {
				t.Fatal(err)
			}
			if err := l.maps["tailer/progs"].Put(uint32(0), target); err != nil {
				t.Fatal(err)
			}
			target.Close()
			if got, _, err := l.Test(make([]byte, 64)); err != nil || got != want {
				t.Errorf("target returns %d: got %d, %v; want %d", verdict, got, err, want)
			}
		}
		want := "[{a 6 map[pass:6]} {tailer 6 map[aborted:1 drop:2 pass:1 redirect:1 tx:1]} {b 2 map[pass:2]}]"
		if got := fmt.Sprint(counts(t, l)); got != want {
			t.Errorf("counts %s, want %s", got, want)
		}
	}
}
