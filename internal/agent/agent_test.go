package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"l3af"
	"l3af/internal/testenv"
)

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
