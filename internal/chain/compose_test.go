package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/testenv"
)

// Every test program, alone in a chain and as a pair, passes the verifier.
func TestEveryProgramLoads(t *testing.T) {
	testenv.Clean(t)
	refused := map[string]bool{"devmap": true}
	for _, kind := range l3af.HookKinds() {
		spec := object(t, objectOf(kind))
		set(t, spec, "verdicts", [8]int32{2, 2, 2, 2, 0, 0, 1, 1})
		for entry := range spec.Programs {
			if refused[entry] {
				continue
			}
			t.Run(string(kind)+"/"+entry, func(t *testing.T) {
				load(t, compose(t, kind, Member{Name: "a", Spec: spec, Entry: entry}))
				load(t, compose(t, kind,
					Member{Name: "a", Spec: spec, Entry: entry},
					Member{Name: "b", Spec: withoutBTFUnlessCORE(spec.Copy(), entry), Entry: entry}))
			})
		}
	}
}

// returns is a program that returns a constant.
func returns(name string, verdict int32) Member {
	return assembled(name, ebpf.XDP, asm.Mov.Imm(asm.R0, verdict), asm.Return())
}

// raw is an atomic operation as an object holds it: with its kind in Constant,
// which the library does not fill in when it encodes one made by asm.
func raw(ins asm.Instruction) asm.Instruction {
	ins.Constant = int64(ins.OpCode.AtomicOp() >> 8)
	return ins
}

