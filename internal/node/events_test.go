package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"l3af"
)

// A reader that does not read loses the oldest events and holds up nobody.
func TestEventsForSlowReaders(t *testing.T) {
	var e events
	ctx, cancel := context.WithCancel(context.Background())
	slow := e.read(ctx, "")
	for i := range 1000 {
		e.publish(l3af.Event{Revision: i})
	}
	late := e.read(ctx, "")
	cancel()
	last, n := -1, 0
	for ev := range slow {
		if ev.Revision <= last {
			t.Fatalf("%d after %d", ev.Revision, last)
		}
		last, n = ev.Revision, n+1
	}
	if last != 999 || n < recentEvents {
		t.Errorf("the slow reader got %d, the last is %d", n, last)
	}
	n = 0
	for ev := range late {
		if ev.Revision != 1000-recentEvents+n {
			t.Fatalf("event %d is %d", n, ev.Revision)
		}
		n++
	}
	if n != recentEvents {
		t.Errorf("the late reader got %d", n)
	}
	e.close()
	if _, ok := <-e.read(context.Background(), ""); !ok {
		t.Error("recent events are lost after close")
	}
}

// Events have ids that no other has. Who was told some is told the others by the
// next node, each once; after a crash, or where the file is damaged, nothing is
// told that was told before.
func TestEventsGoOn(t *testing.T) {
	r := newRig(t)
	var all, ids []string
	told := func() {
		t.Helper()
		after := ""
		if len(ids) > 0 {
			after = ids[len(ids)-1]
		}
		ctx, cancel := context.WithCancel(t.Context())
		events := r.n.Events(ctx, after)
		cancel()
		for e := range events {
			if e.ID == "" || slices.Contains(ids, e.ID) {
				t.Errorf("%q has the id %q of another", e.Message, e.ID)
			}
			all, ids = append(all, e.Message), append(ids, e.ID)
		}
	}
	work := func() {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.n.Run(ctx); err != nil {
			t.Error(err)
		}
	}
	reopen := func() {
		t.Helper()
		if err := r.n.Close(); err != nil {
			t.Error(err)
		}
		r.open()
	}
	kept := filepath.Join(r.dir, "events.json")
	r.n.Tell("one")
	told()
	r.n.Tell("two")
	reopen()
	reopen() // as when a handover fails
	work()
	r.n.Tell("three")
	told()
	if _, err := os.Stat(kept); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is kept stays for a crash: %v", err)
	}
	r.restart() // as a crash does
	r.n.Tell("four")
	told()
	r.n.Close()
	if err := os.WriteFile(kept, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.n.Tell("five")
	told()
	if want := []string{"one", "two", "three", "four", "five"}; !slices.Equal(all, want) {
		t.Errorf("told %q, want %q", all, want)
	}
	for range 3 * recentEvents {
		r.n.Tell("many")
	}
	reopen()
	if told(); len(all) != 5+recentEvents {
		t.Errorf("told %d of many events", len(all)-5)
	}
}
