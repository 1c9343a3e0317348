package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"l3af"
	"l3af/internal/api/apitest"
	"l3af/internal/configs"
)

func upstreamHost() configs.Host {
	return configs.Host{Name: "host", Repo: "file:///repo", Codename: "bookworm", PinBase: "/sys/fs/bpf",
		Interfaces: func() (map[string]bool, error) {
			return map[string]bool{"lo": true, "eth0": false, "eth1": false, "add": false, "update": false, "delete": false, "restart": false}, nil
		}}
}

// payload is one program at one interface, as short as can be.
func payload(iface, name string, seq int) string {
	return fmt.Sprintf(`[{"host_name":"host","iface":%q,"ipv4_address":"10.0.0.1","bpf_programs":{"xdp_ingress":[{"name":%q,"seq_id":%d,
		"artifact":"a.tar.gz","version":"1.0","object_file":"o.o","entry_function_name":"prog","map_name":"next",
		"admin_status":"enabled","prog_type":"xdp","monitor_maps":[{"name":"hits","key":0,"aggregator":"scalar"}]}]}}]`, iface, name, seq)
}

// Every call of L3AF's API: what it answers, and that a refused one changes
// nothing.
func TestConfigs(t *testing.T) {
	node := new(apitest.Node)
	socket, _ := serve(t, node, Options{Configs: upstreamHost()})
	c := dial("unix", socket)
	other := strings.Replace(payload("eth0", "a", 1), `"host"`, `"other"`, 1)
	for i, s := range []struct {
		method, path, body string
		status             int
		says               string // part of the answer; "" none at all
		warns              string
	}{
		{"GET", "/l3af/configs/v1", "", 200, "[]\n", ""},
		{"GET", "/l3af/configs/v1/eth0", "", 200, "{\n  \"host_name\": \"host\",\n  \"iface\": \"eth0\",\n  \"ipv4_address\": \"\",\n  \"bpf_programs\": {\n    \"xdp_ingress\": null,", ""},
		{"GET", "/l3af/configs/v1/eth9", "", 404, "eth9 interface name not found in the host", ""},
		{"POST", "/l3af/configs/v1/update", "", 400, "failed to unmarshal payload: unexpected end of JSON input", ""},
		{"POST", "/l3af/configs/v1/update", "[]", 422, "failed to deploy ebpf programs: the payload names no interface", ""},
		{"POST", "/l3af/configs/v1/update", other, 422, "provided bpf programs do not belong to this host", ""},
		{"POST", "/l3af/configs/any/update", payload("eth0", "a", 1), 200, "", ""},
		{"POST", "/l3af/configs/v1/add", payload("eth0", "b", 1), 200, "", `299 l3afd "[0].bpf_programs.xdp_ingress[0] has the seq_id 1 of a, and runs behind it"`},
		{"POST", "/l3af/configs/v1/add", payload("eth0", "b", 2), 409, "failed to AddEbpfPrograms : failed to Add BPF program on iface eth0 with error", ""},
		{"POST", "/l3af/configs/v1/add", payload("eth9", "b", 2), 404, "eth9 interface name not found in the host", ""},
		{"POST", "/l3af/configs/v1/add", payload("eth0", "missing", 2), 404, "failed to download and start eBPF program missing version 1.0 iface eth0 direction xdpingress with err", ""},
		{"POST", "/l3af/configs/v1/add", payload("eth1", "c", 1), 422, "failed to AddEbpfPrograms : attach xdp/eth1: load: refused", ""},
		{"GET", "/l3af/configs/v1/eth1", "", 200, `"xdp_ingress": null`, ""},
		{"GET", "/l3af/configs/v1", "", 200, `"name": "b"`, ""},
		{"GET", "/l3af/configs/v1/eth0", "", 200, `"entry_function_name": "prog"`, ""},
		{"GET", "/bpfs/eth0", "", 200, `"Program":{"id":0,"name":"a"`, ""},
		{"GET", "/bpfs/eth9", "", 404, "not found", ""},
		{"POST", "/l3af/configs/v1/delete", `[{"host_name":"host","iface":"eth0","bpf_programs":{"xdp_ingress":["a","z"]}}]`, 200, "", `299 l3afd "xdp_ingress z of eth0 is not there: nothing to delete"`},
		{"POST", "/l3af/configs/v1/delete", `[{"host_name":"host","iface":"eth9","bpf_programs":{"xdp_ingress":["a"]}}]`, 404, "failed to DeleteEbpfPrograms : failed to Remove eBPF program on iface eth9", ""},
		{"POST", "/l3af/configs/v1/add", payload("update", "a", 1), 200, "", ""},
		{"GET", "/l3af/configs/v1/update", "", 200, `"entry_function_name": "prog"`, ""},
		{"GET", "/l3af/configs/v1/add", "", 200, `"iface": "add"`, ""},
		{"GET", "/l3af/configs/v1/delete", "", 200, `"iface": "delete"`, ""},
		{"GET", "/l3af/configs/v1/restart", "", 200, `"iface": "restart"`, ""},
		{"PUT", "/l3af/configs/v1/update", "", 405, "it takes GET, HEAD, POST", ""},
		{"POST", "/l3af/configs/v1/restart", "", 405, "it takes GET, HEAD, PUT", ""},
		{"DELETE", "/l3af/configs/v1", "", 405, "it takes GET, HEAD", ""},
		{"PUT", "/l3af/configs/v1/restart", `{"hostname":"host","version":"v2.1.0"}`, 422, "no repository of versions is configured", ""},
		{"PUT", "/l3af/configs/v1/restart", `{"host_name":"host","version":"v2.1.0"}`, 422, "do not belong to this host", ""},
		{"GET", "/swagger/index.html", "", 404, "swagger: true", ""},
	} {
		node.Fails = "xdp/eth1"
		before := node.Current()
		resp, body := do(t, c, s.method, s.path, strings.NewReader(s.body))
		// Unmarshalled, a detail has its quotes.
		text := string(body)
		if p := new(Problem); resp.StatusCode >= 400 && json.Unmarshal(body, p) == nil {
			text = p.Detail + " " + p.Hint
		}
		if resp.StatusCode != s.status || !strings.Contains(text, s.says) || s.status == 200 && s.says == "" && text != "" {
			t.Errorf("%d: %s %s: %d %q, want %d %q", i, s.method, s.path, resp.StatusCode, text, s.status, s.says)
		}
		if got := resp.Header.Get("Warning"); got != s.warns {
			t.Errorf("%d: warning %q, want %q", i, got, s.warns)
		}
		now := node.Current()
		if b, a := stateText(t, before), stateText(t, now); s.status != 200 && a != b {
			t.Errorf("%d: %s %s changed the state from\n%s\nto\n%s", i, s.method, s.path, b, a)
		}
	}
}

