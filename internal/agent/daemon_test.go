package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l3af"
)

// A daemon is kept running, and ended with all that it made.
func TestDaemon(t *testing.T) {
	r := newRig(t)
	p := r.pack(map[string]string{
		"daemon": `echo $$ > $OUT/pid; (setsid sleep 1000 & echo $! > $OUT/child); echo $* >> $OUT/starts; echo hello; ulimit -t >> $OUT/limits; ulimit -v >> $OUT/limits; exec sleep 1000`,
		"deaf":   `trap '' TERM; echo $$ > $OUT/pid; while :; do sleep 0.05; done`,
		"status": `cat $OUT/health`,
		"update": `[ -e $OUT/pid ] || exit 1; echo "$@" >> $OUT/updates`,
		"refuse": `echo "no such option" >&2; exit 1`,
		"stop":   `echo stop >> $OUT/stops`,
	})
	health := func(text string) {
		if err := os.WriteFile(filepath.Join(r.dir, "health"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	health("running\n")
	agent := l3af.Agent{Start: []string{"daemon", "one"}, Daemon: true, CPU: 77, Memory: 1 << 30,
		Stop: []string{"stop"}, Status: []string{"status"}, Update: []string{"update", "a"}}
	if err := r.want(r.spec(p, agent)); err != nil {
		t.Fatal(err)
	}
	pid := func() string { return r.said("pid") }
	r.eventually("it runs", func() bool { return alive(pid()) })
	first := pid()
	if s := r.s.Status("xdp/eth0/p"); s.State != l3af.Running || strconv.Itoa(s.PID) != first || s.Restarts != 0 {
		t.Errorf("status %+v, pid %s", s, first)
	}
	r.eventually("limits", func() bool { return r.said("limits") == "77\n1048576" })
	if got := r.said("updates"); got != "a" {
		t.Errorf("updates: %q", got)
	}
	for name, c := range map[string]func(*l3af.Agent){
		"update": func(a *l3af.Agent) { a.Update = []string{"update", "b"} },
		"stop":   func(a *l3af.Agent) { a.Stop = []string{"stop", "x"} },
	} {
		c(&agent)
		if err := r.want(r.spec(p, agent)); err != nil || pid() != first {
			t.Errorf("another %s: %v, pid %s, was %s", name, err, pid(), first)
		}
	}
	if got := r.said("updates"); got != "a\nb" {
		t.Errorf("updates: %q", got)
	}
	broken := agent
	broken.Update = []string{"refuse"}
	if err := r.want(r.spec(p, broken)); err == nil || err.Error() != "update: exit status 1: no such option" || !alive(first) {
		t.Errorf("an update that fails: %v", err)
	}
	if err := r.want(r.spec(p, agent)); err != nil || pid() != first {
		t.Errorf("the old update again: %v", err)
	}

	// Killed by somebody, and all that it made with it.
	child := r.said("child")
	kill := func(pid string) {
		n, err := strconv.Atoi(pid)
		if err == nil {
			err = unix.Kill(n, unix.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	kill(first)
	r.eventually("started again", func() bool { return pid() != first && alive(pid()) })
	if r.s.cgroups != "" && alive(child) {
		t.Errorf("what the first one made, pid %s, is there", child)
	}
	r.eventually("told so", func() bool {
		s := r.s.Status("xdp/eth0/p")
		return s.State == l3af.Running && s.Restarts == 1 && s.Error == "signal: killed: hello"
	})
	r.eventually("updated as before", func() bool { return r.said("updates") == "a\nb\nb" })
	// It says itself that it is not well.
	second := pid()
	health("DOWN")
	r.eventually("not RUNNING", func() bool { return r.events(`ended: status: it says "DOWN", not RUNNING`) > 0 })
	health("RUNNING")
	again := func() bool { // and updated
		s := r.s.Status("xdp/eth0/p")
		return s.State == l3af.Running && strconv.Itoa(s.PID) == pid()
	}
	r.eventually("started again", func() bool { return pid() != second && alive(pid()) && !alive(second) && again() })

	// The daemon is gone, and another one comes.
	third := pid()
	restarts := r.s.Status("xdp/eth0/p").Restarts
	r.s.Close()
	if !alive(third) {
		t.Fatal("it ended with its daemon")
	}
	r.open()
	if s := r.s.Status("xdp/eth0/p"); s.State != l3af.Running || strconv.Itoa(s.PID) != third || s.Restarts != restarts {
		t.Errorf("found again: %+v, was pid %s", s, third)
	}
	if state, _ := r.s.State(r.spec(p, agent)); state != Up {
		t.Errorf("found again: %v", state)
	}
	kill(third)
	r.eventually("started again", func() bool { return pid() != third && alive(pid()) && again() })

	// What it holds open is another one by now.
	fourth := pid()
	finds := func(maps string) *Spec {
		spec := r.spec(p, agent)
		spec.Maps = maps
		return spec
	}
	if r.s.Again(finds("1 2")) {
		t.Error("it was not known what it found, and is started anew")
	}
	r.eventually("on record", func() bool {
		text, err := os.ReadFile(filepath.Join(r.dir, "agents", directory("xdp/eth0/p"), recordName))
		return err == nil && strings.Contains(string(text), `"maps": "1 2"`)
	})
	r.s.Close()
	r.open()
	if r.s.Again(finds("1 2")) || pid() != fourth {
		t.Error("started anew for the same maps")
	}
	if !r.s.Again(finds("1 3")) {
		t.Error("other maps, and it runs on")
	}
	if err := r.want(r.spec(p, agent)); err != nil || alive(fourth) {
		t.Errorf("again: %v, pid %s, was %s", err, pid(), fourth)
	}
	r.eventually("started anew", func() bool { return pid() != fourth && alive(pid()) })
	if r.s.Again(finds("1 3")) {
		t.Error("and again")
	}
	if got := r.said("stops"); got != "stop" {
		t.Errorf("stops: %q", got)
	}

	// Another one in its place fails: the old one comes back.
	fourth = pid()
	worse := agent
	worse.Start = []string{"none"}
	if err := r.want(r.spec(p, worse)); err == nil {
		t.Error("no error")
	}
	r.eventually("back", func() bool { return pid() != fourth && alive(pid()) && !alive(fourth) })
	if got := r.said("stops"); got != "stop\nstop" {
		t.Errorf("stops: %q", got)
	}
	// One that does not heed SIGTERM.
	r.s.opts.Stop = 100 * time.Millisecond
	deaf := l3af.Agent{Start: []string{"deaf"}, Daemon: true}
	if err := r.want(r.spec(p, deaf)); err != nil {
		t.Fatal(err)
	}
	r.eventually("deaf", func() bool {
		return r.s.Status("xdp/eth0/p").State == l3af.Running && strconv.Itoa(r.s.Status("xdp/eth0/p").PID) == pid()
	})
	fifth := pid()
	r.s.Keep(func(string) bool { return false })
	r.eventually("gone", func() bool { return r.s.Status("xdp/eth0/p") == nil })
	if alive(fifth) {
		t.Error("it lives")
	}
}

// A daemon that does not stay is started again and again, less and less often,
// and what it prints does not flood the log.
func TestBackOff(t *testing.T) {
	r := newRig(t)
	p := r.pack(map[string]string{
		"crash":  `echo x >> $OUT/starts; exit 7`,
		"chatty": `i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo line $i; done; head -c 100000 /dev/zero | tr '\0' x; echo; touch $OUT/done; exec sleep 1000`,
	})
	r.s.opts.Pause = 2 * time.Millisecond
	if err := r.want(r.spec(p, l3af.Agent{Start: []string{"crash"}, Daemon: true})); err != nil {
		t.Fatal(err)
	}
	r.eventually("several starts", func() bool { return strings.Count(r.said("starts"), "x") >= 5 })
	for _, pause := range []string{"2ms", "4ms", "8ms", "16ms"} {
		if r.events("ended: exit status 7; started again in "+pause) != 1 {
			t.Errorf("no pause of %s: %q", pause, r.log)
		}
	}
	var logged counter
	r.s.log = slog.New(slog.NewTextHandler(&logged, nil))
	r.s.Keep(func(string) bool { return false })
	r.eventually("gone", func() bool { return r.s.Status("xdp/eth0/p") == nil })
	if err := r.want(r.spec(p, l3af.Agent{Start: []string{"chatty"}, Daemon: true})); err != nil {
		t.Fatal(err)
	}
	r.eventually("all is read", func() bool {
		return r.said("done") == "" && len(r.list(".")) > 0 && exists(filepath.Join(r.dir, "done"))
	})
	r.s.Close()
	r.open()
	logged.mu.Lock()
	defer logged.mu.Unlock()
	if logged.lines > burst+10*perSecond || logged.longest > 2*maxLine {
		t.Errorf("%d lines, the longest has %d bytes", logged.lines, logged.longest)
	}
}
