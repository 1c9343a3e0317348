package gate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"l3af/internal/gate/gatetest"
)

// echo serves what comes in on a TLS listener back, and gives its address.
func echo(t *testing.T, keys *Keys) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve := tls.NewListener(l, keys.Config())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := serve.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// enter connects as a client and reports whether it is let in.
func enter(address string, config *tls.Config) error {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", address, config)
	if err != nil {
		return err
	}
	defer c.Close()
	return say(c)
}

// say sends a byte and waits for it: with TLS 1.3 a client learns only then
// that the server refuses it.
func say(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte{7}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// files writes what a server needs, with a CA for clients.
func files(t *testing.T, server, clients *gatetest.Pair) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{}
	f.Certificate, f.Key = server.Write(t, dir)
	f.ClientCA = gatetest.WriteCA(t, filepath.Join(dir, "ca.pem"), clients)
	return f
}

func pool(of ...*gatetest.Pair) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range of {
		p.AddCert(c.Certificate)
	}
	return p
}

// Only clients come in whose certificate a CA of the file has signed for them,
// that is valid now, and whose names meet a rule.
func TestCertificates(t *testing.T) {
	ca, other := gatetest.CA(t, "clients"), gatetest.CA(t, "others")
	server := gatetest.Server(t, gatetest.CA(t, "servers"))
	with := func(ca *gatetest.Pair, change func(c *x509.Certificate)) *gatetest.Pair {
		c := gatetest.Template()
		c.Subject = pkix.Name{CommonName: "ops.example.com"} // no rule looks at it
		c.DNSNames, c.ExtKeyUsage = []string{"ops.example.com"}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		change(c)
		return gatetest.Sign(t, c, ca)
	}
	usual := func(*x509.Certificate) {}
	sub := with(ca, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid, c.ExtKeyUsage = true, true, nil })
	chained := with(sub, usual)
	for _, r := range []struct {
		name   string
		client *gatetest.Pair
		rules  []string
		min    string
		most   uint16 // TLS version of the client
		in     bool
	}{
		{"right CA", with(ca, usual), nil, "", 0, true},
		{"right CA, TLS 1.2", with(ca, usual), nil, "1.2", tls.VersionTLS12, true},
		{"right CA, TLS 1.3", with(ca, usual), nil, "1.3", tls.VersionTLS13, true},
		{"TLS 1.2 against 1.3", with(ca, usual), nil, "1.3", tls.VersionTLS12, false},
		{"TLS 1.1 against 1.2", with(ca, usual), nil, "1.2", tls.VersionTLS11, false},
		{"no certificate", nil, nil, "", 0, false},
		{"no certificate, TLS 1.2", nil, nil, "", tls.VersionTLS12, false},
		{"other CA", with(other, usual), nil, "", 0, false},
		{"other CA of the same name", with(gatetest.CA(t, "clients"), usual), nil, "", 0, false},
		{"self-signed", with(nil, usual), nil, "", 0, false},
		{"the CA itself", ca, nil, "", 0, true}, // who has its key can sign anything
		{"no CA between", chained, nil, "", 0, false},
		{"expired", with(ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil, "", 0, false},
		{"not yet valid", with(ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), nil, "", 0, false},
		{"for servers only", with(ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, "", 0, false},
		{"for anything", with(ca, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), nil, "", 0, true},
		{"right SAN", with(ca, usual), []string{"ops.example.com"}, "", 0, true},
		{"right SAN, of several rules", with(ca, usual), []string{"a", `ops\.example\.(com|org)`}, "", 0, true},
		{"wrong SAN", with(ca, usual), []string{"dev.example.com"}, "", 0, false},
		{"wrong SAN, TLS 1.2", with(ca, usual), []string{"dev.example.com"}, "", tls.VersionTLS12, false},
		{"a pattern that matches a part", with(ca, usual), []string{`example`, `[o]ps`, `com$`}, "", 0, false},
		{"no SAN, right common name", with(ca, func(c *x509.Certificate) { c.DNSNames = nil }), []string{"ops.example.com"}, "", 0, false},
		{"no SAN, no rules", with(ca, func(c *x509.Certificate) { c.DNSNames = nil }), nil, "", 0, true},
		{"right SAN, other CA", with(other, usual), []string{"ops.example.com"}, "", 0, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			f := files(t, server, ca)
			f.Rules, f.MinVersion = r.rules, r.min
			var log bytes.Buffer
			keys, err := OpenKeys(f, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			config := &tls.Config{RootCAs: pool(server), ServerName: "localhost", MaxVersion: r.most, MinVersion: tls.VersionTLS10}
			config.InsecureSkipVerify = true // the server's is not in question
			if r.client != nil {
				config.Certificates = []tls.Certificate{r.client.TLS()}
			}
			if err := enter(echo(t, keys), config); (err == nil) != r.in {
				t.Errorf("let in: %t, %v", err == nil, err)
			}
			if told := strings.Contains(log.String(), "no SAN rule admits"); told && (r.in || len(r.rules) == 0) || !told && strings.HasPrefix(r.name, "wrong SAN") {
				t.Errorf("the log says %s", log.String())
			}
		})
	}
}

// Without a client CA a client needs no certificate.
func TestServerOnly(t *testing.T) {
	ca := gatetest.CA(t, "servers")
	f := files(t, gatetest.Server(t, ca), ca)
	f.ClientCA = ""
	keys, err := OpenKeys(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if keys.Mutual() {
		t.Error("clients need a certificate")
	}
	if err := enter(echo(t, keys), &tls.Config{RootCAs: pool(ca), ServerName: "localhost"}); err != nil {
		t.Error(err)
	}
}

// Everything wrong with the files is told before anything is served.
func TestMisconfigured(t *testing.T) {
	ca, other := gatetest.CA(t, "clients"), gatetest.CA(t, "others")
	server := gatetest.Server(t, ca)
	write := func(f Files, what, text string) Files {
		path := map[string]*string{"certificate": &f.Certificate, "key": &f.Key, "ca": &f.ClientCA}[what]
		*path = filepath.Join(t.TempDir(), what)
		if text != "" {
			gatetest.Replace(t, *path, []byte(text))
		}
		return f
	}
	text := func(b []byte, _ []byte) string { return string(b) }
	good := files(t, server, ca)
	_, otherKey := other.PEM(t)
	forClients := gatetest.Client(t, ca)
	for _, r := range []struct {
		name  string
		files Files
		want  string
	}{
		{"good", good, ""},
		{"no certificate", write(good, "certificate", ""), "certificate: open "},
		{"no key", write(good, "key", ""), "key: open "},
		{"no CA", write(good, "ca", ""), "client CA "},
		{"certificate is text", write(good, "certificate", "hello"), "failed to find any PEM data in certificate input"},
		{"key is text", write(good, "key", "hello"), "there is no private key in it (PEM)"},
		{"key is a certificate", write(good, "key", text(ca.PEM(t))), "there is no private key in it (PEM)"},
		{"key is damaged", write(good, "key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "key "},
		{"key of another", write(good, "key", string(otherKey)), "private key does not match public key"},
		{"CA is text", write(good, "ca", "hello"), "there is no certificate in it (PEM)"},
		{"CA is a key", write(good, "ca", string(otherKey)), "there is a private key in it"},
		{"CA is no CA", write(good, "ca", text(gatetest.Sign(t, &x509.Certificate{SerialNumber: gatetest.Template().SerialNumber, NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true}, ca).PEM(t))), "is not that of a CA"},
		{"certificate is a client's", func() Files {
			f := good
			f.Certificate, f.Key = forClients.Write(t, t.TempDir())
			return f
		}(), "is not for servers"},
		{"rules without CA", func() Files { f := good; f.ClientCA, f.Rules = "", []string{"a"}; return f }(), "SAN rules need the certificate of a client CA"},
		{"an empty rule", func() Files { f := good; f.Rules = []string{""}; return f }(), "a SAN rule is empty"},
		{"a rule like a wildcard", func() Files { f := good; f.Rules = []string{"*.example.com"}; return f }(), `write [^.]+\.example\.com`},
		{"a rule that is no pattern", func() Files { f := good; f.Rules = []string{"a("}; return f }(), `SAN rule "a(" is no pattern`},
		{"an old version", func() Files { f := good; f.MinVersion = "1.1"; return f }(), `TLS version "1.1": must be 1.2 or 1.3`},
	} {
		_, err := OpenKeys(r.files, nil)
		if r.want == "" && err != nil || r.want != "" && (err == nil || !strings.Contains(err.Error(), r.want)) {
			t.Errorf("%s: %v, want %s", r.name, err, r.want)
		}
	}
}

// Certificates and CAs are replaced under clients that connect all the time and
// clients that stay: none of those that are right is refused or dropped, files
// that do not fit change nothing, and who is no longer admitted is not.
func TestReload(t *testing.T) {
	ca := gatetest.CA(t, "servers")
	clients := []*gatetest.Pair{gatetest.CA(t, "clients 0"), gatetest.CA(t, "clients 1")}
	dir := t.TempDir()
	f := Files{}
	f.Certificate, f.Key = gatetest.Server(t, ca).Write(t, dir)
	f.ClientCA = gatetest.WriteCA(t, filepath.Join(dir, "ca.pem"), clients...)
	keys, err := OpenKeys(f, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	address := echo(t, keys)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	entered := 0
	for i := range 8 {
		// The first CA stays, the second goes in the end.
		config := &tls.Config{RootCAs: pool(ca), ServerName: "localhost",
			Certificates: []tls.Certificate{gatetest.Client(t, clients[0]).TLS()}}
		config.VerifyConnection = func(s tls.ConnectionState) error {
			mu.Lock()
			defer mu.Unlock()
			seen[s.PeerCertificates[0].SerialNumber.String()] = true
			entered++
			return nil
		}
		wg.Go(func() {
			stays, err := tls.Dial("tcp", address, config)
			if err != nil {
				t.Error(err)
				return
			}
			defer stays.Close()
			for ctx.Err() == nil {
				if err := say(stays); err != nil {
					t.Errorf("client %d: dropped: %v", i, err)
					return
				}
				if err := enter(address, config); err != nil {
					t.Errorf("client %d: refused: %v", i, err)
					return
				}
			}
		})
	}
	second := &tls.Config{RootCAs: pool(ca), ServerName: "localhost", Certificates: []tls.Certificate{gatetest.Client(t, clients[1]).TLS()}}
	if err := enter(address, second); err != nil {
		t.Error(err)
	}
	want := map[string]bool{}
	for i := range 20 {
		if i%5 == 4 { // not to be used
			gatetest.Replace(t, f.Certificate, []byte("damaged"))
		}
		if i%5 == 2 {
			gatetest.WriteCA(t, f.ClientCA, clients[i%2], clients[(i+1)%2])
		}
		p := gatetest.Server(t, ca)
		p.Write(t, dir)
		want[p.Certificate.SerialNumber.String()] = true
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			ok := seen[p.Certificate.SerialNumber.String()]
			mu.Unlock()
			if ok || t.Failed() {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("certificate %d was not taken", i)
			}
		}
	}
	gatetest.WriteCA(t, f.ClientCA, clients[0])
	if err := enter(address, second); err == nil {
		t.Error("a client of a CA that is gone is let in")
	}
	stop()
	wg.Wait()
	t.Logf("%d connections, %d certificates", entered, len(seen))
}

// Ends are told: soon, now, and not yet begun.
func TestExpiry(t *testing.T) {
	ca := gatetest.CA(t, "clients") // for an hour
	server := func(from, until time.Duration) *gatetest.Pair {
		c := gatetest.Template()
		c.Subject = pkix.Name{CommonName: "server"}
		c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(until)
		return gatetest.Sign(t, c, ca)
	}
	for _, r := range []struct {
		server *gatetest.Pair
		warn   time.Duration
		want   []string
	}{
		{server(-time.Hour, 100*time.Hour), 30 * time.Minute, nil},
		{server(-time.Hour, 100*time.Hour), 24 * time.Hour, []string{"level=WARN msg=\"a certificate ends soon\" role=client-ca subject=\"CN=clients\"", "days=0"}},
		{server(-time.Hour, 49*time.Hour), 72 * time.Hour, []string{"msg=\"a certificate ends soon\" role=server subject=\"CN=server\"", "days=2"}},
		{server(-time.Hour, -time.Minute), 0, []string{"level=ERROR msg=\"a certificate has ended\" role=server"}},
		{server(time.Minute, time.Hour), 0, []string{"level=ERROR msg=\"a certificate is not valid yet\" role=server"}},
	} {
		f := files(t, r.server, ca)
		f.Warn = r.warn
		var log bytes.Buffer
		keys, err := OpenKeys(f, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		keys.Watch(ctx) // looks once
		for _, line := range r.want {
			if !strings.Contains(log.String(), line) {
				t.Errorf("no %q in %s", line, log.String())
			}
		}
		if len(r.want) == 0 && log.Len() > 0 {
			t.Errorf("told: %s", log.String())
		}
		list := keys.Certificates()
		if fmt.Sprint(list[0].Role, list[1].Role) != "serverclient-ca" || !list[0].Until.Equal(r.server.Certificate.NotAfter) {
			t.Errorf("certificates: %+v", list)
		}
		if err := os.Chmod(f.Key, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKeys(f, slog.New(slog.NewTextHandler(&log, nil))); err != nil || !strings.Contains(log.String(), "others than its owner may read the key") {
			t.Errorf("key for everybody: %v, %s", err, log.String())
		}
	}
}
