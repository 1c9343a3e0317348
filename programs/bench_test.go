package programs_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/bind"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/kernel"
	"l3af/internal/testenv"
)

// What ten shipped programs take from their objects to a verified chain: own
// is the processor's time in user space, all of it, collecting garbage
// included; kernel is that in the kernel, nearly all of it the verifier's.
//
//	go test ./programs -run '^$' -bench Ten -benchtime 50x
func BenchmarkTen(b *testing.B) {
	testenv.Clean(b)
	k, err := kernel.New(filepath.Join(testenv.Bpffs(b), "l3af"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	for _, kind := range l3af.HookKinds() {
		b.Run(string(kind), func(b *testing.B) {
			target := host.Target{Hook: l3af.Hook{Interface: "lo", Kind: kind}}
			var parts [4]time.Duration
			own := func(part int, f func()) {
				before := usage(b)
				f()
				after := usage(b)
				parts[part] += time.Duration(after.Utime.Nano() - before.Utime.Nano())
				parts[3] += time.Duration(after.Stime.Nano() - before.Stime.Nano())
			}
			for b.Loop() {
				var members []chain.Member
				var contents []host.Contents
				own(0, func() {
					var objects bind.Objects
					packages := map[string]*artifact.Package{}
					for i := range 10 {
						name := names[i%len(names)]
						if packages[name] == nil {
							if packages[name], err = artifact.Open("builtin:" + name); err != nil {
								b.Fatal(err)
							}
						}
						bound, mistakes := objects.Program(packages[name], kind, l3af.Program{Name: fmt.Sprint(name, i)}, "")
						if mistakes != nil {
							b.Fatal(mistakes)
						}
						members, contents = append(members, bound.Member), append(contents, bound.Contents...)
					}
				})
				var c *chain.Chain
				own(1, func() { c, err = chain.Compose(kind, members) })
				if err == nil {
					own(2, func() { err = k.TestLoad(host.Load{Target: target, Chain: c, Contents: contents}) })
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			for part, name := range []string{"parse", "compose", "load", "kernel"} {
				b.ReportMetric(parts[part].Seconds()*1000/float64(b.N), name+"-ms/op")
			}
			b.ReportMetric((parts[0]+parts[1]+parts[2]).Seconds()*1000/float64(b.N), "own-ms/op")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func usage(b *testing.B) (u unix.Rusage) {
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u
}
