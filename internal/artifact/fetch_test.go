package artifact

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// newOpener is an opener with a store of its own.
func newOpener(t *testing.T, r Remote) *Opener {
	t.Helper()
	o, err := NewOpener(r, openStore(t, t.TempDir()), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func get(t *testing.T, o *Opener, ref string) *Package {
	t.Helper()
	p, err := o.Open(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func failsWith(t *testing.T, o *Opener, ref, want string) error {
	t.Helper()
	p, err := o.Open(context.Background(), ref)
	if err == nil || !strings.HasPrefix(err.Error(), "open package "+clip(ref)+": ") || !strings.Contains(err.Error(), want) {
		t.Errorf("Open(%s) = %+v, %v, want %s", ref, p, err, want)
	}
	return err
}

// Whatever a server does, there is a package or an error, in bounded time and
// memory.
func TestFetch(t *testing.T) {
	good := tarball(t, packedFiles("fw/")...)
	mux := http.NewServeMux()
	mux.HandleFunc("/good/fw.tar.gz", func(w http.ResponseWriter, _ *http.Request) { w.Write(good) })
	mux.HandleFunc("/encoded/fw.tar.gz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(good)
	})
	mux.HandleFunc("/good/x.o", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("elf")) })
	mux.HandleFunc("/500/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/403/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	mux.HandleFunc("/304/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
	mux.HandleFunc("/page/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>please log in") })
	mux.HandleFunc("/short/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(good)))
		w.Write(good[:len(good)/2])
	})
	// Half of it, and nothing says that there is more.
	mux.HandleFunc("/half/", func(w http.ResponseWriter, _ *http.Request) { w.Write(good[:len(good)/2]) })
	mux.HandleFunc("/claims/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(maxArchive+1))
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("/endless/", func(w http.ResponseWriter, r *http.Request) {
		for buf := make([]byte, 1<<20); r.Context().Err() == nil; {
			w.Write(buf)
		}
	})
	mux.HandleFunc("/silent/", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/stalls/", func(w http.ResponseWriter, r *http.Request) {
		w.Write(good[:10])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/loop/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
	mux.HandleFunc("/moved/fw.tar.gz", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/good/fw.tar.gz", http.StatusFound)
	})
	mux.HandleFunc("/tofile/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	o := newOpener(t, Remote{})
	want, err := archive("fw.tar.gz", good)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"/good/", "/moved/", "/encoded/"} {
		if p := get(t, o, s.URL+at+"fw.tar.gz"); p.Digest != want.Digest || p.Ref != s.URL+at+"fw.tar.gz" {
			t.Errorf("%s: %+v", at, p)
		}
	}
	if p := get(t, o, s.URL+"/good/x.o"); p.Manifest.Name != "x" {
		t.Errorf("bare object: %+v", p)
	}
	for at, want := range map[string]string{
		"/404/":     "the server says 404 Not Found",
		"/500/":     "the server says 500 Internal Server Error",
		"/403/":     "the server says 403 Forbidden",
		"/304/":     "the server says that it has not changed, and nothing is known of it",
		"/page/":    "unpack: damaged: gzip: invalid header",
		"/short/":   "download: unexpected EOF",
		"/half/":    "damaged: it ends too early",
		"/claims/":  "download: too large: more than 67108864 bytes",
		"/endless/": "download: too large: more than 67108864 bytes",
		"/loop/":    "more than 5 redirects",
		"/tofile/":  "a redirect leads from http to file",
	} {
		failsWith(t, o, s.URL+at+"fw.tar.gz", want)
	}
	if err := failsWith(t, o, s.URL+"/404/fw.zip", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("404: %v, want fs.ErrNotExist", err)
	}
	hasty := newOpener(t, Remote{Timeout: 200 * time.Millisecond})
	failsWith(t, hasty, s.URL+"/silent/fw.tar.gz", "Client.Timeout exceeded")
	failsWith(t, hasty, s.URL+"/stalls/fw.tar.gz", "Client.Timeout")
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if p, err := o.Open(ctx, s.URL+"/stalls/fw.tar.gz"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %+v, %v", p, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	failsWith(t, o, "http://"+l.Addr().String()+"/fw.tar.gz", "connection refused")
}

// What the store has is asked for, not fetched; a server that is away does not
// stop anybody; a damaged download is never taken for the package.
func TestFetchAgain(t *testing.T) {
	var body atomic.Pointer[[]byte]
	serve := func(text string) string {
		entries := packedFiles("fw/")
		entries[1].text = text
		b := tarball(t, entries...)
		body.Store(&b)
		p, err := archive("fw.tar.gz", b)
		if err != nil {
			t.Fatal(err)
		}
		return p.Digest
	}
	for _, header := range []string{"ETag", "Last-Modified", ""} {
		t.Run("with "+header, func(t *testing.T) {
			first := serve("one")
			var sent, asked int
			broken := ""
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				b := *body.Load()
				tag := fmt.Sprintf(`"%d-%x"`, len(b), b[len(b)-8:])
				if header == "Last-Modified" {
					tag = time.Unix(int64(b[len(b)-8])<<16|int64(b[len(b)-7])<<8, 0).UTC().Format(http.TimeFormat)
				}
				condition := map[string]string{"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}[header]
				switch {
				case broken == "500":
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				case broken == "404":
					w.WriteHeader(http.StatusNotFound)
					return
				case header != "" && r.Header.Get(condition) == tag:
					w.WriteHeader(http.StatusNotModified)
					return
				}
				if header != "" {
					w.Header().Set(header, tag)
				}
				if broken == "short" {
					b = b[:len(b)-4]
				}
				sent++
				w.Write(b)
			}))
			defer s.Close()
			o := newOpener(t, Remote{})
			ref := s.URL + "/fw/latest/bookworm/fw.tar.gz"

			broken = "short"
			failsWith(t, o, ref, "damaged")
			broken = ""
			p := get(t, o, ref)
			if p.Digest != first || sent != 2 {
				t.Fatalf("after a damaged download: %.12s, sent %d times", p.Digest, sent)
			}
			// A dry run: the store does not have it.
			if get(t, o, ref); sent != 3 {
				t.Errorf("not stored, sent %d times", sent)
			}
			if err := o.store.Put(p); err != nil {
				t.Fatal(err)
			}
			again := get(t, o, ref)
			if want := map[bool]int{true: 3, false: 4}[header != ""]; again.Digest != first || sent != want || again.Ref != ref {
				t.Errorf("unchanged: %.12s, sent %d times, want %d", again.Digest, sent, want)
			}
			for _, broken = range []string{"500", "gone"} {
				if broken == "gone" {
					s.CloseClientConnections()
					s.Listener.Close()
				}
				if p := get(t, o, ref); p.Digest != first {
					t.Errorf("%s: %.12s", broken, p.Digest)
				}
			}
			// As after a restart with the same store.
			o2, err := NewOpener(Remote{}, openStore(t, o.store.dir), nil)
			if err != nil {
				t.Fatal(err)
			}
			if p := get(t, o2, ref); p.Digest != first {
				t.Errorf("after a restart: %.12s", p.Digest)
			}
			if err := o.store.Keep(nil); err != nil {
				t.Fatal(err)
			}
			failsWith(t, o, ref, "connection refused")
			if len(o.store.record()) != 0 {
				t.Errorf("what is known of packages that are not kept: %+v", o.store.record())
			}
		})
	}
	// A new one under the old name.
	first := serve("one")
	broken := atomic.Bool{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := *body.Load()
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, b[len(b)-8:]))
		if broken.Load() {
			b = b[:len(b)/2]
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b)))
	}))
	defer s.Close()
	o := newOpener(t, Remote{})
	ref := s.URL + "/latest/fw.tar.gz"
	p := get(t, o, ref)
	if err := o.store.Put(p); err != nil || p.Digest != first {
		t.Fatalf("%.12s, %v", p.Digest, err)
	}
	second := serve("two")
	broken.Store(true)
	failsWith(t, o, ref, "damaged")
	broken.Store(false)
	if p := get(t, o, ref); p.Digest != second {
		t.Errorf("the new one: %.12s, want %.12s", p.Digest, second)
	}
	if err := os.WriteFile(filepath.Join(o.store.dir, fetchedName), []byte("{garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := get(t, o, ref); p.Digest != second {
		t.Errorf("with a damaged record: %.12s", p.Digest)
	}
}

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// issue writes a certificate and its key.
func (a *authority) issue(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "host"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	err = errors.Join(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// https: the server must be vouched for, and a package that is known does not
// excuse one that is not.
func TestFetchTLS(t *testing.T) {
	good := zipped(t, packedFiles("fw/")...)
	ca := newAuthority(t)
	serverCert, serverKey := ca.issue(t, t.TempDir())
	clientCert, clientKey := ca.issue(t, t.TempDir())
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.pem)
	start := func(auth tls.ClientAuthType) string {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/plain/fw.zip" {
				http.Redirect(w, r, "http://"+r.Host+"/fw.zip", http.StatusFound)
				return
			}
			w.Write(good)
		}))
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: auth, ClientCAs: pool}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.URL
	}
	open, strict := start(tls.NoClientCert), start(tls.RequireAndVerifyClientCert)

	stranger := newOpener(t, Remote{})
	failsWith(t, stranger, open+"/fw.zip", "certificate signed by unknown authority")
	trusting := newOpener(t, Remote{CA: caFile})
	p := get(t, trusting, open+"/fw.zip")
	failsWith(t, trusting, strict+"/fw.zip", "certificate required")
	failsWith(t, trusting, open+"/plain/fw.zip", "a redirect leads from https to http")
	known := newOpener(t, Remote{CA: caFile, Certificate: clientCert, Key: clientKey})
	if q := get(t, known, strict+"/fw.zip"); q.Digest != p.Digest {
		t.Errorf("%.12s, want %.12s", q.Digest, p.Digest)
	}
	if err := errors.Join(stranger.store.Put(p), stranger.store.remember(open+"/fw.zip", validators{}, p.Digest)); err != nil {
		t.Fatal(err)
	}
	failsWith(t, stranger, open+"/fw.zip", "certificate signed by unknown authority")

	for _, r := range []struct {
		remote Remote
		want   string
	}{
		{Remote{CA: "/nowhere/ca.pem"}, "CA of package servers: open /nowhere/ca.pem"},
		{Remote{CA: clientKey}, "has no certificate (PEM)"},
		{Remote{Certificate: clientCert}, "certificate for package servers: "},
	} {
		if _, err := NewOpener(r.remote, nil, nil); err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%+v: %v, want %s", r.remote, err, r.want)
		}
	}
}

