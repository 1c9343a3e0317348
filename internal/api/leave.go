package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// ErrHandover is the cause with which the context of [Server.Serve] ends when
// somebody else goes on with what it listens on: requests under way get more
// time then, since those that come wait and are not refused.
var ErrHandover = errors.New("another l3afd takes over")

// limits are how long requests under way may take.
type limits struct {
	stop     time.Duration // when the daemon stops
	handover time.Duration // when another takes over
	answer   time.Duration // then, without waiting for agents
}

// aside runs what the request of ctx waits for that may make the server end:
// the end of the server does not wait for it, and its answer is given all the
// same.
func aside(ctx context.Context, f func() error) error {
	if u := peerOf(ctx).underWay; u != nil {
		u.change(func() { u.aside++ })
		defer u.change(func() { u.aside-- })
	}
	return f()
}

// Wait returns when the last answers are given of a server whose Serve has
// ended.
func (s *Server) Wait() { s.leaving.Wait() }

// leave waits for what is under way at a server that accepts nothing more. It
// returns when only requests are left that are aside, and those end it. What
// takes long must answer with what it has come to, and is cut off if it does not.
//
// It is not [http.Server.Shutdown], which closes a connection without an answer
// whose request has just come.
func (s *Server) leave(ctx context.Context, srv *http.Server, u *underWay) {
	limit := s.limits.stop
	if errors.Is(context.Cause(ctx), ErrHandover) {
		limit = s.limits.handover
	}
	hurry := time.AfterFunc(limit, s.hurry)
	late := time.AfterFunc(limit+s.limits.answer, func() {
		s.log.Warn("requests cut off")
		srv.Close()
		u.change(func() { u.late = true })
	})
	s.leaving.Go(func() {
		u.wait(func() bool { return len(u.conns) == 0 })
		hurry.Stop()
		late.Stop()
		srv.Close()
	})
	u.wait(func() bool { return len(u.conns) <= u.aside })
}

// underWay is the connections of a listener on which something is to be done.
type underWay struct {
	mu      sync.Mutex
	changed *sync.Cond
	conns   map[net.Conn]bool
	aside   int  // of them: see aside
	late    bool // nobody waits any more
}

func newUnderWay() *underWay {
	u := &underWay{conns: map[net.Conn]bool{}}
	u.changed = sync.NewCond(&u.mu)
	return u
}

func (u *underWay) change(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f()
	u.changed.Broadcast()
}

// state is for [http.Server.ConnState].
func (u *underWay) state(c net.Conn, state http.ConnState) {
	u.change(func() {
		if state == http.StateNew || state == http.StateActive {
			u.conns[c] = true
		} else {
			delete(u.conns, c)
		}
	})
}

func (u *underWay) wait(done func() bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for !done() && !u.late {
		u.changed.Wait()
	}
}
