package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"l3af"
	"l3af/internal/testenv"
)

// heir is a node whose daemon is started by a path of its own, so that
// something else can be there when it hands over.
type heir struct {
	*node
	path string
}

func newHeir(t testing.TB, flags ...string) *heir {
	t.Helper()
	h := &heir{newNode(t), ""}
	h.path = filepath.Join(h.dir, "l3afd")
	h.put("")
	h.node.path, h.more = h.path, flags
	t.Cleanup(func() {
		if pid := h.pid(); pid > 0 && h.lives(pid) {
			h.signal(pid, syscall.SIGKILL)
		}
	})
	return h
}

// put puts a script in the place of the daemon's program; "": the program.
// REAL in it is the program.
func (h *heir) put(script string) {
	h.Helper()
	os.Remove(h.path)
	var err error
	if script == "" {
		err = os.Symlink(executable(h.TB, "l3afd"), h.path)
	} else {
		text := "#!/bin/sh\n" + strings.ReplaceAll(script, "REAL", executable(h.TB, "l3afd")) + "\n"
		err = os.WriteFile(h.path, []byte(text), 0o755)
	}
	if err != nil {
		h.Fatal(err)
	}
}

// pid is the process that has the state directory.
func (h *heir) pid() int {
	text, _ := os.ReadFile(filepath.Join(h.dir, "state", "lock"))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// lives reports whether a process runs our program; a pid alone may be
// another's by now.
func (h *heir) lives(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(text), h.dir)
}

func (h *heir) signal(pid int, s syscall.Signal) {
	h.Helper()
	if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		h.Error(err)
	}
}

func (h *heir) said() string {
	text, err := os.ReadFile(h.log.Name())
	if err != nil {
		h.Fatal(err)
	}
	return string(text)
}

// changes waits until another process than old has the state directory.
func (h *heir) changes(old int) int {
	h.Helper()
	h.until("another l3afd works", func() error {
		if pid := h.pid(); pid == old || pid == 0 || h.lives(old) {
			return fmt.Errorf("process %d has the state directory", pid)
		}
		return nil
	})
	return h.pid()
}

// event waits for an event that holds a text. The daemon that ends ends its
// streams.
func (h *heir) event(text string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	found := errors.New("found")
	for {
		err := h.Events(ctx, func(e l3af.Event) error {
			if strings.Contains(e.Message, text) {
				return found
			}
			return nil
		})
		if errors.Is(err, found) {
			return
		}
		if ctx.Err() != nil {
			h.Fatalf("no event %q: %v", text, err)
		}
	}
}

// callers ask and change the node all the time, each on a connection of its
// own. end returns how many answers there were and the errors.
func (h *heir) callers() (end func() (int, []error)) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var answers atomic.Int64
	var mu sync.Mutex
	var errs []error
	base := state(h.TB, full)
	call := func(f func(i int) error) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				busy := (*l3af.ConflictError)(nil)
				if err := f(i); err != nil && !errors.As(err, &busy) {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
				answers.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	for range 2 {
		call(func(int) error {
			_, err := h.Status(context.Background())
			return err
		})
	}
	call(func(i int) error {
		s := *base
		s.Chains = append([]l3af.Chain{}, base.Chains...)
		limit := &s.Chains[0].Programs[1]
		limit.Config = map[string]any{"rate": json.Number(strconv.Itoa(1_000_000 + i%2)), "burst": json.Number("1000000")}
		_, err := h.Apply(context.Background(), &s, -1)
		return err
	})
	return func() (int, []error) {
		close(stop)
		wg.Wait()
		return int(answers.Load()), errs
	}
}

