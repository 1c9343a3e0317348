package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l3af"
	"l3af/internal/api/apitest"
)

const document = `
apiVersion: l3af/v1
chains:
- {interface: eth0, hook: xdp, programs: [{name: acl, package: 'builtin:acl', config: {big: 0xffffffffffffffff}}]}
`

// group is one that the tests are a member of: root may write anyway.
func group(t *testing.T) string {
	g, err := user.LookupGroupId(fmt.Sprint(os.Getgid()))
	if err != nil {
		t.Skip(err)
	}
	return g.Name
}

// serve serves a node on a new socket for the length of the test, and checks
// in the end that nothing of it is left.
func serve(t *testing.T, node Node, opts Options, change ...func(*Server)) (socket string, stop func()) {
	t.Helper()
	runtime.GC()
	goroutines, fds := runtime.NumGoroutine(), descriptors(t)
	dir := t.TempDir()
	// Other users must get to the socket.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "run", "l3afd.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	if opts.Group == "" {
		opts.Group = group(t)
	}
	s := New(node, opts)
	s.keepAlive = 20 * time.Millisecond
	for _, f := range change {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(func() {
		stop()
		for range 100 {
			runtime.GC()
			if runtime.NumGoroutine() <= goroutines && descriptors(t) <= fds {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		stacks := make([]byte, 1<<16)
		t.Errorf("left: %d goroutines, %d descriptors\n%s", runtime.NumGoroutine()-goroutines, descriptors(t)-fds,
			stacks[:runtime.Stack(stacks, true)])
	})
	return socket, stop
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// dial makes an HTTP client of a socket or an address.
func dial(network, address string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// do sends a request and checks the answer against the description, if it has one.
func do(t *testing.T, c *http.Client, method, path string, body io.Reader, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, "http://l3afd"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	switch resp.StatusCode {
	case http.StatusMethodNotAllowed, http.StatusNotModified:
	default:
		if slices.ContainsFunc(Routes(), func(r Route) bool { return strings.HasPrefix(path, strings.Split(r.Path, "/{")[0]) }) && method != http.MethodHead {
			conforms(t, method, req.URL.EscapedPath(), resp, answer)
		}
	}
	return resp, answer
}

func problemIn(t *testing.T, resp *http.Response, body []byte) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if resp.Header.Get("Content-Type") != "application/problem+json" || p.Status != resp.StatusCode || p.Title == "" || p.Detail == "" ||
		!slices.Contains(Codes(), p.Code) {
		t.Fatalf("not a good problem: %s", body)
	}
	return p
}

func TestStraightLine(t *testing.T) {
	node := &apitest.Node{}
	socket, _ := serve(t, node, Options{})
	c := dial("unix", socket)
	is := func(resp *http.Response, body []byte, status int, etag, contains string) {
		t.Helper()
		if resp.StatusCode != status || resp.Header.Get("ETag") != etag || !strings.Contains(string(body), contains) {
			t.Fatalf("got %d, ETag %s, %s\nwant %d, %s, %s", resp.StatusCode, resp.Header.Get("ETag"), body, status, etag, contains)
		}
	}
	get := func(path string) (*http.Response, []byte) { t.Helper(); return do(t, c, "GET", path, nil) }
	put := func(doc string, header ...string) (*http.Response, []byte) {
		t.Helper()
		return do(t, c, "PUT", "/v1/state", strings.NewReader(doc), header...)
	}
	r, b := get("/v1/state")
	is(r, b, 200, `"0"`, `{"apiVersion":"l3af/v1"}`)
	r, b = get("/v1/revisions/current")
	is(r, b, 404, "", "nothing was applied yet")
	r, b = do(t, c, "POST", "/v1/plan", strings.NewReader(document))
	is(r, b, 200, `"0"`, `"changed":true,"steps":[{"verb":"attach","target":"xdp/eth0"`)
	r, b = put(document, "If-Match", `"0"`)
	is(r, b, 200, `"1"`, `{"revision":1,"changed":true,"steps":[{`)
	r, b = put(document)
	is(r, b, 200, `"1"`, `{"revision":1,"changed":false,"steps":[]}`)
	r, b = get("/v1/state")
	is(r, b, 200, `"1"`, `"config":{"big":18446744073709551615}`)
	r, b = do(t, c, "GET", "/v1/state", nil, "If-None-Match", `"0", "1"`)
	is(r, b, 304, `"1"`, "")
	r, b = put(`{"apiVersion":"l3af/v1"}`, "If-Match", `"1"`, "Content-Type", "application/json; charset=utf-8")
	is(r, b, 200, `"2"`, `{"revision":2,"changed":true`)
	r, b = put(document, "If-Match", `"1"`)
	is(r, b, 412, "", `"current_revision":2`)
	r, b = put(document, "If-Match", `"1", "2"`)
	is(r, b, 200, `"3"`, "")
	r, b = put(document, "If-Match", "*", "Content-Type", "application/x-www-form-urlencoded") // as curl sends it
	is(r, b, 200, `"3"`, "")
	r, b = do(t, c, "POST", "/v1/rollback", nil)
	is(r, b, 200, `"4"`, "")
	r, b = do(t, c, "POST", "/v1/rollback", strings.NewReader(`{"revision":1}`), "If-Match", `"4"`)
	is(r, b, 200, `"5"`, "")
	r, b = do(t, c, "POST", "/v1/rollback", strings.NewReader(`{"revision":9}`))
	is(r, b, 404, "", `"code":"not_found"`)
	r, b = get("/v1/revisions")
	var revs []l3af.Revision
	if err := json.Unmarshal(b, &revs); err != nil || len(revs) != 5 || !reflect.DeepEqual(revs[0].State, revs[4].State) {
		t.Fatalf("%v %s", err, b)
	}
	if me, _ := user.Current(); revs[0].By != fmt.Sprintf("%s (uid %s)", me.Username, me.Uid) {
		t.Errorf("applied by %q", revs[0].By)
	}
	is(r, b, 200, "", "")
	r, b = get("/v1/revisions/4")
	is(r, b, 200, "", `{"revision":4,`)
	for _, n := range []string{"6", "0", "-1", "x", "99999999999999999999"} {
		r, b = get("/v1/revisions/" + n)
		is(r, b, 404, "", "/v1/revisions lists those that are kept")
	}
	r, b = do(t, c, "HEAD", "/v1/state", nil)
	is(r, b, 200, `"5"`, "")
	r, b = get("/openapi.json")
	is(r, b, 200, "", `"openapi": "3.1.0"`)
}

func TestRefusals(t *testing.T) {
	node := &apitest.Node{}
	socket, _ := serve(t, node, Options{})
	c := dial("unix", socket)
	big := strings.Repeat("x", maxBody+1)
	for _, tt := range []struct {
		method, path string
		body         io.Reader
		header       []string
		status       int
		code, want   string
	}{
		{"PUT", "/v1/state", nil, nil, 400, CodeInvalid, "the body is empty"},
		{"PUT", "/v1/state", strings.NewReader("a: 1\na: 2"), nil, 400, CodeInvalid, `line 2: the key \"a\" is on line 1 already`},
		{"PUT", "/v1/state", strings.NewReader(`{"a": 1`), nil, 400, CodeInvalid, `line 1: `},
		{"PUT", "/v1/state", strings.NewReader("\xff"), nil, 400, CodeInvalid, `UTF-8`},
		{"PUT", "/v1/state", strings.NewReader("apiVersion: l3af/v1\nchains: [{interface: e, hook: xpd, programs: [{name: a}]}]"), nil, 422, CodeInvalid,
			`"mistakes":[{"path":"chains[0].hook","message":"unknown hook \"xpd\", did you mean \"xdp\"?"},{"path":"chains[0].programs[0].package"`},
		{"POST", "/v1/plan", strings.NewReader("[]"), nil, 422, CodeInvalid, "must be a mapping"},
		{"PUT", "/v1/state", strings.NewReader(big), nil, 413, CodeTooLarge, "16 MiB"},
		{"PUT", "/v1/state", io.MultiReader(strings.NewReader(big)), nil, 413, CodeTooLarge, "16 MiB"}, // no length given
		{"PUT", "/v1/state", strings.NewReader("x"), []string{"Content-Type", "image/png"}, 415, CodeUnsupportedMediaType, "image/png"},
		{"PUT", "/v1/state", strings.NewReader("x"), []string{"Content-Type", "json"}, 415, CodeUnsupportedMediaType, "json"},
		{"PUT", "/v1/state", strings.NewReader("x"), []string{"Content-Encoding", "gzip"}, 415, CodeUnsupportedMediaType, "gzip"},
		{"PUT", "/v1/state", strings.NewReader(document), []string{"If-Match", "three"}, 400, CodeInvalid, "If-Match"},
		{"PUT", "/v1/state", strings.NewReader(document), []string{"If-Match", `"-1"`}, 400, CodeInvalid, "If-Match"},
		{"POST", "/v1/rollback", strings.NewReader(`{"revison":1}`), nil, 422, CodeInvalid, `unknown key`},
		{"POST", "/v1/rollback", strings.NewReader(`{"revision":-1}`), nil, 422, CodeInvalid, "must be the number"},
		{"POST", "/v1/rollback", strings.NewReader(`{"revision":"1"}`), nil, 422, CodeInvalid, "must be the number"},
		{"POST", "/v1/rollback", strings.NewReader(`[1]`), nil, 422, CodeInvalid, "must be a mapping"},
		{"POST", "/v1/rollback", nil, nil, 404, CodeNotFound, "revision -1: not found"},
		{"GET", "/v1/chains/eth0/xdp", nil, nil, 404, CodeNotFound, "chain xdp/eth0: not found"},
		{"GET", "/v1/chains/eth0/xpd", nil, nil, 404, CodeNotFound, "the hooks are xdp, tc-ingress and tc-egress"},
		{"GET", "/v1/nothing", nil, nil, 404, CodeNotFound, "/v1/nothing"},
		{"GET", "/", nil, nil, 404, CodeNotFound, "/openapi.json"},
		{"DELETE", "/v1/state", nil, nil, 405, CodeMethodNotAllowed, "GET, HEAD, PUT"},
		{"PUT", "/v1/status", strings.NewReader("{}"), nil, 405, CodeMethodNotAllowed, "GET, HEAD"},
		{"GET", "/v1/plan", nil, nil, 405, CodeMethodNotAllowed, "it takes POST"},
	} {
		if tt.path == "/v1/nothing" || tt.path == "/" {
			// Not described.
			req, _ := http.NewRequest(tt.method, "http://l3afd"+tt.path, nil)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if p := problemIn(t, resp, body); p.Status != tt.status || !strings.Contains(string(body), tt.want) {
				t.Errorf("%s: %s", tt.path, body)
			}
			continue
		}
		resp, body := do(t, c, tt.method, tt.path, tt.body, tt.header...)
		p := problemIn(t, resp, body)
		if p.Status != tt.status || p.Code != tt.code || !strings.Contains(string(body), tt.want) {
			t.Errorf("%s %s %v: got %s\nwant %d %s %s", tt.method, tt.path, tt.header, body, tt.status, tt.code, tt.want)
		}
		if allow := resp.Header.Get("Allow"); (tt.status == 405) != (allow != "") {
			t.Errorf("%s %s: Allow is %q", tt.method, tt.path, allow)
		}
	}
	if node.Current() != nil {
		t.Error("something was applied")
	}
}

func TestTroubles(t *testing.T) {
	var log locked
	node := &apitest.Node{Busy: true}
	socket, _ := serve(t, node, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	c := dial("unix", socket)
	resp, body := do(t, c, "PUT", "/v1/state", strings.NewReader(document))
	if p := problemIn(t, resp, body); p.Status != 409 || p.Code != CodeConflict || p.CurrentRevision == nil || *p.CurrentRevision != 0 {
		t.Errorf("busy: %s", body)
	}
	node.Busy, node.Err = false, errors.New("load: func#0 @0\n0: R1=ctx() R10=fp0")
	for _, call := range [][2]string{{"PUT", "/v1/state"}, {"POST", "/v1/plan"}, {"GET", "/v1/status"}, {"GET", "/v1/revisions"}, {"GET", "/v1/chains"}} {
		resp, body := do(t, c, call[0], call[1], strings.NewReader(document))
		if p := problemIn(t, resp, body); p.Status != 500 || p.Code != CodeInternal || p.Detail != node.Err.Error() {
			t.Errorf("%s: %s", call, body)
		}
	}
	resp, body = do(t, c, "GET", "/healthz", nil)
	if p := problemIn(t, resp, body); p.Status != 503 || p.Detail != node.Err.Error() {
		t.Errorf("health: %s", body)
	}
	node.Err, node.Report.Errors = nil, []string{"revision 3 is garbage"}
	resp, body = do(t, c, "GET", "/healthz", nil)
	if p := problemIn(t, resp, body); p.Status != 503 || p.Detail != "revision 3 is garbage" {
		t.Errorf("health: %s", body)
	}
	node.Report.Errors = nil
	if resp, body = do(t, c, "GET", "/healthz", nil); resp.StatusCode != 200 {
		t.Errorf("health: %s", body)
	}
	node.Panic = true
	resp, body = do(t, c, "GET", "/v1/status", nil)
	if p := problemIn(t, resp, body); p.Status != 500 || p.Code != CodeInternal || !strings.Contains(log.String(), "a bug") {
		t.Errorf("panic: %s\n%s", body, log.String())
	}
	node.Panic = false
	if resp, _ = do(t, c, "GET", "/v1/status", nil); resp.StatusCode != 200 {
		t.Error("the daemon did not live on")
	}
}

// locked is a buffer that the server may write while the test reads.
type locked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

var report = l3af.Status{
	Chains: []l3af.ChainStatus{
		{Interface: "v0", Hook: l3af.XDP, Mode: l3af.Native, State: l3af.Running, ID: "3f2a9c41d0", ProgramID: 412, LinkID: 88, Segments: 1,
			Programs: []l3af.ProgramStatus{{Name: "acl", Linkage: "inlined", Packets: 1200, Verdicts: map[l3af.Verdict]uint64{l3af.Pass: 1100, l3af.Drop: 100},
				Monitor: []l3af.MonitorStatus{{Map: "hits", Key: "7", Aggregator: l3af.Average, Value: 2.5}}}, {Name: "new"}}},
		{Interface: "v0", Netns: "/proc/7/ns/net", Hook: l3af.TCEgress, State: l3af.Failed, Error: "no"},
		{Interface: "we\xffird*", Netns: "blue", Hook: l3af.XDP, State: l3af.Waiting},
		{Interface: "v0", Hook: l3af.XDP, State: l3af.Failed}, // cannot be, and spoils no scrape
	},
	Probes: []l3af.ProbeStatus{{Name: "exec", Attach: "tracepoint/sched/sched_process_exec", State: l3af.Running,
		Monitor: []l3af.MonitorStatus{{Map: "seen", Key: "10.0.0.0/8", Aggregator: l3af.Scalar, Value: -3}}}},
}

func TestChains(t *testing.T) {
	socket, _ := serve(t, &apitest.Node{Report: report}, Options{})
	c := dial("unix", socket)
	for path, want := range map[string]string{
		"/v1/status":        `{"revision":0,"chains":[{"interface":"v0","hook":"xdp","mode":"native","state":"running","id":"3f2a9c41d0","program_id":412,"link_id":88,"segments":1,"programs":[{"name":"acl","linkage":"inlined","packets":1200,"verdicts":{"drop":100,"pass":1100},"monitor":[{"map":"hits","key":"7","aggregator":"avg","value":2.5}]},{"name":"new","packets":0,"verdicts":{}}]}`,
		"/v1/chains":        `"state":"failed","error":"no","programs":[]}`,
		"/v1/chains/v0/xdp": `"id":"3f2a9c41d0"`,
		"/v1/chains/%2Fproc%2F7%2Fns%2Fnet:v0/tc-egress": `"error":"no"`,
	} {
		if resp, body := do(t, c, "GET", path, nil); resp.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

// Over TCP everything can be read and nothing written, whoever asks.
func TestNetworkOnlyReads(t *testing.T) {
	node := &apitest.Node{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(node, Options{}).Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c := dial("tcp", l.Addr().String())
	for _, r := range Routes() {
		if r.Path == "/v1/events" || strings.Contains(r.Path, "{") {
			continue
		}
		resp, body := do(t, c, r.Method, r.Path, nil)
		if !r.Write && resp.StatusCode != 200 {
			t.Errorf("%s %s: %s", r.Method, r.Path, body)
		}
		if r.Write {
			if p := problemIn(t, resp, body); p.Status != 403 || p.Code != CodeForbidden || !strings.Contains(p.Hint, "unix socket") {
				t.Errorf("%s %s: %s", r.Method, r.Path, body)
			}
		}
	}

	// One address cannot take all descriptors, nor can many.
	var conns []net.Conn
	connect := func(from byte) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, from)}}
		c, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		return c
	}
	refused := func(over net.Conn) {
		t.Helper()
		over.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := over.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
			t.Errorf("connection %d: %v", len(conns), err)
		}
	}
	for from := range byte(maxOthers / maxConns) {
		for range maxConns {
			connect(from + 1)
		}
		refused(connect(from + 1))
	}
	refused(connect(100))
	for _, c := range conns {
		c.Close()
	}
	for range 100 { // until the server has seen them go
		resp, err := c.Get("http://l3afd/v1/status")
		if err == nil {
			resp.Body.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("no connection is taken any more")
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "l3afd.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o666 {
		t.Errorf("socket has mode %v", info.Mode())
	}
	if info, _ := os.Stat(filepath.Dir(path)); info.Mode().Perm() != 0o755 {
		t.Errorf("directory has mode %v", info.Mode())
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another l3afd listens there") {
		t.Errorf("second: %v", err)
	}
	// As after kill -9: the socket stays, nobody listens.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Errorf("stale: %v", err)
	} else {
		l.Close()
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("file: %v", err)
	}
	if _, err := Listen("/" + strings.Repeat("x", 108)); err == nil || !strings.Contains(err.Error(), "107 bytes") {
		t.Errorf("long: %v", err)
	}
}
