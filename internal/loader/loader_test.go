package loader

import (
	"os/exec"
	"regexp"
	"testing"

	"github.com/cilium/ebpf"

	"l3af/internal/testenv"
)

// The kernel's names of maps are those that libbpf gives.
func TestNames(t *testing.T) {
	for _, c := range []struct{ object, section, name string }{
		{"acl", ".rodata", "acl.rodata"},
		{"acl", ".bss", "acl.bss"},
		{"a-very-long-name", ".rodata", "a_very_l.rodata"},
		{"a-very-long-name", ".data", "a_very_l.data"},
		{"acl", ".data.counters", ".data.counters"},
		{"acl", ".rodata.str1.16", ".rodata.str1.16"},
	} {
		if got := sectionMap(c.object, c.section); got != c.name {
			t.Errorf("%s of %s: %s, want %s", c.section, c.object, got, c.name)
		}
	}
}

// Types go by all the names that bpftool takes.
func TestTypes(t *testing.T) {
	help, err := exec.Command(testenv.Tool(t, "bpftool"), "prog", "help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)[^_]TYPE := \{(.*?)\}`).FindSubmatch(help)
	if m == nil {
		t.Fatalf("no types in %s", help)
	}
	names := regexp.MustCompile(`[a-z0-9_/]+`).FindAllString(string(m[1]), -1)
	if len(names) < 40 {
		t.Errorf("%d types: %v", len(names), names)
	}
	for _, name := range names {
		if _, ok := ParseType(name); !ok {
			t.Errorf("type %s is not known", name)
		}
	}
	// What its help does not say: sections that are newer, go on, or sleep.
	for name, want := range map[string]Type{
		"tc":                            {Program: ebpf.SchedCLS},
		"tc/ingress":                    {ebpf.SchedCLS, ebpf.AttachTCXIngress},
		"tcx/ingress":                   {ebpf.SchedCLS, ebpf.AttachTCXIngress},
		"tcx/egress/":                   {ebpf.SchedCLS, ebpf.AttachTCXEgress},
		"netkit/peer":                   {ebpf.SchedCLS, ebpf.AttachNetkitPeer},
		"xdp.frags":                     {ebpf.XDP, ebpf.AttachXDP},
		"xdp.frags/devmap":              {ebpf.XDP, ebpf.AttachXDPDevMap},
		"kprobe/do_exit":                {Program: ebpf.Kprobe},
		"tracepoint/sched/sched_switch": {Program: ebpf.TracePoint},
		"raw_tp.w/sched_switch":         {Program: ebpf.RawTracepointWritable},
		"uprobe.s":                      {Program: ebpf.Kprobe},
		"uprobe.multi.s//bin/sh:main":   {ebpf.Kprobe, ebpf.AttachTraceUprobeMulti},
		"uprobe.session":                {ebpf.Kprobe, 57},
		"fentry/do_exit":                {ebpf.Tracing, ebpf.AttachTraceFEntry},
		"lsm.s/file_open":               {ebpf.LSM, ebpf.AttachLSMMac},
		"iter/task":                     {ebpf.Tracing, ebpf.AttachTraceIter},
		"cgroup/connect_unix":           {ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixConnect},
		"sched_cls":                     {Program: ebpf.SchedCLS},
	} {
		if got, ok := ParseType(name); !ok || got != want {
			t.Errorf("type %s: %v, %t, want %v", name, got, ok, want)
		}
	}
	for _, name := range []string{"xpd", "tcx/sideways", "cgroup/connect7", "", "/"} {
		if got, ok := ParseType(name); ok {
			t.Errorf("there is no type %q: %v", name, got)
		}
	}
}