func stateText(t *testing.T, r *l3af.Revision) string {
	t.Helper()
	if r == nil {
		return `{"apiVersion":"l3af/v1"}`
	}
	text, err := json.Marshal(r.State)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Calls wait for one another and for applies of others: none is lost.
func TestConfigsTogether(t *testing.T) {
	node := new(apitest.Node)
	socket, _ := serve(t, node, Options{Configs: upstreamHost()})
	c := dial("unix", socket)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			resp, body := do(t, c, "POST", "/l3af/configs/v1/add", strings.NewReader(payload("eth0", fmt.Sprintf("p%d", i), i)))
			if resp.StatusCode != 200 {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
		wg.Go(func() {
			for {
				r, s := 0, &l3af.State{APIVersion: l3af.APIVersion}
				if now := node.Current(); now != nil {
					r, s = now.Number, &now.State
				}
				next := *s
				next.Probes = append(append([]l3af.Probe{}, s.Probes...), l3af.Probe{Name: fmt.Sprintf("other%d", i), Package: "builtin:stats"})
				if _, err := node.Apply(t.Context(), &next, "other", r); !errors.As(err, new(*l3af.ConflictError)) {
					return
				}
			}
		})
	}
	wg.Wait()
	s := node.Current().State
	if len(s.Probes) != 20 || len(s.Chains) != 1 || len(s.Chains[0].Programs) != 20 {
		t.Fatalf("%d probes, chains %+v", len(s.Probes), s.Chains)
	}
	for i, p := range s.Chains[0].Programs {
		if p.Name != fmt.Sprintf("p%d", i) {
			t.Errorf("program %d is %s", i, p.Name)
		}
	}
}

// A package that takes long to come holds up nobody else, and what came about
// meanwhile stays. Nor does its call wait for a restart, which may wait for it.
func TestConfigsSlowPackage(t *testing.T) {
	asked, come := make(chan bool), make(chan bool)
	node := &apitest.Node{Open: func(ref string) {
		if strings.Contains(ref, "/slow/") {
			asked <- true
			<-come
		}
	}}
	begun, end := make(chan bool), make(chan bool)
	socket, _ := serve(t, node, Options{Configs: upstreamHost(), Restart: func(context.Context, string) error {
		begun <- true
		<-end
		return nil
	}})
	c := dial("unix", socket)
	call := func(method, verb, body string) <-chan int {
		status := make(chan int, 1)
		go func() {
			resp, _ := do(t, c, method, "/l3af/configs/v1/"+verb, strings.NewReader(body))
			status <- resp.StatusCode
		}()
		return status
	}
	slow := call("POST", "add", payload("eth0", "slow", 1))
	<-asked
	if status := <-call("POST", "add", payload("eth1", "a", 1)); status != 200 {
		t.Errorf("another call meanwhile: %d", status)
	}
	come <- true
	<-asked // once more, for the state that the other one left
	come <- true
	if status := <-slow; status != 200 {
		t.Errorf("the slow one: %d", status)
	}
	if s := node.Current().State; len(s.Chains) != 2 {
		t.Errorf("chains %+v", s.Chains)
	}

	slow = call("POST", "update", payload("eth0", "slow", 1))
	<-asked
	restart := call("PUT", "restart", `{"hostname":"host","version":"v2.1.0"}`)
	<-begun
	come <- true
	if status := <-slow; status != 503 {
		t.Errorf("in the middle of a restart: %d", status)
	}
	close(end)
	if status := <-restart; status != 200 {
		t.Errorf("the restart: %d", status)
	}
	if s := node.Current().State; len(s.Chains) != 2 {
		t.Errorf("chains %+v", s.Chains)
	}
}

// Packages are kept of few calls at a time, however many there are.
func TestConfigsFewDrafts(t *testing.T) {
	asked, come := make(chan bool), make(chan bool)
	node := &apitest.Node{Open: func(string) { asked <- true; <-come }}
	socket, _ := serve(t, node, Options{Configs: upstreamHost()})
	c := dial("unix", socket)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if resp, body := do(t, c, "POST", "/l3af/configs/v1/add", strings.NewReader(payload("eth0", fmt.Sprintf("p%d", i), i))); resp.StatusCode != 200 {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
	for range 4 {
		<-asked
	}
	select {
	case <-asked:
		t.Error("a fifth call fetches packages")
		go func() { come <- true }()
	case <-time.After(300 * time.Millisecond):
	}
	go func() {
		for range asked {
		}
	}()
	close(come)
	wg.Wait()
	close(asked)
}

// An import waits for no agents once the daemon ends.
func TestImportHurries(t *testing.T) {
	node := &apitest.Node{Starting: make(chan struct{})}
	s := New(node, Options{Configs: upstreamHost()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Import(ctx, []byte(payload("eth0", "a", 1)), "test") }()
	<-node.Starting
	cancel()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "is ending before all agents are started") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it still waits")
	}
}

// While a restart is under way nothing can be changed, and nobody is told
// otherwise.
func TestConfigsRestart(t *testing.T) {
	node := new(apitest.Node)
	begun, end := make(chan string), make(chan error)
	socket, _ := serve(t, node, Options{Configs: upstreamHost(), Restart: func(_ context.Context, version string) error {
		begun <- version
		return <-end
	}})
	c := dial("unix", socket)
	for _, fails := range []error{nil, &Problem{Status: http.StatusUnprocessableEntity, Code: CodeInvalid, Detail: "failed to getNewVersion: no"}} {
		done := make(chan int)
		go func() {
			resp, _ := do(t, c, "PUT", "/l3af/configs/v1/restart", strings.NewReader(`{"hostname":"host","version":"v2.1.0"}`))
			done <- resp.StatusCode
		}()
		if v := <-begun; v != "v2.1.0" {
			t.Errorf("version %q", v)
		}
		for path, body := range map[string]string{"add": payload("eth0", "a", 1), "update": payload("eth0", "a", 1), "restart": `{"hostname":"host","version":"v2.1.0"}`} {
			method := "POST"
			if path == "restart" {
				method = "PUT"
			}
			if resp, body := do(t, c, method, "/l3af/configs/v1/"+path, strings.NewReader(body)); resp.StatusCode != 503 || !strings.Contains(string(body), "We are currently in the middle of a restart") {
				t.Errorf("%s: %d %s", path, resp.StatusCode, body)
			}
		}
		if resp, _ := do(t, c, "GET", "/l3af/configs/v1", nil); resp.StatusCode != 200 {
			t.Errorf("reading: %d", resp.StatusCode)
		}
		end <- fails
		if got := <-done; (got == 200) != (fails == nil) {
			t.Errorf("restart: %d", got)
		}
	}
	if node.Current() != nil {
		t.Error("the state has changed")
	}
	if resp, _ := do(t, c, "POST", "/l3af/configs/v1/add", strings.NewReader(payload("eth0", "a", 1))); resp.StatusCode != 200 {
		t.Errorf("afterwards: %d", resp.StatusCode)
	}
}

// Who asks for a restart is answered, though the server ends for it: that waits
// for all other requests and not for this one.
func TestConfigsRestartEnds(t *testing.T) {
	node := new(apitest.Node)
	inside, ended := make(chan bool), make(chan bool)
	socket, stop := serve(t, node, Options{Configs: upstreamHost(), Restart: func(context.Context, string) error {
		close(inside)
		<-ended
		return nil
	}})
	answered := make(chan int)
	go func() {
		resp, _ := do(t, dial("unix", socket), "PUT", "/l3af/configs/v1/restart", strings.NewReader(`{"hostname":"host","version":"v2.1.0"}`))
		answered <- resp.StatusCode
	}()
	<-inside
	other, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	// The request has begun when the answer to its Expect is there.
	fmt.Fprint(other, "PUT /v1/state HTTP/1.1\r\nHost: l3afd\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	lines := bufio.NewReader(other)
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = lines.ReadString('\n')
	stopped := make(chan bool)
	go func() {
		stop()
		close(stopped)
	}()
	select {
	case <-stopped:
		t.Error("ended before a request was answered")
	case <-time.After(50 * time.Millisecond):
	}
	fmt.Fprint(other, "{}")
	if resp, err := http.ReadResponse(lines, nil); err != nil {
		t.Error(err)
	} else {
		resp.Body.Close()
	}
	<-stopped
	close(ended)
	if got := <-answered; got != 200 {
		t.Errorf("restart: %d", got)
	}
}

// Upstream's metrics, by name and label.
func TestConfigsMetrics(t *testing.T) {
	node := &apitest.Node{Report: l3af.Status{Chains: []l3af.ChainStatus{{Interface: "eth0", Hook: l3af.XDP, State: l3af.Running, ProgramID: 77, Programs: []l3af.ProgramStatus{
		{Name: "a", Linkage: "inlined", Maps: []string{".bss", "hits"}, Monitor: []l3af.MonitorStatus{{Map: "hits", Key: "0", Aggregator: l3af.Scalar, Value: 12}}}, {Name: "b"}}}}}}
	host := upstreamHost()
	host.Name = "host"
	socket, _ := serve(t, node, Options{Configs: host})
	c := dial("unix", socket)
	before := time.Now().Add(-2 * time.Second).Unix()
	for _, call := range []string{payload("eth0", "a", 1), payload("eth0", "b", 2), payload("eth0", "b", 3), payload("eth0", "missing", 4)} {
		do(t, c, "POST", "/l3af/configs/v1/add", strings.NewReader(call))
	}
	do(t, c, "POST", "/l3af/configs/v1/update", strings.NewReader(strings.Replace(payload("eth0", "a", 1), "1.0", "1.1", 1)))
	node.Fails = "xdp/eth0"
	do(t, c, "POST", "/l3af/configs/v1/update", strings.NewReader(payload("eth0", "a", 1)))
	_, text := do(t, c, "GET", "/metrics", nil)
	labels := `direction="xdpingress",ebpf_program="%s",host="host",interface_name="eth0",ipv4_address="10.0.0.1"`
	a, b := fmt.Sprintf(labels, "a"), fmt.Sprintf(labels, "b")
	for _, line := range []string{
		"l3afd_BPFStartCount{" + a + "} 1", "l3afd_BPFStartCount{" + b + "} 1", "l3afd_BPFStopCount{" + b + "} 1",
		"l3afd_BPFUpdateCount{" + a + "} 1", "l3afd_BPFUpdateFailedCount{" + a + "} 1",
		"l3afd_BPFDeployFailedCount{" + fmt.Sprintf(labels, "missing") + "} 1",
		"l3afd_BPFRunning{" + a + `,version="1.1"} 1`,
		`l3afd_BPFMonitorMap{ebpf_program="a",host="host",interface_name="eth0",ipv4_address="10.0.0.1",map_name="hits_0_scalar"} 12`,
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	var since float64
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "l3afd_BPFStartTime{"+a+"} "); ok {
			fmt.Sscan(rest, &since)
		}
	}
	if since < float64(before) || since > float64(time.Now().Unix()) {
		t.Errorf("started at %f", since)
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
	_, text = do(t, c, "GET", "/bpfs/eth0", nil)
	var list []struct {
		ProgID  uint32
		Program struct {
			Name    string `json:"name"`
			MapName string `json:"map_name"`
		}
		BpfMaps map[string]DebugMap
	}
	if err := json.Unmarshal(text, &list); err != nil || len(list) != 1 || list[0].ProgID != 77 || list[0].Program.Name != "a" ||
		list[0].Program.MapName != "next" || list[0].BpfMaps["hits"].Path != "/sys/fs/bpf/eth0/a/1_1/hits" ||
		list[0].BpfMaps[".bss"] != (DebugMap{Name: ".bss"}) {
		t.Errorf("debug: %s, %v", text, err)
	}
}

// A failure names its place once, whether or not the kernel was asked.
func TestFailureNamesItsPlaceOnce(t *testing.T) {
	after := &l3af.State{Chains: []l3af.Chain{{Interface: "eth0", Hook: l3af.XDP}}}
	for step, want := range map[string]string{
		"agent of a: start: exit status 3":                   "attach xdp/eth0: agent of a: start: exit status 3",
		"replace xdp/eth0: agent of a: start: exit status 3": "replace xdp/eth0: agent of a: start: exit status 3",
	} {
		failed, _ := failedOf(&l3af.Applied{Failed: []l3af.Step{{Verb: "attach", Target: "xdp/eth0", Error: step}}}, new(l3af.State), after)
		if len(failed) != 1 || failed[0].Error() != want {
			t.Errorf("%q: %q, want %q", step, failed, want)
		}
	}
}

// A change answers for what it changed: not for agents of others that the daemon,
// which ends, did not come to.
func TestFailureOfOthers(t *testing.T) {
	both := &l3af.State{Chains: []l3af.Chain{{Interface: "eth0", Hook: l3af.XDP}, {Interface: "eth1", Hook: l3af.XDP}}}
	first := &l3af.State{Chains: both.Chains[:1]}
	for target, want := range map[string]bool{"xdp/eth0": false, "xdp/eth1": true} {
		step := l3af.Step{Verb: "attach", Target: target, Error: target + ": its agents are still being started", Unstarted: true}
		if failed, unstarted := failedOf(&l3af.Applied{Failed: []l3af.Step{step}}, first, both); len(failed) > 0 || unstarted != want {
			t.Errorf("%s: %v, %v", target, failed, unstarted)
		}
	}
}

// The page has everything that the description has, and needs nothing else.
func TestSwagger(t *testing.T) {
	socket, _ := serve(t, new(apitest.Node), Options{Swagger: true})
	c := dial("unix", socket)
	resp, page := do(t, c, "GET", "/swagger/index.html", nil)
	if resp.StatusCode != 200 || strings.Contains(string(page), "<script") || strings.Contains(string(page), "http://") || strings.Contains(string(page), "https://") {
		t.Errorf("%d %s", resp.StatusCode, page)
	}
	for _, r := range Routes() {
		for _, part := range []string{"<b>" + r.Method + "</b> <span class=\"path\">" + r.Path + "</span>", "ConfigsProgram", "entry_function_name"} {
			if !strings.Contains(string(page), part) {
				t.Errorf("the page lacks %s", part)
			}
		}
	}
	_, doc := do(t, c, "GET", "/swagger/doc.json", nil)
	if want, err := os.ReadFile("openapi.json"); err != nil || string(doc) != string(want) {
		t.Errorf("doc.json is not openapi.json: %v", err)
	}
	if resp, _ := do(t, c, "GET", "/swagger/other", nil); resp.StatusCode != 404 {
		t.Errorf("other page: %d", resp.StatusCode)
	}
}
