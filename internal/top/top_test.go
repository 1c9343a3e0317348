package top

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

func find(l *Look, id ebpf.ProgramID) *Row {
	i := slices.IndexFunc(l.Programs, func(r Row) bool { return r.ID == uint32(id) })
	if i < 0 {
		return nil
	}
	return &l.Programs[i]
}

func id(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	n, _ := info.ID()
	return n
}

// What a program does between two looks is in the second, and nothing is
// measured when nobody looks.
func TestSampler(t *testing.T) {
	testenv.Clean(t)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "sampled", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Look()
	if err != nil {
		t.Fatal(err)
	}
	if r := find(first, id(t, p)); r == nil || r.Runs != 0 || r.Name != "sampled" || r.Type != "xdp" || first.Seconds != 0 {
		t.Errorf("first look: %+v", r)
	}
	run(t, p, make([]byte, 64), 1000)
	second, err := s.Look()
	if err != nil {
		t.Fatal(err)
	}
	r := find(second, id(t, p))
	if r == nil || r.RunCnt < 1000 || r.NsPerRun <= 0 || r.CPU <= 0 || int(r.Runs*second.Seconds+0.5) != int(r.RunCnt) || r.Chain != nil {
		t.Errorf("second look: %+v in %v s", r, second.Seconds)
	}
	third, err := s.Look()
	if err != nil {
		t.Fatal(err)
	}
	if now := find(third, id(t, p)); now.Runs != 0 || now.NsPerRun != 0 || now.RunCnt != r.RunCnt {
		t.Errorf("third look: %+v", now)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if os.Getenv(testenv.Shared) != "" {
		return // others may measure
	}
	run(t, p, make([]byte, 64), 10)
	if stats, err := p.Stats(); err != nil || stats.RunCount != r.RunCnt {
		t.Errorf("runs are counted when nobody looks: %+v, %v", stats, err)
	}
}

// run runs a program exactly so many times: a signal ends what repeats in the
// kernel, and it would begin anew.
func run(t *testing.T, p *ebpf.Program, packet []byte, times int) {
	t.Helper()
	for range times {
		if _, err := p.Run(&ebpf.RunOptions{Data: packet}); err != nil {
			t.Fatal(err)
		}
	}
}

// A chain says what its programs do and drop.
func TestChain(t *testing.T) {
	testenv.Clean(t)
	spec, err := ebpf.LoadCollectionSpec(filepath.Join("testdata", "verdicts.bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := chain.Compose(l3af.XDP, []chain.Member{
		{Name: "even", Spec: spec, Entry: "even"}, {Name: "small", Spec: spec, Entry: "small"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Maps {
		made, err := ebpf.NewMap(m.Spec)
		if err != nil {
			t.Fatal(err)
		}
		defer made.Close()
		if err := c.Program.Instructions.AssociateMap(m.Ref, made); err != nil {
			t.Fatal(err)
		}
	}
	p, err := ebpf.NewProgram(c.Program)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Look(); err != nil {
		t.Fatal(err)
	}
	for size, times := range map[int]int{61: 5, 62: 7, 200: 11} { // dropped by even, passed, dropped by small
		run(t, p, make([]byte, size), times)
	}
	l, err := s.Look()
	if err != nil {
		t.Fatal(err)
	}
	r := find(l, id(t, p))
	if r == nil || r.Chain == nil || r.Chain.ID != c.ID {
		t.Fatalf("no chain: %+v", r)
	}
	total := func(rate float64) int { return int(rate*l.Seconds + 0.5) }
	if got := []int{total(r.Runs), total(r.Chain.Drops), total(r.Chain.Programs[0].Runs), total(r.Chain.Programs[0].Drops), total(r.Chain.Programs[1].Runs), total(r.Chain.Programs[1].Drops)}; !slices.Equal(got, []int{23, 16, 23, 5, 18, 11}) {
		t.Errorf("runs, drops, and those of even and small: %v in %+v", got, r.Chain)
	}
	if got := r.Title(); got != c.ID+": even → small" {
		t.Errorf("title: %s", got)
	}
}
