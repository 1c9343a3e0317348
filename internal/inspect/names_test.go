package inspect

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

var tables = map[string]names{
	"prog_types": programTypes, "map_types": mapTypes, "attach_types": attachTypes, "link_types": linkTypes,
}

// Our names are libbpf's: bpftool 7.1 knows fewer, and knows the first the same.
func TestNamesAreLibbpfs(t *testing.T) {
	bpftool := testenv.Tool(t, "bpftool")
	for list, ours := range tables {
		out, err := exec.Command(bpftool, "feature", "list_builtins", list).Output()
		if err != nil {
			t.Fatal(err)
		}
		theirs := strings.Fields(string(out))
		if len(theirs) < 10 {
			t.Errorf("%s: bpftool lists %d", list, len(theirs))
		}
		for i := range min(len(theirs), len(ours)) {
			if theirs[i] != ours[i] {
				t.Errorf("%s %d: %s, bpftool says %s", list, i, ours[i], theirs[i])
			}
		}
	}
}

// The tables end where the enums of this kernel end.
func TestNamesAreComplete(t *testing.T) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Skip(err)
	}
	for list, enum := range map[string]string{
		"prog_types": "bpf_prog_type", "map_types": "bpf_map_type", "attach_types": "bpf_attach_type", "link_types": "bpf_link_type",
	} {
		var e *btf.Enum
		if err := spec.TypeByName(enum, &e); err != nil {
			t.Fatal(err)
		}
		for _, v := range e.Values {
			if name := tables[list].of(uint32(v.Value)); !strings.HasPrefix(v.Name, "__MAX") && !name.Known() {
				t.Errorf("%s has no name", v.Name)
			}
		}
	}
}

// Names and numbers lead to each other; what has no name is a number in JSON.
func TestNamesBothWays(t *testing.T) {
	for list, ns := range tables {
		for i, name := range ns {
			if n, ok := ns.number(name); !ok || n != uint32(i) {
				t.Errorf("%s: %s is %d, %v, want %d", list, name, n, ok, i)
			}
		}
	}
	for name, want := range map[string]string{
		string(ProgramType(ebpf.SchedCLS)):                    `"sched_cls"`,
		string(MapType(ebpf.Arena)):                           `"arena"`,
		string(AttachType(ebpf.AttachTCXEgress)):              `"tcx_egress"`,
		string(LinkType(link.NetkitType)):                     `"netkit"`,
		string(ProgramType(777)):                              `777`,
		string(AttachType(ebpf.AttachCgroupUnixGetsockname)):  `"cgroup_unix_getsockname"`,
		string(AttachType(ebpf.AttachTraceKprobeSession)):     `"trace_kprobe_session"`,
		string(AttachType(ebpf.AttachCgroupInet6GetSockname)): `"cgroup_inet6_getsockname"`,
	} {
		if got, err := json.Marshal(TypeName(name)); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
	}
	for name, want := range map[string]ebpf.AttachType{"connect4": ebpf.AttachCGroupInet4Connect, "egress": ebpf.AttachCGroupInetEgress, "47": ebpf.AttachTCXEgress} {
		if got, ok := ParseAttachType(name); !ok || got != want {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
	if _, ok := ParseProgramType("nonsense"); ok {
		t.Error("nonsense is a type of programs")
	}
}