func TestRepositoryRef(t *testing.T) {
	for _, r := range []struct{ repo, name, version, codename, file, want string }{
		{"https://repo.example/l3af", "fw", "1.0", "bookworm", "l3af_fw.tar.gz", "https://repo.example/l3af/fw/1.0/bookworm/l3af_fw.tar.gz"},
		{"file:///srv/repo/", "fw", "latest", "jammy", "fw.zip", "file:///srv/repo/fw/latest/jammy/fw.zip"},
		{"http://h:8000", "a b%", "1#2", "x?", "f.tgz", "http://h:8000/a%20b%25/1%232/x%3F/f.tgz"},
		{"/srv/a%20 b", "fw", "1", "jammy", "fw.zip", "file:///srv/a%2520%20b/fw/1/jammy/fw.zip"},
		{"srv/repo", "fw", "1", "jammy", "fw.zip", `repository "srv/repo": want a file://, http:// or https:// URL, or an absolute path`},
		{"ftp://x", "fw", "1", "jammy", "fw.zip", `want a file://, http:// or https:// URL`},
		{"file:///r", "../fw", "1", "jammy", "fw.zip", `name of the package: "../fw" cannot be one part of a path`},
		{"file:///r", "fw", "..", "jammy", "fw.zip", `version of the package: ".." cannot be one part of a path`},
		{"file:///r", "fw", "", "jammy", "fw.zip", `version of the package: "" cannot be one part of a path`},
		{"file:///r", "fw", "1", "jam/my", "fw.zip", `codename of the package: "jam/my" cannot be one part of a path`},
		{"file:///r", "fw", "1", "jammy", "a\\fw.zip", `archive of the package: "a\\fw.zip" cannot be one part of a path`},
		{"file:///r", "fw", "1", "jammy", "fw.o", `"fw.o" is no archive`},
	} {
		got, err := RepositoryRef(r.repo, r.name, r.version, r.codename, r.file)
		if err != nil {
			got = err.Error()
		}
		if got != r.want && (err == nil || !strings.Contains(got, r.want)) {
			t.Errorf("%+v: got %s", r, got)
		}
	}
	// The file:// reference leads to the file, whatever its name.
	dir := tree(t, map[string]string{"a b%/1#2/x?/fw.zip": string(zipped(t, packedFiles("fw/")...))})
	ref, err := RepositoryRef("file://"+dir, "a b%", "1#2", "x?", "fw.zip")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ref); err != nil {
		t.Error(err)
	}
}

