package chain

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/testenv"
)

// linkages tells how the programs of a chain are linked: the segment of each,
// with a c behind it where it is called.
func linkages(c *Chain) string {
	s := ""
	for _, p := range c.Programs {
		s += fmt.Sprint(p.Segment)
		if p.Linkage == Called {
			s += "c"
		}
		s += " "
	}
	return strings.TrimSpace(s)
}

// Two hundred programs with maps of their own are one chain at each hook: they
// see what they see one after another.
func TestTwoHundredPrograms(t *testing.T) {
	testenv.Clean(t)
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCEgress} {
		pass, drop := l3af.Pass, l3af.Drop
		if kind != l3af.XDP {
			pass, drop = l3af.OK, l3af.Shot
		}
		passCode, _ := kind.Code(pass)
		dropCode, _ := kind.Code(drop)
		var members []Member
		for i := range 200 {
			spec := object(t, objectOf(kind))
			table := [8]int32{passCode, passCode, passCode, passCode, passCode, passCode, passCode, passCode}
			if i == 150 {
				table[5] = dropCode
			}
			set(t, spec, "verdicts", table)
			members = append(members, Member{Name: fmt.Sprint("p", i), Spec: spec, Entry: "globals", Proceed: []l3af.Verdict{pass}})
		}
		c := compose(t, kind, members...)
		if c.Segments == nil || len(c.Rest) != 9 || c.Segments.MaxEntries != 9 {
			t.Fatalf("%s: %d more segments, joined by %v", kind, len(c.Rest), c.Segments)
		}
		for i, spec := range c.Specs() {
			if spec.Name != "l3af_"+c.ID {
				t.Errorf("segment %d is named %s", i+1, spec.Name)
			}
			want := "l3af_" + c.ID + "__p0__p1__"
			if i == 9 {
				want = "l3af_" + c.ID + "_10__p180__p181__"
			}
			if got := spec.Instructions[0].Symbol(); (i == 0 || i == 9) && !strings.HasPrefix(got, want) {
				t.Errorf("segment %d has the function %s, want %s…", i+1, got, want)
			}
		}
		l := load(t, c)
		for b, want := range map[byte]int32{0: passCode, 5: dropCode} {
			in := make([]byte, 64)
			in[14] = b
			for range 3 {
				if got, _, err := l.Test(in); err != nil || int32(got) != want {
					t.Fatalf("%s, byte %d: got %d, %v; want %d", kind, b, int32(got), err, want)
				}
			}
		}
		for i, n := range counts(t, l) {
			want := map[l3af.Verdict]uint64{pass: 6}
			switch {
			case i == 150:
				want = map[l3af.Verdict]uint64{pass: 3, drop: 3}
			case i > 150:
				want = map[l3af.Verdict]uint64{pass: 3}
			}
			if !reflect.DeepEqual(n.Verdicts, want) {
				t.Errorf("%s: counts of %s: %v, want %v", kind, n.Name, n.Verdicts, want)
			}
		}
	}
}

// many makes n programs with the given number of maps each.
func many(n, maps int) []Member {
	var members []Member
	for i := range n {
		m := returns(fmt.Sprint("m", i), 2)
		code := m.Spec.Programs[m.Name].Instructions
		m.Spec.Maps = map[string]*ebpf.MapSpec{}
		for j := range maps {
			name := fmt.Sprint("map", j)
			m.Spec.Maps[name] = &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}
			code = slices.Insert(code, 0, asm.LoadMapPtr(asm.R2, 0).WithReference(name))
		}
		m.Spec.Programs[m.Name].Instructions = code
		members = append(members, m)
	}
	return members
}

