// Package testenv gives tests a machine of their own: a private mount and
// network namespace, an empty bpffs, named network namespaces, veth pairs,
// and a check that nothing of BPF is left behind.
package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside marks the process that runs in namespaces of its own.
const inside = "L3AF_TEST_INSIDE"

// Shared, when set in the environment, says that others use BPF on this machine
// during the tests: they take no turns, and [Clean] only looks for descriptors.
const Shared = "L3AF_TEST_SHARED"

type runner interface{ Run() int }

type wrapped struct{ m runner }

// Wrap makes m run in a mount and network namespace of its own, where /run is
// empty and /sys/fs/bpf is a new bpffs. Packages that use it run one after
// another, machine-wide, so that [Clean] can tell whose objects are left.
// Without root it runs m as it is, and [Root] skips.
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }
func Wrap(m runner) runner { return wrapped{m} }

func (w wrapped) Run() int {
	if os.Getenv(inside) != "" || os.Geteuid() != 0 || fuzzing() {
		return w.m.Run()
	}
	code, err := isolate()
	if err != nil {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, "testenv: cannot make namespaces:", err)
			return 1
		}
		return w.m.Run()
	}
	return code
}

func fuzzing() bool {
	return slices.ContainsFunc(os.Args[1:], func(a string) bool {
		return strings.HasPrefix(a, "-test.fuzz=") || strings.HasPrefix(a, "-test.fuzzworker")
	})
}

// isolate runs this binary again in its own namespaces and returns its exit code.
func isolate() (int, error) {
	if os.Getenv(Shared) == "" {
		lock, err := os.OpenFile(filepath.Join(os.TempDir(), "l3af-test.lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, err
		}
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			return 0, fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
	}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), inside+"=1")}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	// The child is told by the terminal or by the signal we pass on; go test
	// sends SIGQUIT at its time limit to see the stacks.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

func init() {
	if os.Getenv(inside) != "1" {
		return
	}
	// Set for children too, which must not mount again.
	os.Setenv(inside, "2")
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		os.Exit(1)
	}
}

func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs on /run: %w", err)
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount bpffs on /sys/fs/bpf: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Root skips a test that needs root and namespaces where there are none. With
// CI=true it fails instead: there the tests must run.
func Root(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) != "" {
		return
	}
	const why = "needs root and namespaces of its own (run as root; TestMain must use testenv.Wrap)"
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Tool skips a test that uses an outside tool as its witness where the tool is
// missing. With CI=true it fails instead.
func Tool(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err == nil {
		return p
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
	return ""
}

// Bpffs mounts a new bpffs in a temporary directory for the length of the test.
func Bpffs(t testing.TB) string {
	t.Helper()
	Root(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs on %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// Tracefs mounts tracefs for the length of the test unless it is mounted.
func Tracefs(t testing.TB) {
	t.Helper()
	Root(t)
	const dir = "/sys/kernel/tracing"
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil && fs.Type == unix.TRACEFS_MAGIC {
		return
	}
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		t.Fatalf("mount tracefs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// Cgroup makes a cgroup (version 2) for the length of the test and returns its
// directory.
func Cgroup(t testing.TB) string {
	t.Helper()
	Root(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			dir, err := os.MkdirTemp(f[1], "l3af-test-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			})
			return dir
		}
	}
	t.Fatal("no cgroup2 is mounted")
	return ""
}
