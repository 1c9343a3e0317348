package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"l3af"
)

// The kinds of events.
const (
	eventApplied   = "applied"
	eventStep      = "step"
	eventFailed    = "failed"
	eventInterface = "interface"
	eventLog       = "log"
	eventAgent     = "agent"
)

// Tell makes an event of what happens to the daemon as a whole.
func (n *Node) Tell(message string) {
	n.view.RLock()
	defer n.view.RUnlock()
	n.events.publish(l3af.Event{Kind: eventLog, Message: message, Revision: n.revs.latest})
}

// recentEvents is how many events a new reader is told first.
const recentEvents = 200

// events remembers the recent events and passes on the new ones. Nobody who
// reads slowly holds up the node: they lose the oldest.
//
// A node that is closed keeps the recent ones for the next, which takes the
// file away when it begins to work: after a crash it would not be the whole.
type events struct {
	disk disk
	path string
	life string // of this node, the first part of the ids

	mu      sync.Mutex
	made    int
	recent  []l3af.Event
	readers map[chan l3af.Event]bool
	closed  bool
}

// open takes up the events of the node before. A file that cannot be read costs
// them, and nothing else.
func (e *events) open(d disk, path string) error {
	e.disk, e.path, e.life = d, path, rand.Text()[:10]
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, &e.recent)
	}
	if err != nil {
		e.recent = nil
		return err
	}
	e.recent = e.recent[max(0, len(e.recent)-recentEvents):]
	return nil
}

// begin forgets what is kept.
func (e *events) begin() error { return e.disk.remove(e.path) }

// keep writes the events for the next node.
func (e *events) keep() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.recent) == 0 {
		return nil
	}
	text, err := json.Marshal(e.recent)
	if err != nil {
		return err
	}
	return e.disk.write(e.path, text)
}

func (e *events) publish(ev l3af.Event) {
	ev.Time = time.Now().UTC()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.made++
	ev.ID = e.life + "-" + strconv.Itoa(e.made)
	if len(e.recent) == recentEvents {
		copy(e.recent, e.recent[1:])
		e.recent = e.recent[:recentEvents-1]
	}
	e.recent = append(e.recent, ev)
	for c := range e.readers {
		for sent := false; !sent; {
			select {
			case c <- ev:
				sent = true
			default:
				select {
				case <-c:
				default:
				}
			}
		}
	}
}

// read gives the recent events, those behind after if that is one of them, then
// the new ones until ctx ends or the node is closed; then the channel is closed.
func (e *events) read(ctx context.Context, after string) <-chan l3af.Event {
	c := make(chan l3af.Event, recentEvents+56)
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := slices.IndexFunc(e.recent, func(ev l3af.Event) bool { return ev.ID == after })
	for _, ev := range e.recent[seen+1:] {
		c <- ev
	}
	if e.closed {
		close(c)
		return c
	}
	if e.readers == nil {
		e.readers = map[chan l3af.Event]bool{}
	}
	e.readers[c] = true
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.readers[c] {
			delete(e.readers, c)
			close(c)
		}
	})
	return c
}

func (e *events) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for c := range e.readers {
		delete(e.readers, c)
		close(c)
	}
}
