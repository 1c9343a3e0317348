package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"l3af/internal/api/apitest"
)

func TestInspect(t *testing.T) {
	socket, _ := serve(t, &apitest.Node{Report: report}, Options{})
	c := dial("unix", socket)
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "v0/xdp/run", `{"packets":["AAEC","Aw=="],"live_maps":true}`, 200,
			`"packets":[{"verdict":"drop","code":1,"program":"acl","length":3,"data":"AAEC"},{"verdict":"drop","code":1,"program":"acl","length":1,"data":"Aw=="}],"programs":[],"notes":["live maps"]`},
		{"POST", "v0/xdp/run", `{"packets":[],"state":{"apiVersion":"l3af/v1"}}`, 200, `"a document with 0 chains"`},
		{"POST", "v0/xdp/run", `{"packets":[],"state":{"apiVersion":"l3af/v9"}}`, 422, `"path":"apiVersion"`},
		{"POST", "v0/xdp/run", `{"packets":[],"state":{"apiVersion":"l3af/v1","apiVersion":"l3af/v1"}}`, 400, "already"},
		{"POST", "v0/xdp/run", ``, 400, "read body"},
		{"POST", "v0/xdp/run", `{}`, 400, "there are no packets"},
		{"POST", "v0/xdp/run", `{"packets":["?"]}`, 400, "in base64"},
		{"POST", "v0/xdp/run", `{"packets":[],"more":1}`, 400, "more"},
		{"POST", "v0/xdp/run", `{"packets":[]} {}`, 400, "more than one value"},
		{"POST", "v0/xdp/run", `{"packets":["` + strings.Repeat("A", maxBody) + `"]}`, 413, "over 16 MiB"},
		{"POST", "v1/xdp/run", `{"packets":[]}`, 404, "chain xdp/v1: not found"},
		{"POST", "v0/xpd/run", `{"packets":[]}`, 404, "the hooks are"},
		{"GET", "v0/xdp/explain", "", 200, `"name":"acl"`},
		{"POST", "v0/xdp/explain", `{"apiVersion":"l3af/v1"}`, 200, `"id":"proposed"`},
		{"POST", "v0/xdp/explain", `{"apiVersion":"l3af/v9"}`, 422, `"path":"apiVersion"`},
		{"POST", "v0/xdp/explain", ``, 400, "the body is empty"},
		{"GET", "blue:v0/xdp/explain", "", 404, "chain xdp/blue:v0: not found"},
		{"GET", "v0/xdp/dump", "", 200, `"instructions":[{"offset":0,"text":"Exit","program":"acl"}]}]}`},
		{"GET", "v0/xdp/dump?jited=true", "", 200, `"code":"ww=="`},
		{"GET", "v0/xdp/dump?jited=1", "", 400, "neither true nor false"},
		{"GET", "v1/xdp/dump", "", 404, "not found"},
	} {
		resp, body := do(t, c, tt.method, "/v1/chains/"+tt.path, strings.NewReader(tt.body))
		if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
			t.Errorf("%s %s %.80s: got %d %s\nwant %d %s", tt.method, tt.path, tt.body, resp.StatusCode, body, tt.status, tt.want)
		}
	}
	for _, tt := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"v0/xdp/run", "{\"live_maps\":true}\n\"AAEC\"\n\"Aw==\"\n", 200,
			`{"packet":{"verdict":"drop","code":1,"program":"acl","length":3,"data":"AAEC"}}
{"packet":{"verdict":"drop","code":1,"program":"acl","length":1,"data":"Aw=="}}
{"chain":{"interface":"v0","hook":"xdp","id":"3f2a9c41d0","packets":[],"programs":[],"notes":["live maps"]}}
`},
		{"v0/xdp/run", "{}", 200, `{"chain":`},
		{"v0/xdp/run", "{}\n\"Aw==\"", 200, `"length":1,`},
		{"v0/xdp/run", "{\"state\":{\"apiVersion\":\"l3af/v1\"}}\n", 200, `"a document with 0 chains"`},
		{"v0/xdp/run", "{\"state\":{\"apiVersion\":\"l3af/v9\"}}\n", 422, `"path":"apiVersion"`},
		{"v0/xdp/run", "", 400, "read body"},
		{"v0/xdp/run", "{\"packets\":[]}\n", 400, "lines of their own"},
		{"v0/xdp/run", `{"state":"` + strings.Repeat("A", maxBody) + `"}`, 413, "over 16 MiB"},
		{"v0/xdp/run", "{}\n\"Aw==\"\n{}\n", 200, `{"problem":{"title":"Bad Request","status":400,"code":"invalid","detail":"read packet 2: `},
		{"v0/xdp/run", "{}\n\"" + strings.Repeat("A", maxLine) + "\"\n", 200, `read packet 1: it is over 512 KiB`},
		{"v1/xdp/run", "{}\n\"Aw==\"\n", 404, "chain xdp/v1: not found"},
	} {
		resp, body := do(t, c, http.MethodPost, "/v1/chains/"+tt.path, strings.NewReader(tt.body), "Content-Type", "application/x-ndjson")
		if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
			t.Errorf("stream %.80q: got %d %s\nwant %d %s", tt.body, resp.StatusCode, body, tt.status, tt.want)
		}
	}
	socket, _ = serve(t, &apitest.Node{Report: report, Err: errors.New("load: no")}, Options{})
	resp, body := do(t, dial("unix", socket), http.MethodGet, "/v1/chains/v0/xdp/explain", nil)
	if p := problemIn(t, resp, body); p.Status != 500 || p.Detail != "load: no" {
		t.Errorf("a failure: %s", body)
	}
}
