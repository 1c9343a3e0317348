package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"l3af"
	"l3af/internal/testenv"
)

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
