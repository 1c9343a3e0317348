package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// rig is a supervisor and what it told.
type rig struct {
	*testing.T
	dir string // agents tell here what they do
	s   *Supervisor
	mu  sync.Mutex
	log []string
}

func newRig(t *testing.T) *rig {
	testenv.Root(t)
	r := &rig{T: t, dir: t.TempDir()}
	r.open()
	t.Cleanup(func() {
		r.s.Keep(func(string) bool { return false })
		r.eventually("nothing left", func() bool { return len(r.list("agents")) == 0 })
		r.s.Close()
		if _, err := os.Stat(r.s.cgroups); r.s.cgroups != "" && !os.IsNotExist(err) {
			t.Errorf("cgroup %s is left: %v", r.s.cgroups, err)
		}
	})
	return r
}

func (r *rig) options() Options {
	return Options{
		Dir: filepath.Join(r.dir, "agents"), Log: slog.New(slog.NewTextHandler(r.Output(), nil)),
		Event: func(key, message string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.log = append(r.log, key+": "+message)
		},
		Poll: 50 * time.Millisecond, Start: 5 * time.Second, Stop: 2 * time.Second, Pause: 10 * time.Millisecond,
	}
}

func (r *rig) open() {
	r.Helper()
	s, err := Open(r.options())
	if err != nil {
		r.Fatal(err)
	}
	r.s = s
}

func (r *rig) list(dir string) (names []string) {
	entries, err := os.ReadDir(filepath.Join(r.dir, dir))
	if err != nil && !os.IsNotExist(err) {
		r.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// pack is a package with scripts. $OUT in them is where they tell what they do.
func (r *rig) pack(scripts map[string]string) *artifact.Package {
	r.Helper()
	dir := r.TempDir()
	manifest := "apiVersion: l3af/v1\nname: p\nprograms: [{entry: e, object: e.o, hook: xdp}]\nfiles: [" +
		strings.Join(slices.Sorted(keys(scripts)), ", ") + "]\n"
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			r.Fatal(err)
		}
	}
	write("package.yaml", manifest, 0o644)
	write("e.o", "", 0o644)
	for name, text := range scripts {
		if strings.Contains(name, ".") {
			write(name, text, 0o644)
			continue
		}
		write(name, "#!/bin/sh\nOUT="+r.dir+"\n"+text+"\n", 0o755)
	}
	p, err := artifact.Open(dir)
	if err != nil {
		r.Fatal(err)
	}
	return p
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (r *rig) spec(p *artifact.Package, a l3af.Agent) *Spec {
	return &Spec{Key: "xdp/eth0/p", Agent: a, Digest: p.Digest, Open: func() (*artifact.Package, error) { return p, nil }}
}

// want waits for an agent and says how it came out.
func (r *rig) want(spec *Spec) error {
	r.Helper()
	r.s.Want(spec)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.s.Wait(ctx, []*Spec{spec}); err != nil {
		r.Fatal(err)
	}
	state, err := r.s.State(spec)
	if (state == Up) != (err == nil) {
		r.Fatalf("state %v, %v", state, err)
	}
	return err
}

func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.Fatalf("never: %s; events %q, status %+v", what, r.log, r.s.Status("xdp/eth0/p"))
		}
	}
}

