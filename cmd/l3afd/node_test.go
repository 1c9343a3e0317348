package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"l3af"
	"l3af/client"
	"l3af/internal/doc"
	"l3af/internal/testenv"
)

var raced = flag.Bool("l3afd.race", false, "run the binaries with the race detector, which needs cgo; what it finds ends them")

func TestMain(m *testing.M) {
	code := testenv.Wrap(m).Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// built are the binaries, made once for all tests and the way they are
// shipped.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// executable builds l3af and l3afd, static unless the race detector is wanted,
// and returns the path of one of them.
func executable(t testing.TB, name string) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "l3af-bin-"); built.err != nil {
			return
		}
		// Not only for root.
		if built.err = os.Chmod(built.dir, 0o755); built.err != nil {
			return
		}
		args, cgo := []string{"build", "-buildvcs=false", "-o", built.dir + "/"}, "CGO_ENABLED=0"
		if *raced {
			args, cgo = append(args, "-race"), "CGO_ENABLED=1"
			os.Setenv("GORACE", "halt_on_error=1")
		}
		cmd := exec.Command("go", append(args, "l3af/cmd/l3af", "l3af/cmd/l3afd")...)
		cmd.Env = append(os.Environ(), cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("build the binaries: %v", built.err)
	}
	return filepath.Join(built.dir, name)
}

// node is an l3afd with directories of its own.
type node struct {
	testing.TB
	*client.Client
	dir, bpffs string
	path       string // of l3afd; "": it is built
	cmd        *exec.Cmd
	ended      chan struct{}
	log        *os.File
	netns      string   // that it runs in; "": the test's
	more       []string // flags
}

// newNode makes the place of a node; start starts it.
func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{TB: t, dir: t.TempDir(), bpffs: filepath.Join(testenv.Bpffs(t), "l3af")}
	n.Client = &client.Client{Socket: filepath.Join(n.dir, "l3afd.sock")}
	log, err := os.Create(filepath.Join(n.dir, "l3afd.log"))
	if err != nil {
		t.Fatal(err)
	}
	n.log = log
	t.Cleanup(func() {
		n.kill()
		testenv.EndBelow(t, n.dir)
		log.Close()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("l3afd says:\n%s", text[max(0, len(text)-8000):])
		}
	})
	return n
}

func (n *node) flags(more ...string) []string {
	return append([]string{"-socket", n.Socket, "-state-dir", filepath.Join(n.dir, "state"), "-bpffs", n.bpffs}, more...)
}

// start starts the daemon and waits until it answers.
func (n *node) start() {
	n.Helper()
	path := n.path
	if path == "" {
		path = executable(n.TB, "l3afd")
	}
	n.cmd = exec.Command(path, n.flags(n.more...)...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	testenv.In(n.TB, n.netns, func() {
		if err := n.cmd.Start(); err != nil {
			n.Fatal(err)
		}
	})
	n.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(n.cmd, n.ended)
	n.until("l3afd answers", func() error {
		select {
		case <-n.ended:
			n.Fatal("l3afd ended at its start")
		default:
		}
		_, err := n.Status(context.Background())
		return err
	})
}

// kill ends the daemon as kill -9 does.
func (n *node) kill() { n.end(syscall.SIGKILL) }

// stop ends the daemon as a service manager does.
func (n *node) stop() {
	n.Helper()
	n.end(syscall.SIGTERM)
}

func (n *node) end(s syscall.Signal) {
	n.Helper()
	if n.cmd == nil {
		return
	}
	if err := n.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.Errorf("signal l3afd: %v", err)
	}
	select {
	case <-n.ended:
	case <-time.After(20 * time.Second):
		_ = n.cmd.Process.Kill()
		n.Errorf("l3afd does not end on %s", s)
		<-n.ended
	}
	if code := n.cmd.ProcessState.ExitCode(); s == syscall.SIGTERM && code != 0 {
		n.Errorf("l3afd ended with code %d", code)
	}
	n.cmd = nil
}

