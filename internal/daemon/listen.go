package daemon

import (
	"context"
	"log/slog"
	"net"

	"l3af/internal/api"
	"l3af/internal/gate"
)

// listener is an address and what is served there: paths of routes, or the
// whole API where there are none.
type listener struct {
	net.Listener
	paths []string
}

func (l *listener) serve(ctx context.Context, server *api.Server) error {
	if l.paths == nil {
		return server.Serve(ctx, l.Listener)
	}
	return server.ServePart(ctx, l.Listener, l.paths...)
}

// open opens every address that is to be listened on; none on an error.
func (s *settings) open(on *sockets, keys *gate.Keys, log *slog.Logger) (all []*listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
		}
	}()
	l, err := on.listen("unix", s.socket)
	if err != nil {
		return nil, err
	}
	all = append(all, &listener{l, nil})
	for _, tcp := range []struct {
		name, addr string
		paths      []string
		how        gate.Options
	}{
		{"listen", s.listen, nil, gate.Options{RootWrites: s.loopbackWrite == "root"}},
		{"metrics-listen", s.metricsListen, []string{"/metrics", "/healthz"}, gate.Options{PlainLoopback: true}},
		{"debug-listen", s.debugListen, []string{"/bpfs/{iface}"}, gate.Options{PlainLoopback: true}},
	} {
		if tcp.addr == "" {
			continue
		}
		tcp.how.Keys, tcp.how.Bind = keys, on.listen
		l, err := s.tcp(tcp.name, tcp.addr, tcp.how, log)
		if err != nil {
			return all, err
		}
		all = append(all, &listener{l, tcp.paths})
	}
	return all, nil
}
