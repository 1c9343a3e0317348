package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/testenv"
)

// agentPackage makes a package of the program stats with two agents: seed, which
// takes so many seconds and ends with such a status, and collect, a daemon.
func agentPackage(n *node) string {
	n.Helper()
	pack := filepath.Join(n.dir, "pack")
	object, err := os.ReadFile("../../programs/stats/stats.bpf.o")
	if err != nil {
		n.Fatal(err)
	}
	if err := os.Mkdir(pack, 0o700); err != nil {
		n.Fatal(err)
	}
	for name, text := range map[string]string{
		"package.yaml": "apiVersion: l3af/v1\nname: counted\nprograms: [{entry: stats, object: stats.bpf.o, hook: xdp}]\nfiles: [seed, collect]\n",
		"stats.bpf.o":  string(object),
		"seed":         "#!/bin/sh\nsleep $1\nexit $2\n",
		"collect":      "#!/bin/sh\nexec sleep 1000\n",
	} {
		if err := os.WriteFile(filepath.Join(pack, name), []byte(text), 0o700); err != nil {
			n.Fatal(err)
		}
	}
	return pack
}

// Programs with agents, slow, failing and dying, come and go under traffic:
// at all times the rest of the chain sees every packet, and none is lost.
func TestAgentsUnderTraffic(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	n := newHeir(t)
	pack := agentPackage(n.node)
	document := func(programs ...string) string {
		return "apiVersion: l3af/v1\nchains:\n- interface: v0\n  netns: rx\n  hook: xdp\n  programs:\n" + strings.Join(programs, "")
	}
	const acl = "  - {name: acl, package: 'builtin:acl', maps: {deny: [{key: 192.0.2.66, value: 1}]}}\n"
	counted := func(name, agent string) string {
		return fmt.Sprintf("  - {name: %s, package: %s, agent: %s}\n", name, pack, agent)
	}
	const slow, failing, daemon = "{start: [seed, '1', '0']}", "{start: [seed, '0.5', '1']}", "{start: [collect], daemon: true}"

	n.start()
	good, bad := newStream(t, "192.0.2.2", "192.0.2.1"), newStream(t, "192.0.2.66", "192.0.2.1")
	good.carries(10, true)
	n.apply(document(acl))
	noRoom := dropped(t)
	w := watch(t)
	good.flow(5)
	bad.flow(5)
	pid := func() int {
		t.Helper()
		for _, p := range n.chain("v0", l3af.XDP).Programs {
			if p.Agent != nil && p.Agent.State == l3af.Running {
				return p.Agent.PID
			}
		}
		t.Fatalf("no agent runs: %+v", n.chain("v0", l3af.XDP))
		return 0
	}
	n.apply(document(counted("first", slow), acl))
	n.apply(document(counted("first", daemon), acl, counted("last", slow)))
	before := pid()
	if _, err := n.l3af(document(counted("new", failing), counted("first", daemon), acl), "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("a failing agent: %v", err)
	}
	n.apply(document(acl, counted("first", daemon)))
	n.kill()
	n.start()
	n.settled()
	if now := pid(); now != before {
		t.Errorf("after kill -9 the agent is pid %d, was %d", now, before)
	}
	old := n.pid()
	n.signal(old, unix.SIGHUP)
	n.changes(old)
	n.settled()
	if now := pid(); now != before {
		t.Errorf("after a handover the agent is pid %d, was %d", now, before)
	}
	if err := unix.Kill(before, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.until("the agent runs again", func() error {
		for _, p := range n.chain("v0", l3af.XDP).Programs {
			if p.Agent != nil && p.Agent.State == l3af.Running && p.Agent.PID != before && p.Agent.Restarts == 1 {
				return nil
			}
		}
		return fmt.Errorf("%+v", n.chain("v0", l3af.XDP))
	})
	last := pid()
	n.apply(document(acl))
	n.until("the agent is gone", func() error {
		if _, err := os.Stat("/proc/" + strconv.Itoa(last)); err == nil {
			return fmt.Errorf("pid %d is there", last)
		}
		return nil
	})
	good.halt()
	bad.halt()
	w.end()
	if w.err != nil || w.bare > 0 {
		t.Errorf("%d of %d looks found no chain (%v)", w.bare, w.looks, w.err)
	}
	if got := good.arrived() + dropped(t) - noRoom; got < good.sent.Load() {
		t.Errorf("%d of %d packets were lost", good.sent.Load()-got, good.sent.Load())
	}
	if got := bad.arrived(); got > 0 {
		t.Errorf("%d of %d denied packets came through", got, bad.sent.Load())
	}
	t.Logf("%d packets passed, %d were denied; %d looks saw %d programs", good.sent.Load(), bad.sent.Load(), w.looks, len(w.ids))
	n.apply("apiVersion: l3af/v1")
}
