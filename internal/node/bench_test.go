package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/kernel"
	"l3af/internal/node"
	"l3af/internal/testenv"
)

// What an apply of ten shipped programs takes on the real kernel, on one
// interface and on a hundred, from nothing and as a change of one program.
// Besides the time there are the processor's: user is all that is our own,
// system is the kernel's, most of which is the verifier. What is left of the
// time is waiting, most of it for the kernel's link updates.
//
//	go test ./internal/node -run '^$' -bench Apply -benchtime 5x
func BenchmarkApply(b *testing.B) {
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
		for _, interfaces := range []int{1, 100} {
			b.Run(fmt.Sprintf("%s/%d", kind, interfaces), func(b *testing.B) { benchmarkApply(b, kind, interfaces) })
		}
	}
}

func benchmarkApply(b *testing.B, kind l3af.HookKind, interfaces int) {
	testenv.Clean(b)
	for i := 0; i < interfaces; i += 2 {
		testenv.Veth(b, testenv.End{Name: fmt.Sprintf("a%d", i)}, testenv.End{Name: fmt.Sprintf("a%d", i+1)})
	}
	k, err := kernel.New(filepath.Join(testenv.Bpffs(b), "l3af"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	dir, err := os.MkdirTemp("/dev/shm", "l3af-node-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	n, err := node.Open(node.Options{Dir: dir, Kernel: k})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	state := func(rate int) *l3af.State {
		s := &l3af.State{APIVersion: l3af.APIVersion}
		for i := range interfaces {
			c := l3af.Chain{Interface: fmt.Sprintf("a%d", i), Hook: kind}
			for j := range 10 {
				name := []string{"acl", "ratelimit", "stats"}[j%3]
				p := l3af.Program{Name: fmt.Sprintf("%s-%d", name, j), Package: "builtin:" + name}
				if j == 4 {
					p.Config = map[string]any{"rate": json.Number(fmt.Sprint(rate))}
				}
				c.Programs = append(c.Programs, p)
			}
			s.Chains = append(s.Chains, c)
		}
		return s
	}
	apply := func(s *l3af.State) {
		a, err := n.Apply(context.Background(), s, "test", -1)
		if err != nil || len(a.Failed) > 0 {
			b.Fatalf("%+v, %v", a, err)
		}
	}
	measure := func(b *testing.B, prepare func(), s func(i int) *l3af.State) {
		var user, system time.Duration
		for i := range b.N {
			b.StopTimer()
			prepare()
			s := s(i)
			before := usage(b)
			b.StartTimer()
			apply(s)
			after := usage(b)
			user += time.Duration(after.Utime.Nano() - before.Utime.Nano())
			system += time.Duration(after.Stime.Nano() - before.Stime.Nano())
		}
		per := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(b.N) }
		b.ReportMetric(per(b.Elapsed()), "ms/op")
		b.ReportMetric(per(user), "user-ms/op")
		b.ReportMetric(per(system), "system-ms/op")
		b.ReportMetric(0, "ns/op")
	}
	nothing := func() { apply(&l3af.State{APIVersion: l3af.APIVersion}) }
	b.Run("nothing", func(b *testing.B) {
		measure(b, nothing, func(int) *l3af.State { return state(1) })
	})
	b.Run("change", func(b *testing.B) {
		apply(state(1))
		measure(b, func() {}, func(i int) *l3af.State { return state(2 + i%2) })
	})
	nothing()
}

func usage(b *testing.B) (u unix.Rusage) {
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u
}
