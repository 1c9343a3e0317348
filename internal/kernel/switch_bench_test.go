package kernel

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"l3af"
	"l3af/internal/testenv"
)

// What switching a hook to another program takes: the update of its link,
// which is how we do it, against the update of an entry of a PROG_ARRAY that a
// root program calls into; and what the wait takes after which nothing runs a
// replaced program any more.
func BenchmarkSwitch(b *testing.B) {
	testenv.Clean(b)
	testenv.Veth(b, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
	dev := testenv.Interface(b, "", "v0")
	b.Run("xdp", func(b *testing.B) {
		progs := passes(b, l3af.XDP)
		l, err := link.AttachXDP(link.XDPOptions{Program: progs[0], Interface: dev.Index, Flags: link.XDPDriverMode})
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		benchmarkUpdates(b, progs, l.Update)
	})
	b.Run("tc-ingress", func(b *testing.B) {
		progs := passes(b, l3af.TCIngress)
		l, err := link.AttachTCX(link.TCXOptions{Program: progs[0], Interface: dev.Index, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		benchmarkUpdates(b, progs, l.Update)
	})
	b.Run("slot", func(b *testing.B) {
		_, slots := root(b)
		benchmarkUpdates(b, passes(b, l3af.XDP), func(p *ebpf.Program) error { return slots.Put(uint32(0), p) })
	})
	b.Run("wait", func(b *testing.B) {
		for b.Loop() {
			waitForPrograms()
		}
	})
}

func benchmarkUpdates(b *testing.B, progs [2]*ebpf.Program, update func(*ebpf.Program) error) {
	for i := 0; b.Loop(); i++ {
		if err := update(progs[(i+1)%2]); err != nil {
			b.Fatal(err)
		}
	}
}

// What a packet pays for a root program in front of its chain.
func BenchmarkRoot(b *testing.B) {
	testenv.Clean(b)
	progs := passes(b, l3af.XDP)
	called, slots := root(b)
	if err := slots.Put(uint32(0), progs[0]); err != nil {
		b.Fatal(err)
	}
	for name, p := range map[string]*ebpf.Program{"chain": progs[0], "root": called} {
		b.Run(name, func(b *testing.B) {
			best := time.Hour
			for b.Loop() {
				ret, took, err := p.Benchmark(make([]byte, 64), 1_000_000, nil)
				if err != nil || ret != 2 {
					b.Fatalf("verdict %d, %v", ret, err)
				}
				best = min(best, took)
			}
			b.ReportMetric(float64(best.Nanoseconds()), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// passes makes two programs that let every packet through.
func passes(b *testing.B, kind l3af.HookKind) (progs [2]*ebpf.Program) {
	code, typ, at := int32(2), ebpf.XDP, ebpf.AttachXDP
	if kind != l3af.XDP {
		code, typ, at = -1, ebpf.SchedCLS, tcxAttachType(kind)
	}
	for i := range progs {
		progs[i] = load(b, typ, at, asm.Mov.Imm(asm.R0, code), asm.Return())
	}
	return progs
}

// root makes a program that goes on in the entry of an array.
func root(b *testing.B) (*ebpf.Program, *ebpf.Map) {
	slots, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { slots.Close() })
	return load(b, ebpf.XDP, ebpf.AttachXDP,
		asm.LoadMapPtr(asm.R2, slots.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	), slots
}

func load(b *testing.B, typ ebpf.ProgramType, at ebpf.AttachType, code ...asm.Instruction) *ebpf.Program {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: typ, AttachType: at, License: "Dual BSD/GPL", Instructions: code})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}