// A chain is cut where it must be, and no sooner.
func TestCuts(t *testing.T) {
	testenv.Clean(t)
	deep := assembled("deep", ebpf.XDP, asm.StoreImm(asm.R10, -512, 0, asm.Word), asm.Mov.Imm(asm.R0, 2), asm.Return())
	frame := func(name string, size int16) Member {
		return assembled(name, ebpf.XDP, asm.StoreImm(asm.R10, -size, 0, asm.Word), asm.Mov.Imm(asm.R0, 2), asm.Return())
	}
	calls := func(name string, size, below int16) Member {
		return assembled(name, ebpf.XDP, asm.StoreImm(asm.R10, -size, 0, asm.Word), asm.Call.Label("sub"), asm.Mov.Imm(asm.R0, 2), asm.Return(),
			asm.StoreImm(asm.R10, -below, 0, asm.Word).WithSymbol("sub"), asm.Mov.Imm(asm.R0, 0), asm.Return())
	}
	tailer := Member{Name: "tailer", Spec: object(t, "xdp"), Entry: "tailer"}
	set(t, tailer.Spec, "verdicts", [8]int32{2, 2, 2, 2, 2, 2, 2, 2})
	one := func(name string) Member { return returns(name, 2) }
	for _, c := range []struct {
		members []Member
		want    string
	}{
		{many(3, 21), "1 1 1"}, // 63 maps and the counters
		{many(2, 32), "1 2"},
		{many(3, 31), "1 1 2"}, // 62 maps, the counters and the PROG_ARRAY
		{[]Member{one("a"), deep, one("b")}, "1 2c 3"},
		{[]Member{deep, tailer, one("b")}, "1c 1c 2"},
		{[]Member{one("a"), tailer, one("b")}, "1 1c 1"},
		{[]Member{one("a"), tailer, deep}, "1 1c 2c"},
		{[]Member{frame("a", 232), tailer}, "1 1c"}, // callers use less than 256
		{[]Member{frame("a", 240), tailer}, "1 2c"},
		{[]Member{frame("a", 400), calls("b", 32, 400)}, "1 2"},
		{[]Member{frame("a", 104), calls("b", 32, 400)}, "1 1"},
		{[]Member{calls("a", 256, 256), one("b")}, "1c 2"}, // 512 without the 8 of a chain
		{[]Member{calls("a", 240, 256), one("b")}, "1 1"},
	} {
		made := compose(t, l3af.XDP, c.members...)
		if got := linkages(made); got != c.want {
			t.Errorf("%s: linked %s, want %s", c.members[0].Name, got, c.want)
		}
		for _, p := range made.Programs {
			if (p.Why == "") != (p.Linkage == Inlined) {
				t.Errorf("%s is %s: %q", p.Name, p.Linkage, p.Why)
			}
		}
		l := load(t, made)
		if got, _, err := l.Test(make([]byte, 64)); err != nil || got != 2 {
			t.Errorf("%s: got %d, %v", c.want, got, err)
		}
		if n := counts(t, l); n[len(n)-1].Verdicts[l3af.Pass] != 1 {
			t.Errorf("%s: counts %v", c.want, n)
		}
	}
}

// As many segments as a packet may go through work; one more is refused. What
// need not be a segment by itself is called then.
func TestSegmentLimit(t *testing.T) {
	testenv.Clean(t)
	l := load(t, compose(t, l3af.XDP, many(33, 62)...))
	if got, _, err := l.Test(make([]byte, 64)); err != nil || got != 2 {
		t.Errorf("33 segments: got %d, %v", got, err)
	}
	if n := counts(t, l); n[32].Verdicts[l3af.Pass] != 1 {
		t.Errorf("33 segments: %v", n)
	}
	_, err := Compose(l3af.XDP, many(34, 62))
	if refused := (*RefusedError)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "34 segments; 33 is the limit") {
		t.Errorf("34 segments: %v", err)
	}
	_, err = Compose(l3af.XDP, many(1, 64))
	if refused := (*RefusedError)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "needs 64 maps, and the chain 1 more") {
		t.Errorf("64 maps: %v", err)
	}
	var mixed []Member
	for i := range 40 {
		mixed = append(mixed, returns(fmt.Sprint("a", i), 2))
		mixed = append(mixed, assembled(fmt.Sprint("b", i), ebpf.XDP, asm.StoreImm(asm.R10, -512, 0, asm.Word), asm.Mov.Imm(asm.R0, 2), asm.Return()))
	}
	c := compose(t, l3af.XDP, mixed...)
	if len(c.Rest) != 0 || c.Programs[0].Why != "the chain would take 80 segments; 33 is the limit" {
		t.Errorf("%d more segments, %+v", len(c.Rest), c.Programs[0])
	}
	if got, _, err := load(t, c).Test(make([]byte, 64)); err != nil || got != 2 {
		t.Errorf("80 programs: got %d, %v", got, err)
	}
}