// One daemon after the other takes over, under traffic and with clients that
// ask and change: no packet and no request is lost, what runs runs on, and what
// was counted is.
func TestHandover(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	h := newHeir(t)
	h.start()
	good, bad := newStream(t, "192.0.2.2", "192.0.2.1"), newStream(t, "192.0.2.66", "192.0.2.1")
	good.carries(10, true)
	h.apply(full)
	before := h.chain("v0", l3af.XDP)
	noRoom := dropped(t)
	w := watch(t)
	good.flow(2)
	bad.flow(1)

	pid := h.pid()
	for range 2 { // nothing but the handover
		h.signal(pid, syscall.SIGHUP)
		pid = h.changes(pid)
		h.settled()
		h.event(fmt.Sprintf("took over as process %d", pid))
		now := h.chain("v0", l3af.XDP)
		if now.ProgramID != before.ProgramID || now.LinkID != before.LinkID || now.Programs[0].Packets < before.Programs[0].Packets {
			t.Errorf("was %+v, is %+v", before, now)
		}
		before = now
	}
	end := h.callers()
	for range 4 {
		h.signal(pid, syscall.SIGHUP)
		pid = h.changes(pid)
	}
	answers, errs := end()
	for _, err := range errs {
		t.Errorf("a request was lost: %v", err)
	}
	h.settled()
	good.halt()
	bad.halt()
	w.end()
	if w.err != nil || w.bare > 0 {
		t.Errorf("%d of %d looks found no chain, %v", w.bare, w.looks, w.err)
	}
	if got := good.arrived() + dropped(t) - noRoom; got < good.sent.Load() || good.twice > 0 {
		t.Errorf("%d of %d packets were lost, %d came twice", good.sent.Load()-got, good.sent.Load(), good.twice)
	}
	if bad.arrived() > 0 {
		t.Errorf("%d of %d denied packets came through", bad.arrived(), bad.sent.Load())
	}
	t.Logf("6 handovers, %d packets, %d requests", good.sent.Load()+bad.sent.Load(), answers)

	h.apply("apiVersion: l3af/v1")
	h.signal(pid, syscall.SIGTERM)
	h.until("the last one ends", func() error {
		if h.lives(pid) {
			return errors.New("it lives")
		}
		return nil
	})
	if _, err := os.Stat(h.Socket); err == nil {
		t.Error("its socket is left")
	}
}