// Code that compilers write rarely or never does in a chain what it does alone.
func TestHandwrittenCode(t *testing.T) {
	testenv.Clean(t)
	onStack := func(offset int16) []asm.Instruction {
		return []asm.Instruction{
			asm.Mov.Imm(asm.R1, 2),
			asm.StoreMem(asm.R10, offset, asm.R1, asm.DWord),
			asm.LoadMem(asm.R0, asm.R10, offset, asm.DWord),
			asm.Return(),
		}
	}
	for name, ins := range map[string][]asm.Instruction{
		"high bits of r0":  {asm.LoadImm(asm.R0, 0x7_0000_0002, asm.DWord), asm.Return()},
		"negative":         {asm.LoadImm(asm.R0, -1, asm.DWord), asm.Return()},
		"504 bytes":        onStack(-504),
		"first slot":       onStack(-8),
		"two exits":        {asm.LoadMem(asm.R0, asm.R1, 16, asm.Word), asm.JNE.Imm(asm.R0, 9, "pass"), asm.Return(), asm.Mov.Imm(asm.R0, 2).WithSymbol("pass"), asm.Return()},
		"exit in between":  {asm.Mov.Imm(asm.R0, 2), asm.JEq.Imm(asm.R1, 0, "out"), asm.Ja.Label("on"), asm.Return().WithSymbol("out"), asm.Mov.Imm(asm.R0, 2).WithSymbol("on"), asm.Ja.Label("out")},
		"backward loop":    {asm.Mov.Imm(asm.R0, 10), asm.Sub.Imm(asm.R0, 1).WithSymbol("again"), asm.JNE.Imm(asm.R0, 2, "again"), asm.Return()},
		"far jump":         {asm.Mov.Imm(asm.R0, 2), asm.LongJump("end"), asm.Return().WithSymbol("end")},
		"added frame":      {asm.Mov.Imm(asm.R2, -16), asm.Add.Reg(asm.R2, asm.R10), asm.StoreImm(asm.R2, 0, 2, asm.Word), asm.LoadMem(asm.R0, asm.R10, -16, asm.Word), asm.Return()},
		"copy of a copy":   {asm.Mov.Reg(asm.R3, asm.R10), asm.Mov.Reg(asm.R2, asm.R3), asm.Add.Imm(asm.R2, -8), asm.StoreImm(asm.R2, 0, 2, asm.Word), asm.LoadMem(asm.R0, asm.R10, -8, asm.Word), asm.Return()},
		"copy, then jump":  {asm.Mov.Reg(asm.R3, asm.R10), asm.Mov.Imm(asm.R0, 0), asm.JEq.Imm(asm.R0, 1, "add"), asm.Mov.Reg(asm.R3, asm.R10), asm.Add.Imm(asm.R3, -8).WithSymbol("add"), asm.StoreImm(asm.R3, 0, 2, asm.Word), asm.LoadMem(asm.R0, asm.R10, -8, asm.Word), asm.Return()},
		"atomic on stack":  {asm.StoreImm(asm.R10, -4, 1, asm.Word), asm.Mov.Imm(asm.R1, 1), raw(asm.FetchAdd.Mem(asm.R10, asm.R1, asm.Word, -4)), asm.LoadMem(asm.R0, asm.R10, -4, asm.Word), asm.Return()},
		"compare exchange": {asm.StoreImm(asm.R10, -4, 2, asm.Word), asm.Mov.Imm(asm.R0, 2), asm.Mov.Imm(asm.R1, 7), raw(asm.CmpXchg.Mem(asm.R10, asm.R1, asm.Word, -4)), asm.Return()},
		"load acquire":     {asm.StoreImm(asm.R10, -4, 2, asm.Word), raw(asm.LoadAcquire(asm.R0, asm.R10, asm.Word, -4)), asm.Return()},
		"store release":    {asm.Mov.Imm(asm.R1, 2), raw(asm.StoreRelease(asm.R10, asm.R1, asm.Word, -4)), asm.LoadMem(asm.R0, asm.R10, -4, asm.Word), asm.Return()},
		"may goto":         {asm.Mov.Imm(asm.R0, 2), {OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.JCOND), Offset: 1}, {OpCode: asm.OpCode(asm.JumpClass), Offset: -2}, asm.Return()},
		"call by distance": {asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoCall, Constant: 1}, asm.Return(), asm.Mov.Imm(asm.R0, 2), asm.Return()},
		"clobbers context": {asm.Mov.Imm(asm.R1, 0), asm.Mov.Imm(asm.R6, 0), asm.Mov.Imm(asm.R0, 2), asm.Return()},
	} {
		t.Run(name, func(t *testing.T) {
			one := assembled("x", ebpf.XDP, ins...)
			want, _, err := load(t, &Chain{Program: one.Spec.Programs["x"]}).Test(make([]byte, 64))
			if err != nil {
				t.Fatal(err)
			}
			end := returns("end", 3)
			for n := 1; n <= 3; n++ {
				var members []Member
				for i := range n {
					m := one
					m.Name = fmt.Sprint("x", i)
					members = append(members, m)
				}
				wantAll := want
				if want == 2 {
					wantAll = 3
				}
				l := load(t, compose(t, l3af.XDP, append(members, end)...))
				if got, _, err := l.Test(make([]byte, 64)); err != nil || got != wantAll {
					t.Fatalf("%d times: got %d, %v; alone %d", n, got, err, want)
				}
			}
		})
	}
}

