package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"l3af"
	"l3af/internal/api/apitest"
)

// A server that stops does not wait for agents for ever, and says what it came
// to: of a state that was applied, which revision it is and what is missing; of a
// call of L3AF's API, that nothing has changed.
func TestAnswersWhileStopping(t *testing.T) {
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
		revision           int // and whether it is in force
		chains             int
	}{
		{"PUT", "/v1/state", `{"apiVersion":"l3af/v1","chains":[{"interface":"eth0","hook":"xdp","programs":[{"name":"a","package":"builtin:stats"}]}]}`,
			200, "xdp/eth0: its agents are still being started", 1, 1},
		{"POST", "/l3af/configs/v1/update", payload("eth0", "a", 1), 503, "l3afd is ending before all agents are started: send the request again", 2, 0},
		// What is wrong besides is told.
		{"POST", "/l3af/configs/v1/add", payload("eth1", "a", 1), 422, "attach xdp/eth1: load: refused", 2, 0},
	} {
		t.Run(c.path, func(t *testing.T) {
			node := &apitest.Node{Starting: make(chan struct{}), Fails: "xdp/eth1"}
			socket, stop := serve(t, node, Options{Configs: upstreamHost()}, func(s *Server) {
				s.limits = limits{stop: 10 * time.Millisecond, answer: time.Minute}
			})
			type answer struct {
				status int
				body   []byte
			}
			answers := make(chan answer)
			go func() {
				resp, body := do(t, dial("unix", socket), c.method, c.path, strings.NewReader(c.body))
				answers <- answer{resp.StatusCode, body}
			}()
			<-node.Starting
			stopped := make(chan bool)
			go func() {
				stop()
				close(stopped)
			}()
			got := <-answers
			<-stopped
			if got.status != c.status || !strings.Contains(string(got.body), c.says) {
				t.Fatalf("%d %s", got.status, got.body)
			}
			if c.status == 200 {
				var a l3af.Applied
				if err := json.Unmarshal(got.body, &a); err != nil || a.Revision != c.revision || !a.Changed || len(a.Failed) != 1 {
					t.Errorf("%+v, %v", a, err)
				}
			}
			if rev := node.Current(); rev.Number != c.revision || len(rev.State.Chains) != c.chains {
				t.Errorf("in force is %+v", rev)
			}
		})
	}
}
