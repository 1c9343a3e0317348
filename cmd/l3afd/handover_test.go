package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"l3af"
	"l3af/internal/testenv"
)

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

// Who follows events is told each once, through handovers, one that fails, a stop
// and a kill -9.
func TestHandoverEvents(t *testing.T) {
	testenv.Clean(t)
	h := newHeir(t, "-restart-timeout", "1500ms")
	h.start()
	var mu sync.Mutex
	var told []l3af.Event
	ctx, end := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() {
		followed <- h.Follow(ctx, time.Minute, func(e l3af.Event) error {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, e)
			return nil
		})
	}()
	count := func(text string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range told {
			if strings.HasPrefix(e.Message, text) {
				n++
			}
		}
		return n
	}
	hears := func(text string, times int) {
		t.Helper()
		h.until(text, func() error {
			if n := count(text); n != times {
				return fmt.Errorf("told %d times, not %d", n, times)
			}
			return nil
		})
	}
	applied := 0
	apply := func() {
		t.Helper()
		applied++
		h.apply(fmt.Sprintf("apiVersion: l3af/v1\nchains: [{interface: lo, hook: xdp, programs: [{name: p%d, package: 'builtin:stats'}]}]", applied))
	}
	pid := h.pid()
	for i := range 3 {
		apply()
		h.signal(pid, syscall.SIGHUP)
		apply()
		pid = h.changes(pid)
		apply()
		hears("l3afd devel took over as", i+1)
	}
	h.put("echo hello 1 >&3; read go <&3; exit 3")
	h.signal(pid, syscall.SIGHUP)
	apply()
	hears("handover to", 1)
	h.put("")
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		apply()
		if s == syscall.SIGKILL {
			hears("applied by", applied) // a daemon that is killed tells no more
		}
		h.signal(pid, s)
		h.until("it ends", func() error {
			if h.lives(pid) {
				return errors.New("it lives")
			}
			return nil
		})
		h.start()
		pid = h.pid()
		apply()
	}
	hears("applied by", applied)
	end()
	if err := <-followed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ids, revision := map[string]bool{}, 0
	for _, e := range told {
		if ids[e.ID] {
			t.Errorf("told twice: %+v", e)
		}
		ids[e.ID] = true
		if e.Kind == "applied" {
			if revision++; e.Revision != revision {
				t.Errorf("%+v, want revision %d", e, revision)
			}
		}
	}
	h.apply("apiVersion: l3af/v1")
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