// What cannot be composed is refused with the reason.
func TestRefused(t *testing.T) {
	xdp, tc, other := object(t, "xdp"), object(t, "tc"), object(t, "other")
	code := func(ins ...asm.Instruction) []Member { return []Member{assembled("x", ebpf.XDP, ins...)} }
	pass := returns("end", 2)
	changed := func(change func(*ebpf.ProgramSpec)) []Member {
		m := returns("x", 2)
		change(m.Spec.Programs["x"])
		return []Member{m}
	}
	var crowd []Member
	for i := range 683 {
		crowd = append(crowd, returns(fmt.Sprint("m", i), 2))
	}
	for want, c := range map[string]struct {
		kind    l3af.HookKind
		members []Member
	}{
		`there is no hook "socket"`:                        {"socket", []Member{pass}},
		"the chain is empty":                               {l3af.XDP, nil},
		"two programs of this name":                        {l3af.XDP, []Member{pass, pass}},
		"a program has no name":                            {l3af.XDP, []Member{{Spec: xdp, Entry: "bybyte"}}},
		"holds a zero byte":                                {l3af.XDP, []Member{{Name: "a\x00", Spec: xdp, Entry: "bybyte"}}},
		"name is too long":                                 {l3af.XDP, []Member{{Name: strings.Repeat("-", 32), Spec: xdp, Entry: "bybyte"}}},
		"no object":                                        {l3af.XDP, []Member{{Name: "x"}}},
		`no program "nope" (it has: bybyte, callback`:      {l3af.XDP, []Member{{Name: "x", Spec: xdp, Entry: "nope"}}},
		"bybyte is a SchedCLS program, the hook xdp runs":  {l3af.XDP, []Member{{Name: "x", Spec: tc, Entry: "bybyte"}}},
		"bybyte is a XDP program, the hook tc-egress runs": {l3af.TCEgress, []Member{{Name: "x", Spec: xdp, Entry: "bybyte"}}},
		"devmap is made for XDPDevMap":                     {l3af.XDP, []Member{{Name: "x", Spec: xdp, Entry: "devmap"}}},
		`license "Proprietary" is not GPL-compatible`:      {l3af.XDP, []Member{pass, {Name: "x", Spec: other, Entry: "closed"}}},
		`has no verdict "shot"`:                            {l3af.XDP, []Member{{Name: "x", Spec: xdp, Entry: "bybyte", Proceed: []l3af.Verdict{"pass", "shot"}}}},
		"proceeds twice on tx":                             {l3af.XDP, []Member{{Name: "x", Spec: xdp, Entry: "bybyte", Proceed: []l3af.Verdict{"tx", "tx"}}}},
		"counters of 683 programs take 32784 bytes":        {l3af.XDP, crowd},
		"bound to one device":                              {l3af.XDP, changed(func(p *ebpf.ProgramSpec) { p.Ifindex = 1 })},
		"cannot compose x: timestamp asks the device about the packet (bpf_xdp_metadata_rx_timestamp), which the kernel allows only programs that are bound to one device": {
			l3af.XDP, []Member{pass, {Name: "x", Spec: object(t, "device"), Entry: "timestamp"}}},
		"program flags 0x10":                        {l3af.XDP, changed(func(p *ebpf.ProgramSpec) { p.Flags = 1 << 4 })},
		"has no instructions":                       {l3af.XDP, code()},
		"writes the frame pointer":                  {l3af.XDP, code(asm.Add.Imm(asm.R10, 8), asm.Return())},
		"runs past its end":                         {l3af.XDP, code(asm.Mov.Imm(asm.R0, 2))},
		"leads to no instruction":                   {l3af.XDP, code(asm.Instruction{OpCode: asm.OpCode(asm.JumpClass), Offset: -2}, asm.Return())},
		"instruction 0 leads to no instruction":     {l3af.XDP, code(asm.Instruction{OpCode: asm.OpCode(asm.JumpClass), Offset: 1}, asm.LoadImm(asm.R0, 1, asm.DWord), asm.Return())},
		"jumps out of its function":                 {l3af.XDP, code(asm.Ja.Label("f"), asm.Ja.Label("main"), asm.Call.Label("f"), asm.Return(), asm.Return().WithSymbol("f"))},
		"refers to gone, which the object does not": {l3af.XDP, code(asm.Call.Label("gone"), asm.Return())},
		"calls itself":                              {l3af.XDP, code(asm.Call.Label("x").WithSymbol("x"), asm.Return())},
		`has no map "gone"`:                         {l3af.XDP, code(asm.LoadMapPtr(asm.R1, 0).WithReference("gone"), asm.Return())},
		"has the symbol x twice":                    {l3af.XDP, code(asm.Return().WithSymbol("x"), asm.Return().WithSymbol("x"))},
	} {
		_, err := Compose(c.kind, c.members)
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want … %s …", err, want)
		}
	}
}

