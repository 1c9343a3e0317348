package bpfsys

import (
	"os"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// The layouts are those of the kernel: offsets from linux/bpf.h.
func TestLayout(t *testing.T) {
	var p ProgInfo
	var m MapInfo
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"bpf_prog_info.name", unsafe.Offsetof(p.Name), 64},
		{"bpf_prog_info.btf_id", unsafe.Offsetof(p.BTFID), 128},
		{"bpf_prog_info.run_time_ns", unsafe.Offsetof(p.RunTime), 192},
		{"bpf_prog_info.attach_btf_id", unsafe.Offsetof(p.AttachBTFID), 224},
		{"bpf_map_info.netns_dev", unsafe.Offsetof(m.NetnsDev), 48},
		{"bpf_map_info.map_extra", unsafe.Offsetof(m.Extra), 80},
	} {
		if c.got != c.want {
			t.Errorf("%s at %d, want %d", c.name, c.got, c.want)
		}
	}
}

// What the kernel says of objects is what they were made as.
func TestInfo(t *testing.T) {
	testenv.Clean(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "words", Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 7, Flags: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var mi MapInfo
	if err := Info(m, &mi); err != nil {
		t.Fatal(err)
	}
	if mi.Type != uint32(ebpf.LPMTrie) || mi.KeySize != 8 || mi.ValueSize != 4 || mi.MaxEntries != 7 || mi.Flags != 1 || Text(mi.Name[:]) != "words" {
		t.Errorf("map: %+v", mi)
	}
	for licence, gpl := range map[string]bool{"GPL": true, "Proprietary": false} {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "two", Type: ebpf.XDP, License: licence,
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		var pi ProgInfo
		if err := Info(p, &pi); err != nil {
			t.Fatal(err)
		}
		if pi.GPLCompatible() != gpl || pi.Type != uint32(ebpf.XDP) || pi.XlatedLen != 16 || Text(pi.Name[:]) != "two" {
			t.Errorf("program: %+v", pi)
		}
		code := make([]byte, pi.XlatedLen)
		again := ProgInfo{XlatedLen: pi.XlatedLen, Xlated: PointerTo(code)}
		if err := Info(p, &again); err != nil {
			t.Fatal(err)
		}
		if code[0] != 0xb7 || code[8] != 0x95 { // r0 = 2; exit
			t.Errorf("xlated: % x", code)
		}
	}
	if err := Info(closed{}, &mi); err == nil {
		t.Error("info of a descriptor that is not open")
	}
}

type closed struct{}

func (closed) FD() int { return -1 }
