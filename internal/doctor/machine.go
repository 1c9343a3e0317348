package doctor

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"l3af/client"
	"l3af/internal/feature"
	"l3af/internal/inspect"
)

// Versions of Linux, as KERNEL_VERSION of linux/version.h.
const (
	linux5_11 = 5<<16 | 11<<8 // memory of maps is charged to the cgroup, not to RLIMIT_MEMLOCK
	linux5_16 = 5<<16 | 16<<8
	linux6_6  = 6<<16 | 6<<8 // TCX
)

func (e *examination) kernel(context.Context) {
	var name unix.Utsname
	_ = unix.Uname(&name)
	release := unix.ByteSliceToString(name.Release[:])
	version, err := features.LinuxVersionCode()
	switch {
	case err != nil:
		e.say(Warning, "", "the version of this kernel is unknown: %v", err)
	case version < linux5_16:
		e.say(Problem, "use Linux 6.6 or later", "Linux %s is too old for l3af", release)
	case version < linux6_6:
		e.say(Warning, "use Linux 6.6 or later for tc-ingress and tc-egress", "Linux %s has no TCX: only XDP and probes work", release)
	default:
		e.say(OK, "", "Linux %s", release)
	}
	if os.Geteuid() != 0 {
		e.say(Warning, "run l3af doctor as root", "without root most of what follows cannot be looked at")
		return
	}
	for _, t := range []struct {
		of   ebpf.ProgramType
		what string
	}{{ebpf.XDP, "XDP"}, {ebpf.SchedCLS, "TC"}, {ebpf.TracePoint, "tracepoint"}} {
		switch a := feature.ProgramType(t.of); {
		case !a.Known && errors.Is(a.Why, unix.EPERM):
			e.say(Problem, "give the process CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or CAP_SYS_ADMIN)", "%s programs may not be loaded: %v", t.what, a.Why)
		case !a.Known:
			e.say(Warning, "", "whether %s programs can be loaded is inconclusive: %v", t.what, a.Why)
		case !a.Yes:
			e.say(Problem, "use a kernel built with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS", "this kernel has no %s programs", t.what)
		}
	}
	if a := feature.MapType(ebpf.RingBuf); a.Known && !a.Yes {
		e.say(Warning, "", "this kernel has no ring buffers")
	}
	if _, err := btf.LoadKernelSpec(); err != nil {
		e.say(Warning, "use a kernel built with CONFIG_DEBUG_INFO_BTF", "the kernel's types are not to be had, so that programs with CO-RE relocations cannot be loaded: %v", err)
	}
	sysctl := func(name string) (int64, bool) {
		for _, s := range feature.Sysctls {
			if s.Name == name {
				n, err := feature.Sysctl(s.Path)
				return n, err == nil
			}
		}
		return 0, false
	}
	if n, ok := sysctl("bpf_jit_enable"); ok && n == 0 {
		e.say(Warning, "sysctl -w net.core.bpf_jit_enable=1", "programs are interpreted, many times as slowly as machine code")
	}
	if n, ok := sysctl("bpf_jit_harden"); ok && n == 2 {
		e.say(Note, "sysctl -w net.core.bpf_jit_harden=1", "machine code is hardened for root too: constants are blinded, and programs are slower")
	}
	if n, ok := sysctl("unprivileged_bpf_disabled"); ok && n == 0 {
		e.say(Warning, "sysctl -w kernel.unprivileged_bpf_disabled=2", "every user may load programs")
	}
	if n, err := feature.Sysctl("/proc/sys/kernel/bpf_stats_enabled"); err == nil && n != 0 {
		e.say(Warning, "sysctl -w kernel.bpf_stats_enabled=0", "run-time statistics are on for good: each run of each program costs about 75 ns more")
	}
}

// limits looks at what is bounded for the daemon, or, where it does not run on
// this machine, for this process, whose limits it would have.
func (e *examination) limits(context.Context) {
	version, _ := features.LinuxVersionCode()
	whose, pid := "a command of this shell", 0
	if listener := e.listener(); listener > 0 {
		whose, pid = "l3afd", listener
	}
	var files, locked unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &files); err == nil && files.Cur < 1024 {
		e.say(Warning, "ulimit -n 65536, LimitNOFILE= of a systemd unit", "%s may open only %d files: a chain of many programs and maps needs more while it is loaded", whose, files.Cur)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_MEMLOCK, nil, &locked); err == nil && version < linux5_11 && locked.Cur != unix.RLIM_INFINITY {
		e.say(Warning, "ulimit -l unlimited, LimitMEMLOCK=infinity of a systemd unit", "%s may lock only %d bytes, which this kernel counts maps and programs against", whose, locked.Cur)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/var/lib", &fs); err == nil && fs.Blocks > 0 && fs.Bavail*uint64(fs.Bsize) < 64<<20 {
		e.say(Warning, "make room on it", "the file system of /var/lib has less than 64 MiB left: revisions and packages are kept there")
	}
}

// listener is the process that listens at the daemon's socket, 0 where none is
// found. The socket would only tell who began to: daemons hand it on.
func (e *examination) listener() int {
	if e.Client.Server != "" {
		return 0
	}
	socket := cmp.Or(e.Client.Socket, client.DefaultSocket)
	// The first thread of the process, whose /proc/net is, may be in any namespace.
	sockets, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(sockets)) {
		// Num RefCount Protocol Flags Type St Inode Path; the flag is __SO_ACCEPTCON.
		f := strings.Fields(line)
		if len(f) != 8 || f[3] != "00010000" || f[7] != socket {
			continue
		}
		open, _ := filepath.Glob("/proc/[0-9]*/fd/*")
		for _, fd := range open {
			if to, err := os.Readlink(fd); err == nil && to == "socket:["+f[6]+"]" {
				pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
				return pid
			}
		}
	}
	return 0
}

func (e *examination) mounts(context.Context) {
	on := func(dir string, magic int64) bool {
		var fs unix.Statfs_t
		return unix.Statfs(dir, &fs) == nil && fs.Type == magic
	}
	dir := e.Bpffs
	for ; !exists(dir) && dir != "/"; dir = filepath.Dir(dir) {
	}
	if !on(dir, unix.BPF_FS_MAGIC) {
		e.say(Note, "l3afd mounts it at its start, or: mount -t bpf bpf /sys/fs/bpf", "bpffs is not mounted for %s", e.Bpffs)
	} else if places, err := inspect.Mounts("bpf"); err == nil && len(places) > 1 {
		e.say(Note, "", "bpffs is mounted at %s: pins in one are not in the others", strings.Join(places, ", "))
	}
	if !on("/sys/kernel/tracing", unix.TRACEFS_MAGIC) && !on("/sys/kernel/debug/tracing", unix.TRACEFS_MAGIC) {
		e.say(Note, "l3afd mounts it for the first probe, or: mount -t tracefs tracefs /sys/kernel/tracing", "tracefs is not mounted")
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