// Where the next segment is not there the chain ends, and no packet passes by
// the programs behind: it is dropped, and counted.
func TestMissingSegment(t *testing.T) {
	testenv.Clean(t)
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
		for _, called := range []bool{false, true} {
			var members []Member
			for i := range 4 {
				spec := object(t, objectOf(kind))
				set(t, spec, "verdicts", [8]int32{2, 2, 2, 2, 2, 2, 2, 2})
				members = append(members, Member{Name: fmt.Sprint("m", i), Spec: spec, Entry: "bybyte", Proceed: []l3af.Verdict{kind.Verdict(2)}})
			}
			c := compose(t, kind, members...)
			p := c.made.plan.clone()
			p.cut[2] = true
			if called {
				p.why[0], p.why[1] = "a test", "a test"
			}
			c, err := c.made.compose(p)
			if err != nil {
				t.Fatal(err)
			}
			l := load(t, c)
			if err := l.maps[SegmentsRef].Delete(uint32(0)); err != nil {
				t.Fatal(err)
			}
			broken := uint32(0) // aborted
			if kind != l3af.XDP {
				broken = 2 // shot
			}
			if got, _, err := l.Test(make([]byte, 64)); err != nil || got != broken {
				t.Errorf("%s: got %d, %v", kind, got, err)
			}
			want := []Count{
				{"m0", 1, map[l3af.Verdict]uint64{kind.Verdict(2): 1}},
				{"m1", 1, map[l3af.Verdict]uint64{l3af.Other: 1}},
				{"m2", 0, map[l3af.Verdict]uint64{}}, {"m3", 0, map[l3af.Verdict]uint64{}},
			}
			if got := counts(t, l); !reflect.DeepEqual(got, want) {
				t.Errorf("%s, called %t: counts %v", kind, called, got)
			}
		}
	}
}

// hidden hides from anything but the verifier how deep a frame is.
func hidden(symbol string, size int32, ret int32) []asm.Instruction {
	first := asm.Mov.Reg(asm.R2, asm.R10)
	if symbol != "" {
		first = first.WithSymbol(symbol)
	}
	at := symbol + "deep"
	return []asm.Instruction{first, asm.Mov.Imm(asm.R3, 0), asm.JEq.Imm(asm.R3, 1, at),
		asm.Add.Imm(asm.R2, -size).WithSymbol(at), asm.StoreImm(asm.R2, 0, 0, asm.Word),
		asm.Mov.Imm(asm.R0, ret), asm.Return()}
}