// Programs stay what they were, whatever is made of them.
func TestMembersAreLeftAlone(t *testing.T) {
	for entry, p := range object(t, "xdp").Programs {
		m := Member{Name: "a", Spec: object(t, "xdp"), Entry: entry}
		before := m.Spec.Copy()
		if _, err := Compose(l3af.XDP, []Member{m}); err != nil {
			continue
		}
		if got, want := fmt.Sprint(m.Spec.Programs[entry].Instructions), fmt.Sprint(p.Instructions); got != want {
			t.Errorf("%s: instructions were changed:\n%s\nfrom\n%s", entry, got, want)
		}
		if !reflect.DeepEqual(m.Spec.Maps, before.Maps) || !maps.EqualFunc(m.Spec.Variables, before.Variables,
			func(a, b *ebpf.VariableSpec) bool { return reflect.DeepEqual(a, b) }) {
			t.Errorf("%s: maps or variables were changed", entry)
		}
	}
}

// A hundred programs are one program that the kernel takes and that says what
// they say; so are programs too long together for 16-bit jumps.
func TestLongChains(t *testing.T) {
	testenv.Clean(t)
	hundred := make([]Member, 100)
	for i := range hundred {
		hundred[i] = assembled(fmt.Sprint("p", i), ebpf.XDP,
			// Member i drops packets whose first bytes hold i.
			asm.LoadMem(asm.R2, asm.R1, 4, asm.Word), asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
			asm.Mov.Imm(asm.R0, 2), asm.Mov.Reg(asm.R3, asm.R1), asm.Add.Imm(asm.R3, 1), asm.JGT.Reg(asm.R3, asm.R2, "out"),
			asm.LoadMem(asm.R1, asm.R1, 0, asm.Byte), asm.JNE.Imm(asm.R1, int32(i), "out"),
			asm.Mov.Imm(asm.R0, 1), asm.Return().WithSymbol("out"))
	}
	long := make([]Member, 4)
	for i := range long {
		ins := []asm.Instruction{asm.LoadMem(asm.R2, asm.R1, 4, asm.Word), asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
			asm.Mov.Imm(asm.R0, 2), asm.Mov.Reg(asm.R3, asm.R1), asm.Add.Imm(asm.R3, 1), asm.JGT.Reg(asm.R3, asm.R2, "out"),
			asm.LoadMem(asm.R1, asm.R1, 0, asm.Byte), asm.JNE.Imm(asm.R1, int32(i), "out")}
		for range 20000 {
			ins = append(ins, asm.Add.Imm(asm.R1, 1))
		}
		ins = append(ins, asm.Mov.Imm(asm.R0, 1), asm.Return().WithSymbol("out"))
		long[i] = assembled(fmt.Sprint("p", i), ebpf.XDP, ins...)
		long[i].Proceed = []l3af.Verdict{l3af.Drop, l3af.Pass}
	}
	for _, members := range [][]Member{hundred, long} {
		l := load(t, compose(t, l3af.XDP, members...))
		want := make([]Count, len(members))
		for i, m := range members {
			want[i] = Count{Name: m.Name, Verdicts: map[l3af.Verdict]uint64{}}
		}
		for b := range 128 {
			in := make([]byte, 64)
			in[0] = byte(b)
			verdict := uint32(2)
			for i := range members {
				v := l3af.Pass
				if i == b {
					v = l3af.Drop
				}
				want[i].Packets++
				want[i].Verdicts[v]++
				if v == l3af.Drop && (len(members[i].Proceed) == 0 || i == len(members)-1) {
					verdict = 1
					break
				}
			}
			if got, _, err := l.Test(in); err != nil || got != verdict {
				t.Fatalf("%d programs, byte %d: got %d, %v; want %d", len(members), b, got, err, verdict)
			}
		}
		if got := counts(t, l); !reflect.DeepEqual(got, want) {
			t.Errorf("%d programs: counts\ngot  %v\nwant %v", len(members), got, want)
		}
	}
}