// A request that is on its way when the daemon hands over is answered.
func TestHandoverWaitsForRequests(t *testing.T) {
	testenv.Clean(t)
	h := newHeir(t)
	h.start()
	pid := h.pid()
	c, err := net.Dial("unix", h.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := `{"apiVersion": "l3af/v1"}`
	fmt.Fprintf(c, "PUT /v1/state HTTP/1.1\r\nHost: l3afd\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:5])
	h.signal(pid, syscall.SIGHUP)
	h.until("it hands over", func() error {
		if !strings.Contains(h.said(), "handing over") {
			return errors.New("not yet")
		}
		return nil
	})
	time.Sleep(100 * time.Millisecond) // the successor has long greeted it
	if now := h.pid(); now != pid {
		t.Errorf("process %d has taken over before the request was answered", now)
	}
	fmt.Fprint(c, body[5:])
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("answered %s", r.Status)
	}
	h.changes(pid)
	if r, err := h.State(t.Context()); err != nil || r.Number != 1 {
		t.Errorf("the state is %+v, %v", r, err)
	}
}

// What does not become a daemon changes nothing: the old one goes on and says
// why. Afterwards a good one takes over.
func TestHandoverFails(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	h := newHeir(t, "-restart-timeout", "1500ms")
	h.start()
	h.apply(full)
	good := newStream(t, "192.0.2.2", "192.0.2.1")
	good.carries(10, true)
	before := h.chain("v0", l3af.XDP)
	noRoom := dropped(t)
	good.flow(2)
	pid := h.pid()
	for _, c := range []struct{ name, script, why string }{
		{"ends", "exit 7", "ended (exit status 7)"},
		{"is not there", "", "no such file"},
		{"is no program", "\x00", "exec format error"},
		{"may not run", "#", "permission denied"},
		{"hangs", "exec sleep 1000", "not ready in time"},
		{"says something else", "echo ready >&3; exec sleep 1000", `it says "ready", not "hello 1"`},
		{"knows of no handover", "unset L3AFD_HANDOVER; exec REAL \"$@\"", "ended (exit status 1)"},
		{"knows another protocol", `export L3AFD_HANDOVER='{"protocol":9}'; exec REAL "$@"`, "ended (exit status 1)"},
		{"works elsewhere", `exec REAL "$@" -state-dir "$0.other"`, "ended (exit status 1)"},
		{"hangs when it is its turn", "echo hello 1 >&3; read go <&3; exec sleep 1000", "not ready in time"},
		{"is killed when it is its turn", "echo hello 1 >&3; read go <&3; kill -9 $$", "ended (signal: killed)"},
		{"is ready and gone", "echo hello 1 >&3; read go <&3; exit 0", "ended (exit status 0)"},
	} {
		switch c.name {
		case "is not there":
			os.Remove(h.path)
		case "is no program":
			os.Remove(h.path)
			if err := os.WriteFile(h.path, []byte(c.script), 0o755); err != nil {
				t.Fatal(err)
			}
		default:
			h.put(c.script)
		}
		if c.name == "may not run" {
			if err := os.Chmod(h.path, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		already := len(h.said())
		h.signal(pid, syscall.SIGHUP)
		h.until(c.name+": it says why", func() error {
			if said := h.said()[already:]; !strings.Contains(said, "the handover failed; this l3afd goes on") || !strings.Contains(strings.ReplaceAll(said, `\"`, `"`), c.why) {
				return fmt.Errorf("no %q in\n%s", c.why, said)
			}
			return nil
		})
		h.event("handover to " + h.path + " failed")
		h.settled()
		if now := h.chain("v0", l3af.XDP); h.pid() != pid || now.ProgramID != before.ProgramID || now.LinkID != before.LinkID {
			t.Errorf("%s: process %d was %d, chain %+v", c.name, h.pid(), pid, now)
		}
		if t.Failed() {
			t.Fatal(c.name)
		}
	}
	h.put("")
	h.signal(pid, syscall.SIGHUP)
	h.changes(pid)
	h.settled()
	good.halt()
	if got := good.arrived() + dropped(t) - noRoom; got < good.sent.Load() {
		t.Errorf("%d of %d packets were lost", good.sent.Load()-got, good.sent.Load())
	}
	h.apply("apiVersion: l3af/v1")
}

// The old daemon is killed in the middle: the new one goes on alone.
func TestHandoverOldIsKilled(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	for _, script := range []string{
		"kill -9 $PPID; exec REAL \"$@\"",
		"echo hello 1 >&3; read go <&3; kill -9 $PPID; exec REAL \"$@\"",
	} {
		h := newHeir(t)
		h.start()
		h.apply(full)
		before, pid := h.chain("v0", l3af.XDP), h.pid()
		h.put(script)
		h.signal(pid, syscall.SIGHUP)
		h.changes(pid)
		h.settled()
		if now := h.chain("v0", l3af.XDP); now.ProgramID != before.ProgramID || now.LinkID != before.LinkID {
			t.Errorf("was %+v, is %+v", before, now)
		}
		h.apply("apiVersion: l3af/v1")
	}
}

// The next daemon reads its settings anew: addresses that are left are not
// listened on any more, new ones are, and mistakes change nothing. The service
// manager learns who the daemon is, and so does the pid file.
func TestHandoverSettings(t *testing.T) {
	testenv.Clean(t)
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@l3af-handover-" + strconv.Itoa(os.Getpid()), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", manager.LocalAddr().String())
	said := func(want ...string) {
		t.Helper()
		for _, w := range want {
			buf := make([]byte, 200)
			manager.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, err := manager.Read(buf)
			if err != nil || !strings.HasPrefix(string(buf[:n]), w) {
				t.Fatalf("said %q, %v, want %q", buf[:n], err, w)
			}
		}
	}
	var addrs [3]string // that nobody has
	var free []net.Listener
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = l.Addr().String()
		free = append(free, l)
	}
	for _, l := range free {
		l.Close()
	}
	config := filepath.Join(t.TempDir(), "l3afd.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	answers := func(addr string, want bool) {
		t.Helper()
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		r, err := c.Get("http://" + addr + "/healthz")
		if err == nil {
			r.Body.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	write("listen: " + addrs[0] + "\nmetrics-listen: " + addrs[1])
	h := newHeir(t, "-config", config, "-pid-file", pidFile)
	h.start()
	said("READY=1")
	pid := h.pid()
	isIn := func() {
		t.Helper()
		if text, err := os.ReadFile(pidFile); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(pid) {
			t.Errorf("the pid file has %q, %v, want %d", text, err, pid)
		}
	}
	isIn()
	answers(addrs[0], true)

	write("lisen: " + addrs[2])
	h.signal(pid, syscall.SIGHUP)
	said("RELOADING=1\nMONOTONIC_USEC=", "READY=1")
	isIn()
	answers(addrs[0], true)

	write("listen: " + addrs[2] + "\nmetrics-listen: " + addrs[1])
	h.signal(pid, syscall.SIGHUP)
	old := pid
	pid = h.changes(old)
	said("RELOADING=1\nMONOTONIC_USEC=")
	// The old one tells who the new one is, and that one for itself.
	said(fmt.Sprintf("MAINPID=%d\nREADY=1", pid), "READY=1")
	isIn()
	answers(addrs[0], false)
	answers(addrs[1], true)
	answers(addrs[2], true)

	h.signal(pid, syscall.SIGTERM)
	said("STOPPING=1")
	h.until("it ends", func() error {
		if h.lives(pid) {
			return errors.New("it lives")
		}
		return nil
	})
	if _, err := os.Stat(pidFile); err == nil {
		t.Error("the pid file is left")
	}
}

// Agents and probes run on through handovers, also through one that fails when
// the old daemon has stopped already. One that is asked for while an agent
// starts waits for the apply that waits for it.
func TestHandoverKeeps(t *testing.T) {
	testenv.Clean(t)
	h := newHeir(t, "-restart-timeout", "1500ms")
	execs, err := filepath.Abs("../../examples/execs")
	if err != nil {
		t.Fatal(err)
	}
	document := func(programs string) string {
		return "apiVersion: l3af/v1\nprobes: [{name: execs, package: " + execs + ", entry: execs}]\n" +
			"chains:\n- interface: lo\n  hook: xdp\n  programs:\n" + programs
	}
	pack := agentPackage(h.node)
	collected := "  - {name: first, package: " + pack + ", agent: {start: [collect], daemon: true}}\n"
	seeded := "  - {name: second, package: " + pack + ", agent: {start: [seed, '1', '0']}}\n"
	h.start()
	h.apply(document(collected))
	type kept struct {
		agent, restarts int
		probe, link     uint32
	}
	now := func() kept {
		t.Helper()
		st := h.settled()
		a := st.Chains[0].Programs[0].Agent
		if a == nil || len(st.Probes) != 1 || a.State != l3af.Running || st.Probes[0].State != l3af.Running {
			t.Fatalf("%+v", st)
		}
		return kept{a.PID, a.Restarts, st.Probes[0].LinkID, st.Chains[0].LinkID}
	}
	before, pid := now(), h.pid()
	h.signal(pid, syscall.SIGHUP)
	pid = h.changes(pid)
	if got := now(); got != before {
		t.Errorf("was %+v, is %+v", before, got)
	}
	h.put("echo hello 1 >&3; read go <&3; exit 3")
	h.signal(pid, syscall.SIGHUP)
	h.event("ended (exit status 3)")
	if got := now(); got != before || h.pid() != pid {
		t.Errorf("was %+v, is %+v", before, got)
	}
	h.put("")
	applied := make(chan error, 1)
	go func() {
		_, err := h.l3af(document(collected+seeded), "apply", "-f", "-")
		applied <- err
	}()
	h.until("the agent starts", func() error {
		r, err := h.State(t.Context())
		if err == nil && r.Number == 1 {
			err = errors.New("not yet")
		}
		return err
	})
	h.signal(pid, syscall.SIGHUP)
	h.changes(pid)
	if err := <-applied; err != nil {
		t.Error(err)
	}
	if got := now(); got != before || len(h.chain("lo", l3af.XDP).Programs) != 2 {
		t.Errorf("was %+v, is %+v", before, got)
	}
	h.apply("apiVersion: l3af/v1")
	h.until("the agent ends", func() error {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", before.agent)); err == nil {
			return errors.New("it lives")
		}
		return nil
	})
}
