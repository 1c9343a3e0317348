package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"l3af"
)

// An agent prints on while nobody listens, and the next daemon hears it.
func TestPrintsWithoutDaemon(t *testing.T) {
	r := newRig(t)
	p := r.pack(map[string]string{
		"daemon": `i=0; while :; do i=$((i+1)); echo "line $i"; echo $i > $OUT/count.new; mv $OUT/count.new $OUT/count; sleep 0.02; done`,
	})
	spec := r.spec(p, l3af.Agent{Start: []string{"daemon"}, Daemon: true})
	if err := r.want(spec); err != nil {
		t.Fatal(err)
	}
	r.eventually("it prints", func() bool { return r.said("count") != "" })
	r.s.Close()
	from, to := 0, 0
	if _, err := fmt.Sscan(r.said("count"), &from); err != nil {
		t.Fatal(err)
	}
	r.eventually("it goes on", func() bool {
		_, err := fmt.Sscan(r.said("count"), &to)
		return err == nil && to >= from+20
	})
	var heard counter
	opts := r.options()
	opts.Log = slog.New(slog.NewTextHandler(&heard, nil))
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	r.s = s
	// All but the lines that the first daemon may have read at its end.
	r.eventually("it is heard", func() bool {
		heard.mu.Lock()
		defer heard.mu.Unlock()
		for i := from + 2; i <= to; i++ {
			if !strings.Contains(heard.text.String(), fmt.Sprintf("msg=\"line %d\" agent=", i)) {
				return false
			}
		}
		return true
	})
	if got := s.Status(spec.Key); got.State != l3af.Running || got.Restarts != 0 {
		t.Errorf("status %+v", got)
	}
}

// What is on disk may be damaged, or of another boot: nothing of it is
// trusted, and nothing that it told of runs on.
func TestOpenAgain(t *testing.T) {
	for name, damage := range map[string]func(text string) string{
		"garbage":      func(string) string { return "{" },
		"of another":   func(text string) string { return strings.Replace(text, "xdp/eth0/p", "xdp/eth1/p", 1) },
		"another boot": func(text string) string { return strings.Replace(text, `"boot": "`, `"boot": "x`, 1) },
		"another pid": func(text string) string {
			start, err := startTime(os.Getpid())
			if err != nil {
				t.Fatal(err)
			}
			i := strings.Index(text, `"pid": `)
			rest := text[i:]
			rest = rest[strings.Index(rest, `"cgroup"`):]
			// A process that is there, and began at another time.
			return text[:i] + fmt.Sprintf(`"pid": %d, "start": %d, `, os.Getpid(), start+1) + rest
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if r.s.cgroups == "" {
				t.Skip("no cgroup v2")
			}
			p := r.pack(map[string]string{"daemon": `echo $$ > $OUT/pid; exec sleep 1000`})
			spec := r.spec(p, l3af.Agent{Start: []string{"daemon"}, Daemon: true})
			if err := r.want(spec); err != nil {
				t.Fatal(err)
			}
			r.eventually("it runs", func() bool { return alive(r.said("pid")) })
			first := r.said("pid")
			r.s.Close()
			path := filepath.Join(r.dir, "agents", directory(spec.Key), recordName)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(damage(string(text))), 0o600); err != nil {
				t.Fatal(err)
			}
			r.open()
			if err := r.want(spec); err != nil {
				t.Fatal(err)
			}
			r.eventually("another one runs, and the first does not", func() bool {
				return r.said("pid") != first && alive(r.said("pid")) && !alive(first)
			})
		})
	}
	// Until an agent is wanted, one that is found runs as it did.
	r := newRig(t)
	p := r.pack(map[string]string{"daemon": `echo $$ > $OUT/pid; exec sleep 1000`})
	if err := r.want(r.spec(p, l3af.Agent{Start: []string{"daemon"}, Daemon: true})); err != nil {
		t.Fatal(err)
	}
	r.eventually("it runs", func() bool { return alive(r.said("pid")) })
	first := r.said("pid")
	for range 3 {
		r.s.Close()
		r.open()
	}
	time.Sleep(20 * time.Millisecond)
	if !alive(first) || r.said("pid") != first || r.events("ended") > 0 {
		t.Errorf("pid %s, was %s; %q", r.said("pid"), first, r.log)
	}
}

// Where there is no cgroup, the process group tells what an agent made.
func TestWithoutCgroup(t *testing.T) {
	r := newRig(t)
	reopen := func() {
		t.Helper()
		r.s.Close()
		r.open()
		r.s.cgroups = ""
	}
	reopen()
	p := r.pack(map[string]string{"daemon": `sleep 1000 & echo $! > $OUT/child; echo $$ > $OUT/pid; wait`})
	spec := r.spec(p, l3af.Agent{Start: []string{"daemon"}, Daemon: true})
	if err := r.want(spec); err != nil {
		t.Fatal(err)
	}
	r.eventually("it runs", func() bool { return alive(r.said("pid")) })
	pid, child := r.said("pid"), r.said("child")
	reopen()
	if s := r.s.Status(spec.Key); s == nil || fmt.Sprint(s.PID) != pid || s.CPUSeconds != 0 {
		t.Errorf("found again: %+v, want pid %s", s, pid)
	}
	r.s.Keep(func(string) bool { return false })
	r.eventually("both are gone", func() bool { return !alive(pid) && !alive(child) })
}
