package daemon

import (
	"context"
	"net"

	"l3af/internal/api"
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
func (s *settings) open() (all []*listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
		}
	}()
	l, err := api.Listen(s.socket)
	if err != nil {
		return nil, err
	}
	all = append(all, &listener{l, nil})
	for _, tcp := range []struct {
		addr  string
		paths []string
	}{{s.listen, nil}, {s.metricsListen, []string{"/metrics", "/healthz"}}, {s.debugListen, []string{"/bpfs/{iface}"}}} {
		if tcp.addr == "" {
			continue
		}
		l, err := net.Listen("tcp", tcp.addr)
		if err != nil {
			return all, err
		}
		all = append(all, &listener{l, tcp.paths})
	}
	return all, nil
}
