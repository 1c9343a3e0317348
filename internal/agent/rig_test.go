package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

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
