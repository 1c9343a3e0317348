package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"l3af/internal/api/apitest"
	"l3af/internal/gate"
	"l3af/internal/gate/gatetest"
)

// serveTCP serves a node on loopback.
func serveTCP(t *testing.T, node Node, opts Options, how gate.Options) string {
	t.Helper()
	l, err := gate.Listen("127.0.0.1:0", how)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(node, opts).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// Over TCP on loopback root's processes write where that is set up, others and
// pages of other sites do not.
func TestLoopbackWrites(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, to become others")
		}
		t.Skip("needs root, to become others")
	}
	for _, r := range []struct {
		name    string
		uid     uint32
		off     bool
		headers string
		want    string
	}{
		{"root", 0, false, "", "PUT 200 "},
		{"root, by a name of loopback", 0, false, "Host: localhost:53000", "PUT 200 "},
		{"root, and it is off", 0, true, "", "PUT 403 "},
		{"nobody", 65534, false, "", "PUT 403 "},
		{"nobody, and it is off", 65534, true, "", "PUT 403 "},
		{"a page in root's browser", 0, false, "Sec-Fetch-Site: cross-site", "PUT 403 "},
		{"a page in root's older browser", 0, false, "Origin: https://example.com", "PUT 403 "},
		{"a page whose name leads here", 0, false, "Host: example.com", "PUT 403 "},
	} {
		t.Run(r.name, func(t *testing.T) {
			node := &apitest.Node{}
			address := serveTCP(t, node, Options{}, gate.Options{RootWrites: !r.off})
			cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"ask"}, Dir: "/",
				Env: append(os.Environ(), asSomebody+"="+address, asSomebody+"_HEADERS="+r.headers)}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: r.uid, Gid: r.uid}}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			put, get, _ := strings.Cut(string(out), "\n")
			if !strings.HasPrefix(put, r.want) || !strings.HasPrefix(get, "GET 200 ") {
				t.Errorf("got %s\n%s, want %s", put, get, r.want)
			}
			by := node.Current()
			if written := strings.HasPrefix(r.want, "PUT 200"); written != (by != nil) || written && by.By != "root (uid 0)" {
				t.Errorf("applied: %+v", by)
			}
		})
	}
}

// Over TLS a client writes whose certificate is let in, and is called what the
// certificate says; all others are not even heard.
func TestCertificateWrites(t *testing.T) {
	ca := gatetest.CA(t, "ca")
	dir := t.TempDir()
	f := gate.Files{Rules: []string{`ops-[0-9]+\.example\.com`}}
	f.Certificate, f.Key = gatetest.Server(t, ca).Write(t, dir)
	f.ClientCA = gatetest.WriteCA(t, filepath.Join(dir, "ca.pem"), ca)
	keys, err := gate.OpenKeys(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	metrics := NewMetrics("1")
	metrics.Certificates(keys.Certificates)
	node := &apitest.Node{}
	address := serveTCP(t, node, Options{Metrics: metrics}, gate.Options{Keys: keys, RootWrites: true})
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	ask := func(method, path, body string, client *gatetest.Pair) (int, string, error) {
		config := &tls.Config{RootCAs: roots}
		if client != nil {
			config.Certificates = []tls.Certificate{client.TLS()}
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text), err
	}
	if code, body, err := ask("PUT", "/v1/state", document, gatetest.Client(t, ca, "ops-1.example.com")); code != 200 {
		t.Errorf("%d %s %v", code, body, err)
	}
	if by := node.Current(); by == nil || !strings.HasPrefix(by.By, "certificate ops-1.example.com from 127.0.0.1:") {
		t.Errorf("applied: %+v", by)
	}
	for name, client := range map[string]*gatetest.Pair{
		"no certificate": nil, "another name": gatetest.Client(t, ca, "dev.example.com"), "another CA": gatetest.Client(t, gatetest.CA(t, "ca"), "ops-1.example.com"),
	} {
		for _, method := range []string{"PUT", "GET"} {
			if code, body, err := ask(method, "/v1/state", document, client); err == nil {
				t.Errorf("%s: %s: %d %s", name, method, code, body)
			}
		}
	}
	_, body, _ := ask("GET", "/metrics", "", gatetest.Client(t, ca, "ops-2.example.com"))
	for _, line := range []string{`l3af_certificate_expiry_timestamp_seconds{role="server",subject="CN=server"} `, `{role="client-ca",subject="CN=ca"} `} {
		if !strings.Contains(body, line) {
			t.Errorf("no %s", line)
		}
	}
	// Not TLS at all.
	if resp, err := http.Get("http://" + address + "/healthz"); err == nil {
		if resp.Body.Close(); resp.StatusCode == 200 {
			t.Error("plain HTTP is answered")
		}
	}
}
