package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"l3af"
	"l3af/internal/testenv"
)

// freePort is a TCP port of rx that nobody has now.
func freePort(t *testing.T) (port int) {
	testenv.In(t, "rx", func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port = l.Addr().(*net.TCPAddr).Port
		l.Close()
	})
	return port
}

// dialIn connects in a network namespace.
func dialIn(name, address string) (net.Conn, error) {
	type answer struct {
		c   net.Conn
		err error
	}
	done := make(chan answer)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(h)
			h.Close()
		}
		if err != nil {
			done <- answer{nil, err}
			return
		}
		c, err := net.Dial("tcp", address)
		done <- answer{c, err}
	}()
	a := <-done
	return a.c, a.err
}

// A host is moved: the binary is another one, its configuration file, its
// store, its repository over HTTP and its control plane over TCP are the old ones.
func TestUpstreamMoved(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t)
	u.packCounting("1.0", "a", "b")
	var l net.Listener
	testenv.In(t, "rx", func() {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	})
	var fetches atomic.Int32
	files := http.FileServer(http.Dir(u.dir()))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		files.ServeHTTP(w, r)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })

	api, metrics, debug := freePort(t), freePort(t), freePort(t)
	dir := t.TempDir()
	store := filepath.Join(dir, "l3af-config.json")
	if err := os.WriteFile(store, []byte(xdpList(counting("a", 1, nil))), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "l3afd.cfg")
	text := fmt.Sprintf(`[l3afd]
pid-file: %[1]s/l3afd.pid
datacenter: dummy
bpf-dir: /dev/shm
bpf-log-dir:
bpf-chaining-enabled: true
swagger-api-enabled: true
environment: PROD
BpfMapDefaultPath: %[2]s
file-log-location: %[1]s/l3afd.log
[ebpf-repo]
url: http://%[3]s/
[web]
metrics-addr: localhost:%[4]d
n-metric-samples: 3
[xdp-root]
package-name: xdp-root
[ebpf-chain-debug]
addr: 127.0.0.1:%[5]d
enabled: true
[l3af-configs]
restapi-addr: 127.0.0.1:%[6]d
[l3af-config-store]
filename: %[7]s
[mtls]
enabled: false
`, dir, u.base(), l.Addr(), metrics, debug, api, store)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	u.more = []string{"-config", file, "-host-name", "host", "-package-codename", codename}
	u.start()
	u.until("the store is the state", func() error {
		if got := u.ordered(); got != "a" {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
	u.settled()
	u.runs("a")

	over := func(port int) { // from now on requests go there
		u.origin = fmt.Sprintf("http://localhost:%d", port)
		u.http = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			return dialIn("rx", fmt.Sprintf("127.0.0.1:%d", port))
		}}}
	}
	want := func(method, path, body string, status int, says string) {
		t.Helper()
		if got, answer := u.call(method, path, body); got != status || !strings.Contains(answer, says) {
			t.Errorf("%s %s: %d %s, want %d %q", method, path, got, answer, status, says)
		}
	}
	over(api)
	fetches.Store(0)
	want("POST", "/l3af/configs/v1/add", xdpList(counting("b", 2, nil)), 200, "")
	if n := fetches.Load(); n != 1 {
		t.Errorf("%d requests for one package", n)
	}
	want("GET", "/l3af/configs/v1/v0", "", 200, "    \"xdp_ingress\": [\n      {\n        \"id\": 0,\n        \"name\": \"a\",")
	want("GET", "/swagger/index.html", "", 200, "/l3af/configs/{version}/update")
	want("GET", "/swagger/doc.json", "", 200, `"openapi"`)
	over(metrics)
	want("GET", "/metrics", "", 200, `l3afd_BPFRunning{direction="xdpingress",ebpf_program="b",host="host",interface_name="v0",ipv4_address="192.0.2.1",version="1.0"} 1`)
	want("GET", "/l3af/configs/v1", "", 404, "")
	want("GET", "/bpfs/v0", "", 404, "")
	over(debug)
	want("GET", "/metrics", "", 404, "")
	var list []struct {
		ProgID  uint32
		Program struct{ Name string }
	}
	_, answer := u.call("GET", "/bpfs/v0", "")
	if err := json.Unmarshal([]byte(answer), &list); err != nil || len(list) != 2 || list[0].ProgID != u.chain("v0", l3af.XDP).ProgramID || list[1].Program.Name != "b" {
		t.Errorf("debug: %s, %v", answer, err)
	}
	over(api)
	want("POST", "/l3af/configs/v1/update", xdpList(), 200, "")
	u.stop()
	// The store is not the state any more.
	u.start()
	if got := u.ordered(); got != "" {
		t.Errorf("the store came back: %q", got)
	}
	// What the command prints is the same configuration.
	u.stop()
	out, err := u.daemon("config", "migrate", file)
	if err != nil || !strings.Contains(out, "loopback-write: root\n") || !strings.Contains(out, "# [xdp-root] has no meaning here: chains need no root program\n") {
		t.Errorf("config migrate: %v\n%s", err, out)
	}
	if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
	u.start()
	want("POST", "/l3af/configs/v1/add", xdpList(counting("b", 2, nil)), 200, "")
	u.does("update", xdpList())
}
