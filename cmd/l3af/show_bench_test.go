package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af/internal/testenv"
)

// BenchmarkProgShow lists 1,000 programs, each with a map, as processes of
// their own: ours, built as the README says (a test binary with cgo takes 1 to 2 ms
// more to start), and bpftool.
func BenchmarkProgShow(b *testing.B) {
	testenv.Root(b)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for i := range 1000 {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: fmt.Sprintf("bench_%d", i), Type: ebpf.XDP, License: "GPL",
			Instructions: asm.Instructions{asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Imm(asm.R0, int32(i)), asm.Return()},
		})
		if err != nil {
			b.Fatal(err)
		}
		defer p.Close()
	}
	bpftool, l3af := testenv.Tool(b, "bpftool"), filepath.Join(b.TempDir(), "l3af")
	build := exec.Command("go", "build", "-o", l3af, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build l3af: %v\n%s", err, out)
	}
	for _, cmd := range []exec.Cmd{
		{Path: l3af, Args: []string{"l3af", "-j", "prog", "show"}},
		{Path: bpftool, Args: []string{"bpftool", "-j", "prog", "show"}},
	} {
		b.Run(cmd.Args[0], func(b *testing.B) {
			var cpu, least time.Duration
			for b.Loop() {
				c := cmd
				if err := c.Run(); err != nil {
					b.Fatal(err)
				}
				if cpu = c.ProcessState.UserTime() + c.ProcessState.SystemTime(); least == 0 || cpu < least {
					least = cpu
				}
			}
			b.ReportMetric(float64(least), "least-cpu-ns") // others do not disturb it
		})
	}
}
