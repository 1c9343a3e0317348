package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/artifact"
)

// A daemon that the test starts, and that kills itself between two changes.
func init() {
	dir := os.Getenv("L3AF_TEST_CRASH_DIR")
	if dir == "" {
		return
	}
	left, err := strconv.Atoi(os.Getenv("L3AF_TEST_CRASH_AFTER"))
	if err != nil {
		panic(err)
	}
	if err := lives(dir, left); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func crashOptions(dir string) Options {
	return Options{Dir: filepath.Join(dir, "agents"), Pause: 10 * time.Millisecond, Stop: 2 * time.Second}
}

// crashSpec is one of two agents that take each other's place.
func crashSpec(dir, name string) *Spec {
	open := func() (*artifact.Package, error) { return artifact.Open(filepath.Join(dir, "package")) }
	return &Spec{Key: "k", Digest: "x", Open: open, Agent: l3af.Agent{
		Start: []string{"daemon", name}, Stop: []string{"stop"}, Update: []string{"update"}, Daemon: true,
	}}
}

// lives is a daemon's life: an agent, another in its place, none.
func lives(dir string, left int) error {
	opts := crashOptions(dir)
	opts.point = func(string) {
		if left == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		left--
	}
	s, err := Open(opts)
	if err != nil {
		return err
	}
	for _, name := range []string{"first", "second"} {
		spec := crashSpec(dir, name)
		s.Want(spec)
		if err := s.Wait(context.Background(), []*Spec{spec}); err != nil {
			return err
		}
		if state, err := s.State(spec); state != Up {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	s.Keep(func(string) bool { return false })
	for s.Status("k") != nil {
		time.Sleep(time.Millisecond)
	}
	return s.Close()
}

// Killed between any two changes, a daemon leaves nothing that the next one
// does not find: there is one agent in the end, or none.
func TestCrashEverywhere(t *testing.T) {
	crashes := 0
	for after, done := 0, false; !done; after++ {
		r := newRig(t)
		write := func(name, text string) {
			path := filepath.Join(r.dir, "package", name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o700)); err != nil {
				t.Fatal(err)
			}
		}
		write("package.yaml", "apiVersion: l3af/v1\nname: p\nprograms: [{entry: e, object: e.o, hook: xdp}]\nfiles: [daemon, stop, update]\n")
		write("e.o", "")
		write("daemon", "#!/bin/sh\necho $$ $1 >> "+r.dir+"/pids\nexec sleep 1000\n")
		write("stop", "#!/bin/sh\n")
		write("update", "#!/bin/sh\n")
		r.s.Close()

		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "L3AF_TEST_CRASH_DIR="+r.dir, fmt.Sprintf("L3AF_TEST_CRASH_AFTER=%d", after))
		out, err := cmd.CombinedOutput()
		exit := (*exec.ExitError)(nil)
		if done = err == nil; !done && (!errors.As(err, &exit) || exit.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() == false) {
			t.Fatalf("after %d changes: %v: %s", after, err, out)
		}
		running := func() (list []string) {
			for line := range strings.Lines(r.said("pids")) {
				if pid, name, _ := strings.Cut(strings.TrimSpace(line), " "); alive(pid) {
					list = append(list, name)
				}
			}
			return list
		}
		if !done {
			crashes++
		} else if got := running(); len(got) > 0 {
			t.Errorf("without a crash: %q run", got)
		}
		if r.s, err = Open(crashOptions(r.dir)); err != nil {
			t.Fatal(err)
		}
		if err := r.want(crashSpec(r.dir, "second")); err != nil {
			t.Fatalf("after %d changes: %v", after, err)
		}
		r.eventually(fmt.Sprintf("one agent after %d changes", after), func() bool {
			got := running()
			return len(got) == 1 && got[0] == "second"
		})
		r.s.Keep(func(string) bool { return false })
		r.eventually("none", func() bool { return r.s.Status("k") == nil })
		if got, left := running(), r.list("agents"); len(got)+len(left) > 0 {
			t.Errorf("after %d changes: %q run, %q is left", after, got, left)
		}
	}
	if crashes < 12 {
		t.Errorf("%d crashes", crashes)
	}
	t.Logf("%d crashes", crashes)
}
