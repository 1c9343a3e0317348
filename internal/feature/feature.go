// Package feature asks the running kernel, or a network device, what it can do
// with BPF.
package feature

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"l3af/internal/kconfig"
)

// Answer is whether something is there.
type Answer struct {
	Known bool
	Yes   bool
	Why   error // why it is not known
}

// MarshalJSON gives true, false, or null where it is not known.
func (a Answer) MarshalJSON() ([]byte, error) {
	if !a.Known {
		return []byte("null"), nil
	}
	return strconv.AppendBool(nil, a.Yes), nil
}

func answer(err error) Answer {
	switch {
	case err == nil:
		return Answer{Known: true, Yes: true}
	case errors.Is(err, ebpf.ErrNotSupported), unprivileged && errors.Is(err, unix.EPERM):
		return Answer{Known: true}
	}
	return Answer{Why: err}
}

// unprivileged makes what is not permitted what there is not.
var unprivileged bool

// Unprivileged calls f, which asks, without any capability: the answers are those
// for a user who has none. What a process has asked before is remembered, and what it
// asks here is remembered later: it is for processes that do nothing else.
func Unprivileged(f func()) error {
	runtime.LockOSThread() // capabilities are a thread's, and one that lacks them is of no more use
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var was, none [2]unix.CapUserData
	if err := unix.Capget(&head, &was[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range was {
		none[i] = was[i]
		none[i].Effective = 0
	}
	if err := unix.Capset(&head, &none[0]); err != nil {
		return fmt.Errorf("lay capabilities aside: %w", err)
	}
	unprivileged = true
	defer func() { unprivileged = false }()
	f()
	if err := unix.Capset(&head, &was[0]); err != nil {
		return fmt.Errorf("take capabilities back: %w", err)
	}
	runtime.UnlockOSThread()
	return nil
}

// ProgramType says whether the kernel has a type of programs.
func ProgramType(t ebpf.ProgramType) Answer { return answer(features.HaveProgramType(t)) }

// MapType says whether the kernel has a type of maps.
func MapType(t ebpf.MapType) Answer { return answer(features.HaveMapType(t)) }

// Helper says whether programs of a type may call a helper.
func Helper(t ebpf.ProgramType, h asm.BuiltinFunc) Answer {
	return answer(features.HaveProgramHelper(t, h))
}

// Ability is something that the verifier or the instruction set may have.
type Ability struct {
	Name   string // bpftool's
	Text   string
	Answer Answer
}

func abilities(large, loops, v2, v3, v4 Answer) []Ability {
	return []Ability{
		{"have_large_insn_limit", "Large program size limit", large},
		{"have_bounded_loops", "Bounded loop support", loops},
		{"have_v2_isa_extension", "ISA extension v2", v2},
		{"have_v3_isa_extension", "ISA extension v3", v3},
		{"have_v4_isa_extension", "ISA extension v4", v4},
	}
}

// Misc are the abilities of the kernel.
func Misc() []Ability {
	return abilities(answer(features.HaveLargeInstructions()), answer(features.HaveBoundedLoops()),
		answer(features.HaveV2ISA()), answer(features.HaveV3ISA()), answer(features.HaveV4ISA()))
}

// Syscall says whether there is bpf(2).
func Syscall() Answer {
	_, err := ebpf.ProgramGetNextID(0)
	if errors.Is(err, unix.ENOSYS) {
		return Answer{Known: true}
	}
	return Answer{Known: true, Yes: true} // whatever else it says, it answers
}

// Helpers lists the helpers by number; the first is bpf_unspec.
func Helpers() []string {
	names := []string{"bpf_unspec"}
	for f := asm.FnUnspec + 1; ; f++ {
		name := f.String()
		if !strings.HasPrefix(name, "Fn") {
			return names
		}
		names = append(names, helperName(name))
	}
}

// helperName makes FnMapLookupElem bpf_map_lookup_elem. A digit that begins a
// word of the kernel's name is told by what goes before it.
func helperName(fn string) string {
	var b strings.Builder
	b.WriteString("bpf")
	for _, r := range strings.TrimPrefix(fn, "Fn") {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Sysctls are the settings of the kernel for BPF, by bpftool's names.
var Sysctls = []struct{ Name, Path string }{
	{"unprivileged_bpf_disabled", "/proc/sys/kernel/unprivileged_bpf_disabled"},
	{"bpf_jit_enable", "/proc/sys/net/core/bpf_jit_enable"},
	{"bpf_jit_harden", "/proc/sys/net/core/bpf_jit_harden"},
	{"bpf_jit_kallsyms", "/proc/sys/net/core/bpf_jit_kallsyms"},
	{"bpf_jit_limit", "/proc/sys/net/core/bpf_jit_limit"},
}

// Sysctl reads one of them. A kernel that does not have it says [os.ErrNotExist].
func Sysctl(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// Options are the options of the kernel's configuration that matter to BPF, in
// bpftool's order. They are of the kernel alone but for CONFIG_HZ, which
// programs need to know.
var Options = strings.Fields(`CONFIG_BPF CONFIG_BPF_SYSCALL CONFIG_HAVE_EBPF_JIT CONFIG_BPF_JIT CONFIG_BPF_JIT_ALWAYS_ON
	CONFIG_DEBUG_INFO_BTF CONFIG_DEBUG_INFO_BTF_MODULES CONFIG_CGROUPS CONFIG_CGROUP_BPF CONFIG_CGROUP_NET_CLASSID
	CONFIG_SOCK_CGROUP_DATA CONFIG_BPF_EVENTS CONFIG_KPROBE_EVENTS CONFIG_UPROBE_EVENTS CONFIG_TRACING
	CONFIG_FTRACE_SYSCALLS CONFIG_FUNCTION_ERROR_INJECTION CONFIG_BPF_KPROBE_OVERRIDE CONFIG_NET CONFIG_XDP_SOCKETS
	CONFIG_LWTUNNEL_BPF CONFIG_NET_ACT_BPF CONFIG_NET_CLS_BPF CONFIG_NET_CLS_ACT CONFIG_NET_SCH_INGRESS CONFIG_XFRM
	CONFIG_IP_ROUTE_CLASSID CONFIG_IPV6_SEG6_BPF CONFIG_BPF_LIRC_MODE2 CONFIG_BPF_STREAM_PARSER
	CONFIG_NETFILTER_XT_MATCH_BPF CONFIG_BPFILTER CONFIG_BPFILTER_UMH CONFIG_TEST_BPF CONFIG_HZ`)

// Configuration gives the options that are on, by name.
func Configuration() (map[string]string, error) { return kconfig.Options() }
