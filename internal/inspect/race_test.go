package inspect

import (
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"l3af/internal/testenv"
)

// Objects and namespaces that come and go while everything is looked at are no
// error.
func TestEverythingComesAndGoes(t *testing.T) {
	testenv.Clean(t)
	testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
	index := testenv.Interface(t, "", "v0").Index
	end := time.Now().Add(2 * time.Second)
	var busy sync.WaitGroup
	for _, once := range []func() error{
		func() error {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				return err
			}
			defer m.Close()
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
				asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Imm(asm.R0, -1), asm.Return(),
			}})
			if err != nil {
				return err
			}
			defer p.Close()
			l, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: index, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				return err
			}
			return l.Close()
		},
		func() error { return exec.Command("unshare", "-n", "true").Run() },
	} {
		busy.Go(func() {
			for time.Now().Before(end) {
				if err := once(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for looks := 0; looks == 0 || time.Now().Before(end); looks++ {
		o := func() Options { return Options{Pins: true, Holders: new(Holders), Locate: true} }
		_, err := Programs(Selector{}, o())
		if err == nil {
			_, err = Maps(Selector{}, o())
		}
		if err == nil {
			_, err = Links(Selector{}, o())
		}
		if err == nil {
			_, err = ReadNet(NetOptions{})
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	busy.Wait()
}