// An archive of anything comes whole or not at all, from wherever it is.
func TestRemoteArchive(t *testing.T) {
	good := tarball(t, packedFiles("fw/")...)
	dir := t.TempDir()
	for name, text := range map[string][]byte{"v.tar.gz": good, "half.tar.gz": good[:len(good)/2]} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := http.FileServer(http.Dir(dir))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy.tar.gz" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer s.Close()
	for _, base := range []string{"file://" + dir, s.URL} {
		got, err := Remote{}.Archive(t.Context(), base+"/v.tar.gz")
		if err != nil || len(got) != len(packedFiles("fw/")) {
			t.Errorf("%s: %d files, %v", base, len(got), err)
		}
		for name := range got {
			if !strings.HasPrefix(name, "fw/") {
				t.Errorf("%s: file %s", base, name)
			}
		}
		if _, err := (Remote{}).Archive(t.Context(), base+"/half.tar.gz"); err == nil || !strings.Contains(err.Error(), "damaged") || Unavailable(err) {
			t.Errorf("%s: half of it: %v", base, err)
		}
		if _, err := (Remote{}).Archive(t.Context(), base+"/none.tar.gz"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: none: %v", base, err)
		}
	}
	if _, err := (Remote{}).Archive(t.Context(), s.URL+"/busy.tar.gz"); !Unavailable(err) {
		t.Errorf("busy: %v", err)
	}
	if _, err := (Remote{}).Archive(t.Context(), "ftp://x/v.tar.gz"); err == nil || Unavailable(err) {
		t.Errorf("ftp: %v", err)
	}
}
