package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"l3af/internal/api/apitest"
)

// Whatever root sends, the answer is a success or a good problem, and never
// code internal: nothing here can fail but the request.
func FuzzRequest(f *testing.F) {
	f.Add("PUT", "/v1/state", "", document)
	f.Add("PUT", "/v1/state", `"0", "1"`, `{"apiVersion":"l3af/v1","chains":[{"hook":"xdp"}]}`)
	f.Add("POST", "/v1/rollback", "*", `{"revision": 1}`)
	f.Add("POST", "/v1/plan", "W/\"1\"", "a: &a [*a]")
	f.Add("GET", "/v1/chains/%2Fx%00:v0/xdp", "", "")
	f.Add("GET", "/v1/revisions/01", "", "")
	f.Add("POST", "/v1/chains/v0/xdp/run", "", `{"packets":["AAEC"],"state":{"apiVersion":"l3af/v1"},"live_maps":true}`)
	f.Add("POST", "/v1/chains/v0/xdp/run", "", "{\"live_maps\":true}\n\"AAEC\"\n\"Aw==\"\n")
	f.Add("GET", "/v1/chains/v0/xdp/explain", "", "")
	f.Add("GET", "/v1/chains/v0/xdp/dump?jited=true", "", "")
	f.Add("OPTIONS", "/v1/../metrics", "", "")
	f.Fuzz(func(t *testing.T, method, target, ifMatch, body string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Path == "/v1/events" || len(body) > 1<<14 {
			return
		}
		r, err := http.NewRequest(method, target, strings.NewReader(body))
		if err != nil {
			return
		}
		r.Header.Set("If-Match", ifMatch)
		if strings.Contains(body, "\n\"") {
			r.Header.Set("Content-Type", streamType)
		}
		r = r.WithContext(context.WithValue(context.Background(), peerKey{}, &peer{local: true}))
		w := httptest.NewRecorder()
		New(&apitest.Node{Report: report}, Options{}).ServeHTTP(w, r)
		if w.Code < 400 {
			return
		}
		var p Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || p.Detail == "" || p.Code == "" || w.Code >= 500 {
			t.Errorf("%s %q: %d %s", method, target, w.Code, w.Body)
		}
	})
}

// Of many who change the same revision at once, one does.
func TestOneWins(t *testing.T) {
	socket, _ := serve(t, &apitest.Node{}, Options{})
	const n = 8
	codes := make(chan int, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			body := strings.Replace(document, "eth0", fmt.Sprintf("eth%d", i), 1)
			resp, _ := do(t, dial("unix", socket), "PUT", "/v1/state", strings.NewReader(body), "If-Match", `"0"`)
			codes <- resp.StatusCode
		})
	}
	all.Wait()
	close(codes)
	count := make(map[int]int)
	for c := range codes {
		count[c]++
	}
	if count[200] != 1 || count[412] != n-1 {
		t.Errorf("got %v", count)
	}
}