// pid is the process that has the state directory.
func (n *node) pid() int {
	text, _ := os.ReadFile(filepath.Join(n.dir, "state", "lock"))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// lives reports whether a process runs our program; a pid alone may be
// another's by now.
func (n *node) lives(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(text), n.dir)
}

// changes waits until another process than old has the state directory.
func (n *node) changes(old int) int {
	n.Helper()
	n.until("another l3afd works", func() error {
		if pid := n.pid(); pid == old || pid == 0 || n.lives(old) {
			return fmt.Errorf("process %d has the state directory", pid)
		}
		return nil
	})
	return n.pid()
}

// until waits until f says nil.
func (n *node) until(what string, f func() error) {
	n.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.Fatalf("not true in time: %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// l3af runs the command line and returns what it printed.
func (n *node) l3af(stdin string, args ...string) (string, error) {
	n.Helper()
	cmd := exec.Command(executable(n.TB, "l3af"), append([]string{"--socket", n.Socket}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("l3af %s: %w\n%s", strings.Join(args, " "), err, &errs)
	}
	return string(out), err
}

// apply applies a document, through the command line, and wants all of it to
// work.
func (n *node) apply(document string) {
	n.Helper()
	if _, err := n.l3af(document, "apply", "-f", "-"); err != nil {
		n.Fatal(err)
	}
}

// chain is the status of the one chain of an interface and hook.
func (n *node) chain(name string, kind l3af.HookKind) l3af.ChainStatus {
	n.Helper()
	st, err := n.Status(context.Background())
	if err != nil {
		n.Fatal(err)
	}
	for _, c := range st.Chains {
		if c.Interface == name && c.Hook == kind {
			return c
		}
	}
	n.Fatalf("status has no %s/%s: %+v", kind, name, st)
	return l3af.ChainStatus{}
}

// settled waits until nothing is left to do, and checks it: every chain and
// probe runs, and the current state again would change nothing.
func (n *node) settled() *l3af.Status {
	n.Helper()
	return n.settledOr(l3af.Running)
}

// settledOr is settled, where chains may have another state as well.
func (n *node) settledOr(state string) *l3af.Status {
	n.Helper()
	var st *l3af.Status
	n.until("everything runs as wanted", func() error {
		ctx := context.Background()
		r, err := n.State(ctx)
		if errors.Is(err, l3af.ErrNotFound) {
			st, err = n.Status(ctx)
			return err
		}
		if err != nil {
			return err
		}
		plan, err := n.Plan(ctx, &r.State)
		if err != nil {
			return err
		}
		if plan.Changed || len(plan.Steps) > 0 {
			return fmt.Errorf("left to do: %+v", plan)
		}
		if st, err = n.Status(ctx); err != nil {
			return err
		}
		for _, c := range st.Chains {
			if c.State != l3af.Running && c.State != state {
				return fmt.Errorf("%s: %s %s", c.Interface, c.State, c.Error)
			}
		}
		if len(st.Errors) > 0 {
			return errors.New(strings.Join(st.Errors, "; "))
		}
		return err
	})
	return st
}

// pins lists what is pinned, by the path below the bpffs directory.
func (n *node) pins() []string {
	n.Helper()
	var found []string
	err := filepath.WalkDir(n.bpffs, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == n.bpffs {
			return err
		}
		rel, err := filepath.Rel(n.bpffs, p)
		found = append(found, rel)
		return err
	})
	if err != nil {
		n.Fatal(err)
	}
	return found
}

// state reads a document.
func state(t testing.TB, document string) *l3af.State {
	t.Helper()
	tree, err := doc.Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	s, err := l3af.ParseState(tree)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wire joins the namespaces rx and tx by a veth pair named v0 at both ends.
func wire(t testing.TB) {
	t.Helper()
	testenv.Netns(t, "rx")
	testenv.Netns(t, "tx")
	testenv.Veth(t,
		testenv.End{Netns: "rx", Name: "v0", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}},
		testenv.End{Netns: "tx", Name: "v0", Addrs: []string{"192.0.2.2/24", "192.0.2.66/24", "2001:db8::2/64", "2001:db8::66/64"}})
}
