package node

import (
	"context"
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
type events struct {
	mu      sync.Mutex
	recent  []l3af.Event
	readers map[chan l3af.Event]bool
	closed  bool
}

func (e *events) publish(ev l3af.Event) {
	ev.Time = time.Now().UTC()
	e.mu.Lock()
	defer e.mu.Unlock()
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

// read gives the recent events, then the new ones until ctx ends or the node
// is closed; then the channel is closed.
func (e *events) read(ctx context.Context) <-chan l3af.Event {
	c := make(chan l3af.Event, recentEvents+56)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.recent {
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
