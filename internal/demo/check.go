package demo

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Check says in one message everything that the demo needs and the machine
// does not give. It changes nothing.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, to make network namespaces and to load BPF programs: run it with sudo")
	}
	var missing []string
	if err := canLoad(); err != nil {
		missing = append(missing, fmt.Sprintf("loading an XDP program (needs CAP_BPF and CAP_NET_ADMIN, and a kernel with CONFIG_BPF_SYSCALL): %v", err))
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		missing = append(missing, fmt.Sprintf("the kernel's type information (CONFIG_DEBUG_INFO_BTF): %v", err))
	}
	if err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }); err != nil {
		missing = append(missing, fmt.Sprintf("making a network namespace (needs CAP_SYS_ADMIN, and CONFIG_NET_NS): %v", err))
	} else if err := onThread(canMount); err != nil {
		missing = append(missing, fmt.Sprintf("mounting a BPF file system (needs CAP_SYS_ADMIN): %v", err))
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("this machine does not allow:\n  - %s\nin a container, it must be a privileged one", strings.Join(missing, "\n  - "))
}

func canLoad() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "l3af_check",
		Type:         ebpf.XDP,
		AttachType:   ebpf.AttachXDP,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		return err
	}
	return p.Close()
}

// canMount mounts in a mount namespace of its own, which ends with its thread.
func canMount() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "l3af-check-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		return err
	}
	return unix.Unmount(dir, unix.MNT_DETACH)
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: f changes the thread
		done <- f()
	}()
	return <-done
}