// What only the verifier can tell is met by another composition, the same one
// each time, under the same ID; what a program exceeds by itself is an error.
func TestNarrow(t *testing.T) {
	testenv.Clean(t)
	spin := func(name string, turns int32) Member {
		return assembled(name, ebpf.XDP, asm.Mov.Imm(asm.R1, 0),
			asm.Add.Imm(asm.R1, 1).WithSymbol("again"), asm.JLT.Imm(asm.R1, turns, "again"),
			asm.Mov.Imm(asm.R0, 2), asm.Return())
	}
	deep := func(name string, size int32) Member { return assembled(name, ebpf.XDP, hidden("", size, 2)...) }
	below := func(name string, size, below int32) Member {
		code := hidden("", size, 2)
		code = slices.Insert(code, len(code)-2, asm.Call.Label("sub"))
		return assembled(name, ebpf.XDP, append(code, hidden("sub", below, 0)...)...)
	}
	one := returns("one", 2)
	for _, c := range []struct {
		what    string
		members []Member
		want    string // "" for an error
	}{
		{"1.2 million instructions", []Member{spin("a", 150000), spin("b", 150000), spin("c", 150000), spin("d", 150000)}, "1 1 2 2"},
		{"too much by itself", []Member{one, spin("a", 600000)}, ""},
		{"frames that add up", []Member{deep("a", 400), below("b", 8, 400)}, "1 2"},
		{"frames that add up by themselves", []Member{one, below("a", 256, 256)}, "1 2c"},
		{"a frame of 512 bytes", []Member{one, deep("a", 512), returns("two", 2)}, "1 2c 3"},
		{"a frame of 520 bytes", []Member{one, deep("a", 520)}, ""},
	} {
		made := compose(t, l3af.XDP, c.members...)
		if len(made.Rest) > 0 {
			t.Errorf("%s: cut before it was loaded", c.what)
		}
		first, last, err := bindNarrow(made)
		if c.want == "" {
			if err == nil {
				t.Errorf("%s: loaded", c.what)
				first.Close()
			}
			continue
		} else if err != nil {
			t.Errorf("%s: %+v", c.what, err)
			continue
		}
		defer first.Close()
		if got := linkages(last); got != c.want || last.ID != made.ID {
			t.Errorf("%s: linked %s with ID %s, want %s with %s", c.what, got, last.ID, c.want, made.ID)
		}
		if got, _, err := first.Test(make([]byte, 64)); err != nil || got != 2 {
			t.Errorf("%s: got %d, %v", c.what, got, err)
		}
		again, ok := compose(t, l3af.XDP, c.members...).As(last.Composition())
		if !ok || fmt.Sprint(again.Specs()[0].Instructions) != fmt.Sprint(last.Specs()[0].Instructions) {
			t.Errorf("%s: composed again as %v", c.what, again)
		}
	}
}

// Errors that are about no limit are not for Narrow, nor is a chain that it
// knows nothing of.
func TestNarrowRefuses(t *testing.T) {
	c := compose(t, l3af.XDP, returns("a", 2), returns("b", 2))
	for _, err := range []error{
		errors.New("permission denied"),
		&SegmentError{Segment: 1, Err: ebpf.ErrNotSupported},
		&ebpf.VerifierError{Log: []string{"invalid access to packet, off=0 size=1"}},
		&ebpf.VerifierError{Log: []string{"invalid write to stack R10 off=-2000 size=8"}},
		&SegmentError{Segment: 1, Err: &ebpf.VerifierError{Log: []string{"combined stack size of 2 calls is 544. Too large"}}},
	} {
		if next, ok := c.Narrow(err); ok {
			t.Errorf("%v: %v", err, linkages(next))
		}
	}
	if _, ok := c.Light().Narrow(&ebpf.VerifierError{Log: []string{"combined stack size of 2 calls is 544. Too large"}}); ok {
		t.Error("a light chain was composed")
	}
	if _, ok := c.As(Composition{}); ok {
		t.Error("a chain was composed like none")
	}
}

