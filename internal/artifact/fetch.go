package artifact

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"syscall"
	"time"
)

const maxRedirects = 5

// justNow is how young a file is that may change once more without another
// time: servers tell it in seconds, and have clocks of their own.
const justNow = time.Minute

// client is what talks to servers. No connection is kept: applies are rare.
func (r Remote) client() (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.CA != "" {
		text, err := os.ReadFile(r.CA)
		if err != nil {
			return nil, fmt.Errorf("CA of package servers: %w", err)
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("CA of package servers: %s has no certificate (PEM)", r.CA)
		}
	}
	if r.Certificate != "" || r.Key != "" {
		load := func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(r.Certificate, r.Key)
			if err != nil {
				return nil, fmt.Errorf("certificate for package servers: %w", err)
			}
			return &c, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: toConnect}).DialContext,
			TLSHandshakeTimeout:   toConnect,
			ResponseHeaderTimeout: toAnswer,
			TLSClientConfig:       config,
			ForceAttemptHTTP2:     true,
			DisableKeepAlives:     true,
			// A server that says Content-Encoding: gzip of a .tar.gz means the file as it is.
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: redirect,
		Timeout:       cmp.Or(r.Timeout, toSend),
	}, nil
}

// redirect follows where it is as safe to go as it was before.
func redirect(next *http.Request, before []*http.Request) error {
	switch {
	case len(before) > maxRedirects:
		return &astray{fmt.Errorf("more than %d redirects", maxRedirects)}
	case next.URL.Scheme != "https" && (next.URL.Scheme != "http" || before[0].URL.Scheme == "https"):
		return &astray{fmt.Errorf("a redirect leads from %s to %s", before[0].URL.Scheme, clip(next.URL.Scheme))}
	}
	return nil
}

// astray: the server leads where nobody should follow.
type astray struct{ error }

// download gets a package from a server. What the store has from there is
// taken when the server says that it has not changed, or does not answer.
func (o *Opener) download(ctx context.Context, ref string) (*Package, error) {
	u, err := url.Parse(ref)
	switch {
	case err != nil:
		return nil, errors.New("not a URL")
	case u.Host == "" || u.Fragment != "":
		return nil, errors.New("want the URL of a file on a server")
	case u.User != nil:
		return nil, errors.New("a reference must hold no password: everybody may read the state (a client certificate says who we are)")
	}
	name := path.Base(u.Path)
	if !isArchive(name) && !isObject(name) {
		return nil, errors.New("neither an archive nor an object file: its name ends in none of .tar.gz, .tgz, .zip and .o")
	}
	known, have := o.store.fetched(ref)
	client := o.client
	if client == nil {
		if client, err = o.remote.client(); err != nil {
			return nil, err
		}
	}
	p, now, err := fetch(ctx, client, ref, name, known)
	switch {
	case errors.Is(err, errUnchanged) && have != nil:
		return have, nil
	case errors.As(err, new(*unavailable)) && have != nil && ctx.Err() == nil:
		o.log.Warn("what was fetched before is taken: the server does not give the package", "package", ref, "fetched", known.Time, "error", err)
		return have, nil
	case err != nil:
		return nil, err
	}
	if err := o.store.remember(ref, now, p.Digest); err != nil {
		o.log.Warn("what was fetched is not remembered, and will be fetched again", "package", ref, "error", err)
	}
	return p, nil
}

// errUnchanged: what is known already is right.
var errUnchanged = errors.New("the server says that it has not changed, and nothing is known of it")

// unavailable: the server cannot be asked now.
type unavailable struct{ error }

func (e *unavailable) Unwrap() error { return e.error }

// fetch gets a package, unless it is what the server had when known was said.
func fetch(ctx context.Context, client *http.Client, ref, name string, known validators) (*Package, validators, error) {
	limit := int64(maxArchive)
	if isObject(name) {
		limit = maxObject
	}
	b, now, err := fetchBytes(ctx, client, ref, limit, known)
	if err != nil {
		return nil, now, err
	}
	p, err := packed(name, b)
	return p, now, err
}

// fetchBytes gets the bytes of a file, unless it is what the server had when known was
// said.
func fetchBytes(ctx context.Context, client *http.Client, ref string, limit int64, known validators) ([]byte, validators, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ref, nil)
	if err != nil {
		return nil, validators{}, err
	}
	if known.ETag != "" {
		req.Header.Set("If-None-Match", known.ETag)
	} else if known.Modified != "" {
		req.Header.Set("If-Modified-Since", known.Modified)
	}
	req.Header.Set("User-Agent", "l3afd")
	res, err := client.Do(req)
	if err != nil {
		err = withoutURL(err)
		if isTLS(err) || errors.As(err, new(*astray)) {
			return nil, validators{}, err
		}
		return nil, validators{}, &unavailable{err}
	}
	defer res.Body.Close()
	now := validators{ETag: res.Header.Get("ETag")}
	if at, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil && time.Since(at) > justNow {
		now.Modified = res.Header.Get("Last-Modified")
	}
	switch said := fmt.Errorf("the server says %s", clip(res.Status)); {
	case res.StatusCode == http.StatusNotModified:
		return nil, now, errUnchanged
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusGone:
		return nil, now, fmt.Errorf("%w (%w)", said, fs.ErrNotExist)
	case res.StatusCode >= 500, res.StatusCode == http.StatusTooManyRequests:
		return nil, now, &unavailable{said}
	case res.StatusCode != http.StatusOK:
		return nil, now, said
	}
	b, err := upTo(res.Body, res.ContentLength, limit)
	if err != nil {
		return nil, now, fmt.Errorf("download: %w", withoutURL(err))
	}
	return b, now, nil
}

// Archive gets the files of an archive, which may hold anything, by the file://,
// http:// or https:// URL of it. The errors are those of [Opener.Open].
func (r Remote) Archive(ctx context.Context, ref string) (map[string][]byte, error) {
	u, err := url.Parse(ref)
	if err != nil {
		return nil, fmt.Errorf("%s: not a URL", clip(ref))
	}
	var b []byte
	switch u.Scheme {
	case "file":
		b, err = fromDisk(u.Path)
	case "http", "https":
		var client *http.Client
		if client, err = r.client(); err == nil {
			b, _, err = fetchBytes(ctx, client, ref, maxArchive, validators{})
		}
	default:
		err = errors.New("want a file://, http:// or https:// URL")
	}
	var packed map[string]file
	if err == nil {
		packed, err = unpack(path.Base(u.Path), b)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clip(ref), err)
	}
	files := make(map[string][]byte, len(packed))
	for name, f := range packed {
		files[name] = f.data
	}
	return files, nil
}

// Unavailable reports whether an error is that a server cannot be asked now.
func Unavailable(err error) bool { return errors.As(err, new(*unavailable)) }

func fromDisk(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	text, err := all(f, maxArchive)
	return text.data, err
}

// withoutURL drops the URL of an error, which the caller says.
func withoutURL(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// isTLS reports whether the server is not who it should be, or does not take us.
func isTLS(err error) bool {
	return errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, new(tls.AlertError)) ||
		errors.As(err, new(tls.RecordHeaderError))
}
