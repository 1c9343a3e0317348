package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"l3af/internal/testenv"
)

func TestPressed(t *testing.T) {
	for sent, want := range map[string]string{
		"q":                  "q",
		"\x1b":               "escape",
		"\x1b[A\x1bOBj":      "up down j",
		"\x1b[5~\x1b[6~":     "pageup pagedown",
		"\x1b[1;5C\x1b[15~x": "x", // keys that mean nothing here
		"\r\x7f\x03":         "enter backspace interrupt",
		"é→":                 "é →",
		"\x1b[":              "",
		"\xff\x00a":          "a",
	} {
		if got := strings.Join(pressed([]byte(sent)), " "); got != want {
			t.Errorf("%q: got %q, want %q", sent, got, want)
		}
	}
}

// On a terminal top is a screen that keys work on, and that is gone in the end.
func TestTopScreen(t *testing.T) {
	testenv.Clean(t)
	tmux := testenv.Tool(t, "tmux")
	loadNamed(t, "on_screen")
	loadNamed(t, "another")           // for the filter to leave out
	exe, err := exec.LookPath("l3af") // as scripts have it
	if err != nil {
		exe = filepath.Join(t.TempDir(), "l3af")
		if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	dir := t.TempDir()
	do := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(tmux, append([]string{"-L", "l3af", "-f", "/dev/null"}, args...)...)
		cmd.Env = append(os.Environ(), "TMUX_TMPDIR="+dir, "LC_ALL=C.UTF-8", "TERM=xterm")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	do("new-session", "-d", "-x", "90", "-y", "20", "echo before; "+exe+" top --interval 100ms; echo ended $?; exec cat")
	defer do("kill-server")
	shows := func(parts ...string) {
		t.Helper()
		var screen string
		for range 200 {
			screen = do("capture-pane", "-p")
			if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(screen, p) }) {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("the screen never showed %q:\n%s", parts, screen)
	}
	shows("RUNS/S", "q quit", " programs, ")
	do("send-keys", "/", "on_s")
	shows("filter: on_s_", "on_screen", " 1 shown")
	do("send-keys", "Enter", "Enter")
	shows("xdp  on_screen", "CPU %: now 0, mean 0")
	do("send-keys", "r")
	do("resize-window", "-x", "60", "-y", "12")
	shows("runs/s: now 0")
	do("send-keys", "q", "q")
	shows("before", "ended 0")
}