// A loop of which the verifier, by the luck of what lies around it, sees 2^40 paths
// in a chain and fewer alone.
func TestMarkedLoops(t *testing.T) {
	testenv.Clean(t)
	// What clang 19 makes of for (i = 0; i < 40; i++) n += (data + 15 + i <= end ? data[14+i] : 0xff) ^ queue;
	loop := func(name string) Member {
		return assembled(name, ebpf.XDP,
			asm.LoadMem(asm.R2, asm.R1, 16, asm.Word),
			asm.Mov.Imm32(asm.R5, 0),
			asm.Mov.Imm(asm.R3, 0),
			asm.LoadMem(asm.R4, asm.R1, 4, asm.Word),
			asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
			asm.Ja.Label("turn"),
			asm.Xor.Reg32(asm.R0, asm.R2).WithSymbol("add"),
			asm.Add.Reg32(asm.R0, asm.R5),
			asm.Add.Imm(asm.R3, 1),
			asm.Mov.Reg32(asm.R5, asm.R0),
			asm.JEq.Imm(asm.R3, 40, "end"),
			asm.Mov.Reg(asm.R6, asm.R1).WithSymbol("turn"),
			asm.Add.Reg(asm.R6, asm.R3),
			asm.Mov.Imm32(asm.R0, 0xff),
			asm.Mov.Reg(asm.R7, asm.R6),
			asm.Add.Imm(asm.R7, 15),
			asm.JGT.Reg(asm.R7, asm.R4, "add"),
			asm.LoadMem(asm.R0, asm.R6, 14, asm.Byte),
			asm.Ja.Label("add"),
			asm.And.Imm(asm.R0, 1).WithSymbol("end"),
			asm.Add.Imm(asm.R0, 1), // drop or pass
			asm.Return())
	}
	chains := map[string][]Member{
		"alone":  {loop("a")},
		"last":   {returns("one", 2), loop("a")},
		"middle": {returns("one", 2), loop("a"), returns("two", 2)},
		"twice":  {loop("a"), loop("b")},
	}
	helped := 0
	for _, what := range slices.Sorted(maps.Keys(chains)) {
		l, c, err := bindNarrow(compose(t, l3af.XDP, chains[what]...))
		if err != nil {
			t.Errorf("%s: %+v", what, err)
			continue
		}
		defer l.Close()
		if slices.ContainsFunc(c.made.plan.loops, marking.on) {
			helped++
			if _, ok := compose(t, l3af.XDP, chains[what]...).As(c.Composition()); !ok {
				t.Errorf("%s: not composed again", what)
			}
		}
		if len(c.Rest) > 0 {
			t.Errorf("%s: cut: %s", what, linkages(c))
		}
		odd := make([]byte, 64)
		odd[14] = 1
		for _, packet := range [][]byte{make([]byte, 64), odd, make([]byte, 53)} {
			want := uint32(1) // a sum of zeros
			if len(packet) < 54 || packet[14] != 0 {
				want = 2
			}
			if got, _, err := l.Test(packet); err != nil || got != want {
				t.Errorf("%s: packet %x: got %d, want %d, %v", what, packet, got, want, err)
			}
		}
	}
	if t.Logf("%d of %d needed marks", helped, len(chains)); helped == 0 {
		t.Error("no loop needed marks: the test tests nothing")
	}
	// A kernel that does not know the marks gets none.
	c := compose(t, l3af.XDP, loop("a"), loop("b"))
	big := &ebpf.VerifierError{Cause: unix.E2BIG, Log: []string{"BPF program is too large. Processed 1000001 insn"}}
	for _, step := range []struct {
		err  error
		want []marking
		cut  int
	}{
		{big, []marking{marked, marked}, 1},
		{&ebpf.VerifierError{Cause: unix.EINVAL, Log: []string{"unknown opcode e5"}}, []marking{notTogether, notTogether}, 1},
		{big, []marking{notTogether, notTogether}, 2},
		{big, []marking{markedAlone, notTogether}, 2},
		{&SegmentError{1, big}, []marking{markedAlone, markedAlone}, 2},
		{big, []marking{notAtAll, markedAlone}, 2},
	} {
		next, ok := c.Narrow(step.err)
		if !ok || !slices.Equal(next.made.plan.loops, step.want) || 1+len(next.Rest) != step.cut {
			t.Fatalf("after %v: %v, %v", step.err, next.made.plan, ok)
		}
		c = next
	}
}
