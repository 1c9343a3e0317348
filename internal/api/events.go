package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// events streams until the client goes or the daemon stops. A comment now and
// then finds out about clients that went without a word.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	stopping := peerOf(ctx).stopping
	out := http.NewResponseController(w)
	send := func(format string, args ...any) error {
		deadline(w, writeTimeout)
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return err
		}
		return out.Flush()
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	if send(": events of l3afd\n\n") != nil {
		return nil
	}
	tick := time.NewTicker(s.keepAlive)
	defer tick.Stop()
	events := s.node.Events(ctx, r.Header.Get("Last-Event-ID"))
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-stopping:
			return nil
		case <-tick.C:
			err = send(": still here\n\n")
		case e, ok := <-events:
			if !ok {
				return nil
			}
			var data []byte
			if data, err = json.Marshal(e); err == nil {
				oneLine := strings.NewReplacer("\n", " ", "\r", " ").Replace
				err = send("id: %s\nevent: %s\ndata: %s\n\n", oneLine(e.ID), oneLine(e.Kind), data)
			}
		}
		if err != nil {
			return nil // the client is gone
		}
	}
}
