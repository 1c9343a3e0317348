package feature

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// The names of helpers are the kernel's.
func TestHelpers(t *testing.T) {
	out, err := exec.Command(testenv.Tool(t, "bpftool"), "-j", "feature", "list_builtins", "helpers").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	got := Helpers()
	if len(got) < len(want) || len(want) < 200 {
		t.Fatalf("%d helpers, bpftool knows %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("helper %d: %s, want %s", i, got[i], want[i])
		}
	}
}

// Types, options and abilities are what bpftool finds; where the kernel refuses
// to tell, bpftool says no and we say so.
func TestBpftoolAgrees(t *testing.T) {
	testenv.Clean(t)
	out, err := exec.Command(testenv.Tool(t, "bpftool"), "-j", "feature", "probe", "kernel").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		System   map[string]any  `json:"system_config"`
		Programs map[string]bool `json:"program_types"`
		Maps     map[string]bool `json:"map_types"`
		Misc     map[string]bool `json:"misc"`
	}
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	check := func(name string, want bool, got Answer) {
		if got.Known && got.Yes != want || !got.Known && (want || got.Why == nil) {
			t.Errorf("%s: got %+v, bpftool says %v", name, got, want)
		}
	}
	for i, name := range []string{"socket_filter", "kprobe", "sched_cls", "sched_act", "tracepoint", "xdp"} {
		check(name, want.Programs["have_"+name+"_prog_type"], ProgramType(ebpf.ProgramType(i+1)))
	}
	check("lirc_mode2", want.Programs["have_lirc_mode2_prog_type"], ProgramType(ebpf.LircMode2))
	check("hash", want.Maps["have_hash_map_type"], MapType(ebpf.Hash))
	check("bloom_filter", want.Maps["have_bloom_filter_map_type"], MapType(ebpf.BloomFilter))
	for _, m := range Misc() {
		if w, ok := want.Misc[m.Name]; ok {
			check(m.Name, w, m.Answer)
		}
	}
	options, err := Configuration()
	if err != nil {
		t.Fatal(err)
	}
	for name, w := range want.System {
		if slices.Contains(Options, name) {
			if got, ok := options[name]; ok != (w != nil) || ok && got != w {
				t.Errorf("%s: got %q, want %v", name, got, w)
			}
		}
	}
	for _, s := range Sysctls {
		got, err := Sysctl(s.Path)
		if errors.Is(err, os.ErrNotExist) { // of the first network namespace only
			got, err = -1, nil
		}
		if err != nil || float64(got) != want.System[s.Name] {
			t.Errorf("%s: got %d, %v, want %v", s.Name, got, err, want.System[s.Name])
		}
	}
}

// Programs may call what is for them, and a device that runs none says so.
func TestHelpersAndDevices(t *testing.T) {
	testenv.Clean(t)
	redirect := slices.Index(Helpers(), "bpf_xdp_adjust_head")
	for kind, want := range map[ebpf.ProgramType]bool{ebpf.XDP: true, ebpf.SchedCLS: false} {
		if got := Helper(kind, asm.BuiltinFunc(redirect)); !got.Known || got.Yes != want {
			t.Errorf("bpf_xdp_adjust_head of %v: %+v", kind, got)
		}
	}
	// No device: the kernel itself, which can do all of it.
	for _, m := range DeviceMisc(0) {
		if !m.Answer.Known || !m.Answer.Yes {
			t.Errorf("%s: %+v", m.Name, m.Answer)
		}
	}
	lo := testenv.Interface(t, "", "lo").Index
	for _, m := range DeviceMisc(lo) {
		if !m.Answer.Known || m.Answer.Yes {
			t.Errorf("%s of lo: %+v", m.Name, m.Answer)
		}
	}
	for _, got := range []Answer{DeviceProgram(lo, ebpf.XDP), DeviceMap(lo, ebpf.Hash), DeviceHelper(lo, ebpf.XDP, asm.BuiltinFunc(redirect))} {
		if !got.Known || got.Yes {
			t.Errorf("lo: %+v", got)
		}
	}
}
