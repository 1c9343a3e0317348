package main

import (
	"context"
	"encoding/json"
	"errors"
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

// event waits for an event that holds a text.
func (h *heir) event(text string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	found := errors.New("found")
	err := h.Follow(ctx, 20*time.Second, func(e l3af.Event) error {
		if strings.Contains(e.Message, text) {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		h.Fatalf("no event %q: %v", text, err)
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
