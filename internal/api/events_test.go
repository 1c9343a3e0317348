package api

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"l3af"
	"l3af/internal/api/apitest"
)

func TestEvents(t *testing.T) {
	node := &apitest.Node{}
	socket, stop := serve(t, node, Options{})
	node.Event(l3af.Event{Kind: "log", Message: "before"})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stream := func(after string) (*http.Response, *bufio.Reader) {
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://l3afd/v1/events", nil)
		req.Header.Set("Last-Event-ID", after)
		resp, err := dial("unix", socket).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
			t.Fatalf("Content-Type is %q", got)
		}
		return resp, bufio.NewReader(resp.Body)
	}
	// next skips to the next line that starts so.
	next := func(r *bufio.Reader, prefix string) string {
		t.Helper()
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("want %q: %v", prefix, err)
			}
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				return strings.TrimSpace(rest)
			}
		}
	}
	one, r1 := stream("")
	two, r2 := stream("of another daemon")
	defer two.Body.Close()
	for _, r := range []*bufio.Reader{r1, r2} {
		if kind := next(r, "event: "); kind != "log" {
			t.Fatalf("event %s", kind)
		}
		next(r, ": still here")
	}
	// A client that goes ends its stream and nobody else's.
	one.Body.Close()
	node.Event(l3af.Event{Kind: "step\ndata: x", Target: "xdp/eth0", Message: "line\nbreak", Revision: 7})
	if kind := next(r2, "event: "); kind != "step data: x" {
		t.Fatalf("event %q", kind)
	}
	var e l3af.Event
	if err := json.Unmarshal([]byte(next(r2, "data: ")), &e); err != nil || e.Message != "line\nbreak" || e.Revision != 7 {
		t.Fatalf("%v: %+v", err, e)
	}
	// Who has an event goes on behind it.
	node.Event(l3af.Event{Kind: "log", Message: "after"})
	three, r3 := stream(e.ID)
	defer three.Body.Close()
	id := next(r3, "id: ")
	if err := json.Unmarshal([]byte(next(r3, "data: ")), &e); err != nil || e.Message != "after" || e.ID != id {
		t.Fatalf("%v: %s %+v", err, id, e)
	}
	// The daemon stops at once although a stream is open.
	stop()
	node.Streams.Wait()
	for {
		if _, err := r2.ReadString('\n'); err != nil {
			break
		}
	}
	if ctx.Err() != nil {
		t.Error("the stream did not end with the daemon")
	}
}