// said is what agents wrote to a file.
func (r *rig) said(name string) string {
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil && !os.IsNotExist(err) {
		r.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func (r *rig) events(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.log {
		if strings.Contains(e, part) {
			n++
		}
	}
	return n
}

func alive(pid string) bool {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return false
	}
	_, err = startTime(n)
	return err == nil
}

// An initialiser that ends with status 0 is done, once; any other end is a
// failure with its cause, and is tried again when it is asked for.
func TestOneShot(t *testing.T) {
	r := newRig(t)
	p := r.pack(map[string]string{
		"ok":        `echo "$@" >> $OUT/args; cat rules.txt sub/x >> $OUT/rules; pwd > $OUT/pwd; env > $OUT/env; echo fine`,
		"bad":       `echo to stdout; echo first >&2; echo the cause >&2; exit 3`,
		"slow":      `echo begun >&2; exec sleep 100`,
		"stop":      `echo "$@" >> $OUT/stopped`,
		"rules.txt": "packaged",
	})
	spec := r.spec(p, l3af.Agent{Start: []string{"ok", "--iface=eth0", "a b", "$HOME"}, Stop: []string{"stop", "now"},
		Files: map[string]string{"rules.txt": "mine ", "sub/x": "other"}})
	if state, err := r.s.State(spec); state != Idle || err != nil {
		t.Errorf("before: %v, %v", state, err)
	}
	if err := r.want(spec); err != nil {
		t.Fatal(err)
	}
	if got := r.said("args"); got != "--iface=eth0 a b $HOME" {
		t.Errorf("arguments: %q", got)
	}
	if got := r.said("rules"); got != "mine other" {
		t.Errorf("files: %q", got)
	}
	where := r.said("pwd")
	if dir := filepath.Join(r.dir, "agents", "xdp%2Feth0%2Fp"); filepath.Dir(where) != dir {
		t.Errorf("runs in %q, want in %s", where, dir)
	}
	for line := range strings.Lines(r.said("env")) {
		if name, _, _ := strings.Cut(line, "="); !slices.Contains([]string{"PATH", "HOME", "PWD", "OUT", "_", "SHLVL", "OLDPWD"}, name) {
			t.Errorf("environment has %q", line)
		}
	}
	if s := r.s.Status(spec.Key); s.State != "done" || s.PID != 0 || s.Error != "" {
		t.Errorf("status %+v", s)
	}
	r.want(spec)
	r.s.Close()
	r.open()
	if state, _ := r.s.State(spec); state != Up {
		t.Errorf("after a restart: %v", state)
	}
	if got := r.said("args"); strings.Count(got, "\n") != 0 {
		t.Errorf("it ran again: %q", got)
	}

	bad := r.spec(p, l3af.Agent{Start: []string{"bad"}})
	if err := r.want(bad); err == nil || err.Error() != "start: exit status 3: first; the cause" {
		t.Errorf("bad: %v", err)
	}
	if state, _ := r.s.State(spec); state != Idle {
		t.Errorf("what was before a failure: %v", state)
	}
	if got := r.said("stopped"); got != "now" {
		t.Errorf("stopped: %q", got)
	}
	// What its Stop took back is done once more.
	r.eventually("done again", func() bool { return strings.Count(r.said("args"), "\n") == 1 && r.s.Status(spec.Key).State == "done" })
	for _, c := range []struct {
		start []string
		want  string
	}{
		{[]string{"none"}, "start: none: no such file or directory"},
		{[]string{"rules.txt"}, "start: rules.txt: not executable"},
		{[]string{"."}, "start: .: not a regular file"},
		{[]string{"../../../../bin/true"}, "start: ../../../../bin/true: not inside the package"},
	} {
		if err := r.want(r.spec(p, l3af.Agent{Start: c.start})); err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, want %s", c.start, err, c.want)
		}
	}
	r.s.opts.Start = 100 * time.Millisecond
	if err := r.want(r.spec(p, l3af.Agent{Start: []string{"slow"}})); err == nil || err.Error() != "start: it has not ended after 100ms: begun" {
		t.Errorf("slow: %v", err)
	}
	r.s.opts.Start = time.Minute
	// Given up while it starts.
	slow := r.spec(p, l3af.Agent{Start: []string{"slow", "again"}})
	r.s.Want(slow)
	r.eventually("starting", func() bool { return r.s.Status(slow.Key).PID != 0 || r.s.Status(slow.Key).State == "starting" })
	if err := r.want(spec); err != nil {
		t.Error(err)
	}
	if err := r.want(bad); err == nil {
		t.Error("bad once more: no error")
	}
	if n := r.events("failed: start: exit status 3"); n != 2 {
		t.Errorf("%d failures were told", n)
	}
}

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

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// counter keeps what is logged.
type counter struct {
	mu             sync.Mutex
	lines, longest int
	text           strings.Builder
}

func (c *counter) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines++
	c.longest = max(c.longest, len(b))
	return c.text.Write(b)
}

// A number that another process has by now is left alone.
func TestWrongProcess(t *testing.T) {
	testenv.Root(t)
	if p := find(os.Getpid(), 1, nil); p != nil {
		t.Error("found a process that began at another time")
	}
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p := find(os.Getpid(), start, nil)
	if p == nil || p.ended() {
		t.Fatal("not found")
	}
	p.release()
	if find(1<<22-1, start, nil) != nil {
		t.Error("found one that is not there")
	}
}

func TestRunnable(t *testing.T) {
	testenv.Root(t)
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"ok": 0o700, "all": 0o777, "group": 0o720, "none": 0o600} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o700), os.Symlink("ok", filepath.Join(dir, "link")),
		os.Symlink("/bin", filepath.Join(dir, "sub/bin")), os.WriteFile(filepath.Join(dir, "theirs"), nil, 0o700),
		os.Chown(filepath.Join(dir, "theirs"), 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"ok": "", "all": "others than root may have written it", "group": "others than root may have written it", "none": "not executable",
		"theirs": "others than root may have written it", "sub": "not a regular file", "link": "a symbolic link", "sub/bin/true": "a symbolic link",
		"../" + filepath.Base(dir) + "/ok": "not inside the package", "/bin/true": "not inside the package", "gone": "no such file or directory",
	} {
		if err := runnable(dir, name); fmt.Sprint(err) != want && (err != nil || want != "") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestFindCgroup(t *testing.T) {
	const mounts = `22 1 0:21 / /proc rw shared:5 - proc proc rw
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
`
	const bound = "30 25 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	for _, c := range []struct{ mounts, own, want string }{
		{mounts, "12:cpu:/y\n0::/\n", "/sys/fs/cgroup/unified"},
		{mounts, "0::/system.slice/l3afd.service\n", "/sys/fs/cgroup/unified/system.slice/l3afd.service"},
		{bound, "0::/docker/x/y\n", "/sys/fs/cgroup/y"},
		{bound, "0::/elsewhere\n", ""},
		{mounts, "0::/../..\n", ""},
		{mounts, "12:cpu:/y\n", ""},
		{"22 1 0:21 / /proc rw - proc proc rw\n", "0::/\n", ""},
	} {
		if got := findCgroup(c.mounts, c.own); got != c.want {
			t.Errorf("%q: got %s, want %s", c.own, got, c.want)
		}
	}
}