// Fragments are supported if every program supports them; other properties of
// the composed program come from the hook and the licenses.
func TestProgramProperties(t *testing.T) {
	xdp := object(t, "xdp")
	frags := func(name string) Member { return Member{Name: name, Spec: xdp, Entry: "frags"} }
	if c := compose(t, l3af.XDP, frags("a"), frags("b")); c.Program.Flags != flagXDPHasFrags {
		t.Errorf("flags of fragment-aware programs: %#x", c.Program.Flags)
	}
	c := compose(t, l3af.XDP, frags("a"), returns("b", 2))
	if c.Program.Flags != 0 {
		t.Errorf("flags of mixed programs: %#x", c.Program.Flags)
	}
	if c.Program.License != "GPL" || c.Program.Type != ebpf.XDP || c.Program.AttachType != ebpf.AttachXDP {
		t.Errorf("got %q %v %v", c.Program.License, c.Program.Type, c.Program.AttachType)
	}
	for kind, want := range map[l3af.HookKind]ebpf.AttachType{l3af.TCIngress: ebpf.AttachTCXIngress, l3af.TCEgress: ebpf.AttachTCXEgress} {
		if c := compose(t, kind, Member{Name: "a", Spec: object(t, "tc"), Entry: "bybyte"}); c.Program.AttachType != want || c.Program.License != "Dual BSD/GPL" {
			t.Errorf("%s: got %v %q", kind, c.Program.AttachType, c.Program.License)
		}
	}
}

// The maps of a chain are those its code refers to, each member's its own,
// filled with its variables; only read-only data is not pinned.
func TestMaps(t *testing.T) {
	spec := object(t, "xdp")
	set(t, spec, "total", uint64(math.MaxUint64))
	c := compose(t, l3af.XDP, Member{Name: "a", Spec: spec, Entry: "globals"}, Member{Name: "b", Spec: spec, Entry: "lock"})
	var got []string
	for _, m := range c.Maps {
		got = append(got, fmt.Sprintf("%s %s %s %v", m.Ref, m.Member, m.Name, m.Pinned))
		if m.Ref == "a/.data" && string(m.Spec.Contents[0].Value.([]byte)) != strings.Repeat("\xff", 8) {
			t.Errorf("a/.data holds %v", m.Spec.Contents)
		}
	}
	want := []string{
		"a/.bss a .bss true", "a/.data a .data true", "a/.rodata a .rodata false",
		"b/.rodata b .rodata false", "b/guarded b guarded true", "/counters  counters true",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	c, err := ComposeWith(l3af.XDP, []Member{{Name: "a", Spec: spec, Entry: "lock"}}, Options{NoCounters: true})
	if err != nil || len(c.Maps) != 2 {
		t.Errorf("without counters: %v, %v", c.Maps, err)
	}
}

// An outside eye reads which programs run from the one program's name.
func TestBpftoolReadsTheChain(t *testing.T) {
	testenv.Clean(t)
	bpftool := testenv.Tool(t, "bpftool")
	spec := object(t, "xdp")
	c := compose(t, l3af.XDP, Member{Name: "acl", Spec: spec, Entry: "local"},
		Member{Name: "my-limit", Spec: spec, Entry: "callback"}, Member{Name: "stats", Spec: spec, Entry: "counts"})
	l := load(t, c)
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	out, err := exec.Command(bpftool, "-j", "prog", "show", "id", fmt.Sprint(id)).Output()
	var shown struct {
		Name string
		Maps []int `json:"map_ids"`
	}
	if err != nil || json.Unmarshal(out, &shown) != nil {
		t.Fatalf("%s: %v", out, err)
	}
	if want := "l3af_" + c.ID + "__acl__my_x2dlimit__stats"; shown.Name != want || len(shown.Maps) != len(c.Maps) {
		t.Errorf("got %q and %d maps, want %q and %d", shown.Name, len(shown.Maps), want, len(c.Maps))
	}
	out, err = exec.Command(bpftool, "prog", "dump", "xlated", "id", fmt.Sprint(id), "linum").CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	for _, want := range []string{"acl__twice", "my_x2dlimit__step", "l3af: keep the context", "l3af: count the verdict", "SECTION int counts(CTX *ctx)"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the dump lacks %q:\n%s", want, out)
		}
	}
}
