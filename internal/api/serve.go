package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"l3af/internal/gate"
)

const (
	// maxConns bounds the connections of one user or remote address, and
	// maxOthers those of all but root together, who may have many uids or
	// addresses: nobody but root can use up the descriptors of the daemon.
	maxConns  = 64
	maxOthers = 512
)

// Listen makes the unix socket of the daemon: mode 0666, because the API asks
// who is there, in a directory that is made with mode 0755 if it is missing.
// The socket of a daemon that is gone is replaced, that of one that lives is
// not.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (net.Listener, error) {
	if n := len(unix.RawSockaddrUnix{}.Path); len(path) >= n {
		return nil, fmt.Errorf("the path of a socket can have %d bytes, this has %d", n-1, len(path))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != os.ModeSocket:
		return nil, errors.New("there is a file that is not a socket")
	default:
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			c.Close()
			return nil, errors.New("another l3afd listens there")
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return nil, fmt.Errorf("there is a socket: %w", err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve answers what comes in on l until ctx ends, and closes l. Event streams
// end then, other requests may finish, and it returns when they have, all but
// those that wait for a restart. A [gate.Listener] says who may write.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return s.serve(ctx, l, s) }

// ServePart is Serve for nothing but the routes with these paths.
func (s *Server) ServePart(ctx context.Context, l net.Listener, paths ...string) error {
	part := s.routes(func(r Route) bool { return slices.Contains(paths, r.Path) })
	return s.serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answer(part, w, r) }))
}

func (s *Server) serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	u := newUnderWay()
	srv := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(base context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			p := c.(*conn).peer
			p.stopping, p.underWay = ctx.Done(), u
			return context.WithValue(base, peerKey{}, p)
		},
		ConnState: u.state,
	}
	stop := context.AfterFunc(ctx, func() {
		srv.SetKeepAlivesEnabled(false)
		l.Close()
	})
	guarded := &listener{Listener: l, log: s.log, count: make(map[string]int)}
	serve := net.Listener(guarded)
	if g, ok := l.(*gate.Listener); ok {
		guarded.owners = g.RootWrites
		if g.Keys != nil {
			serve = tls.NewListener(guarded, g.Keys.Config())
		}
	}
	err := srv.Serve(serve)
	if stop() { // it was not ctx
		srv.Close()
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	s.leave(ctx, srv, u)
	return nil
}

// listener tells each connection's peer, and refuses those that have too many.
type listener struct {
	net.Listener
	log    *slog.Logger
	owners bool // ask the kernel whose TCP connections are
	mu     sync.Mutex
	count  map[string]int // connections by user or remote address; root is not counted
	all    int            // the sum of count
}

type conn struct {
	net.Conn
	peer *peer
	once sync.Once
	gone func()
}

func (c *conn) Close() error {
	c.once.Do(c.gone)
	return c.Conn.Close()
}

// CloseWrite lets net/http close a connection so that a client which still
// sends gets to read the answer.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p, err := identify(c, l.owners, l.log)
		if err != nil {
			l.log.Warn("connection refused", "error", err)
			c.Close()
			continue
		}
		key := ""
		switch {
		case !p.local && !p.owned:
			key, _, _ = net.SplitHostPort(p.remote)
		case p.uid != 0:
			key = "uid " + strconv.FormatUint(uint64(p.uid), 10)
		}
		if key == "" {
			return &conn{Conn: c, peer: p, gone: func() {}}, nil
		}
		l.mu.Lock()
		ok := l.count[key] < maxConns && l.all < maxOthers
		if ok {
			l.count[key]++
			l.all++
		}
		l.mu.Unlock()
		if !ok {
			l.log.Debug("connection refused: too many", "peer", key)
			c.Close()
			continue
		}
		return &conn{Conn: c, peer: p, gone: func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.all--
			if l.count[key]--; l.count[key] == 0 {
				delete(l.count, key)
			}
		}}, nil
	}
}
