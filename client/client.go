// Package client talks to l3afd over its unix socket, or over TCP.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"

	"l3af"
)

// DefaultSocket is where l3afd listens unless it is told otherwise.
const DefaultSocket = "/run/l3afd/l3afd.sock"

// Client is a client of one l3afd. The zero value talks to [DefaultSocket].
// It keeps no connections between calls, and may be used by several
// goroutines.
//
// When the daemon refuses, errors are an [*Error] that wraps one of
// [*l3af.InvalidError], [*l3af.ConflictError], [l3af.ErrNotFound] or
// [l3af.ErrForbidden]; when it cannot be reached, they wrap the cause.
type Client struct {
	Socket string
	// Server is https://HOST:PORT, or http:// on loopback; "": the socket.
	Server string
	TLS    *tls.Config // for https; nil: the system's CAs, and no certificate
}

// Error is why a call failed.
type Error struct {
	Status int    // of HTTP; 0 when the daemon did not answer
	Code   string // of the problem: invalid, conflict, … (see /openapi.json)
	Detail string
	Hint   string // what to do about it; may be ""
	Err    error  // the cause; may be nil
}

// Error gives the detail. The hint is not part of it.
func (e *Error) Error() string { return e.Detail }

func (e *Error) Unwrap() error { return e.Err }

// Apply makes s the state of the node. ifRevision is the revision that must
// be in force, -1 for any; 0 is that of a node that was told nothing yet.
// Applied.Failed lists what does not run as wanted; that is no error.
func (c *Client) Apply(ctx context.Context, s *l3af.State, ifRevision int) (*l3af.Applied, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	return c.ApplyDocument(ctx, body, ifRevision)
}

// ApplyDocument is [Client.Apply] of a document in JSON or YAML. Relative
// paths in it are those of the daemon.
func (c *Client) ApplyDocument(ctx context.Context, document []byte, ifRevision int) (*l3af.Applied, error) {
	return call[*l3af.Applied](ctx, c, http.MethodPut, "/v1/state", document, ifRevision)
}

// Plan says what Apply would do, and changes nothing.
func (c *Client) Plan(ctx context.Context, s *l3af.State) (*l3af.Applied, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return c.PlanDocument(ctx, body)
}

// PlanDocument is [Client.Plan] of a document in JSON or YAML.
func (c *Client) PlanDocument(ctx context.Context, document []byte) (*l3af.Applied, error) {
	return call[*l3af.Applied](ctx, c, http.MethodPost, "/v1/plan", document, -1)
}

// State is the revision in force; [l3af.ErrNotFound] before the first apply.
func (c *Client) State(ctx context.Context) (*l3af.Revision, error) {
	return call[*l3af.Revision](ctx, c, http.MethodGet, "/v1/revisions/current", nil, -1)
}

// Status is what the node runs, read back from the kernel.
func (c *Client) Status(ctx context.Context) (*l3af.Status, error) {
	return call[*l3af.Status](ctx, c, http.MethodGet, "/v1/status", nil, -1)
}

// Chain is the status of one hook; [l3af.ErrNotFound] when it has no chain.
func (c *Client) Chain(ctx context.Context, h l3af.Hook) (*l3af.ChainStatus, error) {
	return call[*l3af.ChainStatus](ctx, c, http.MethodGet, chainPath(h), nil, -1)
}

// Revisions are the applied states that are kept, newest first.
func (c *Client) Revisions(ctx context.Context) ([]l3af.Revision, error) {
	return call[[]l3af.Revision](ctx, c, http.MethodGet, "/v1/revisions", nil, -1)
}

// Revision is one applied state; [l3af.ErrNotFound] when it is not kept.
func (c *Client) Revision(ctx context.Context, n int) (*l3af.Revision, error) {
	return call[*l3af.Revision](ctx, c, http.MethodGet, "/v1/revisions/"+strconv.Itoa(n), nil, -1)
}

// Rollback applies an old revision again; 0 is the one before the current.
func (c *Client) Rollback(ctx context.Context, to, ifRevision int) (*l3af.Applied, error) {
	body, err := json.Marshal(map[string]int{"revision": to})
	if err != nil {
		return nil, fmt.Errorf("rollback: %w", err)
	}
	return call[*l3af.Applied](ctx, c, http.MethodPost, "/v1/rollback", body, ifRevision)
}

// Health says nothing when the daemon does its work, and else why not.
func (c *Client) Health(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, http.MethodGet, "/healthz", nil, -1)
	return err
}

// call asks the daemon and reads its answer.
func call[T any](ctx context.Context, c *Client, method, path string, body []byte, ifRevision int) (T, error) {
	var answer T
	resp, done, err := c.do(ctx, method, path, body, ifRevision)
	if err != nil {
		return answer, err
	}
	defer done()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return answer, fmt.Errorf("read answer of %s: %w", c.place(), err)
	}
	return answer, nil
}

func (c *Client) socket() string {
	if c.Socket == "" {
		return DefaultSocket
	}
	return c.Socket
}

// place is where the daemon is asked.
func (c *Client) place() string {
	if c.Server != "" {
		return c.Server
	}
	return c.socket()
}

// do sends a request, and returns the answer of a success and what ends it.
func (c *Client) do(ctx context.Context, method, path string, body []byte, ifRevision int) (*http.Response, func(), error) {
	header := http.Header{}
	if len(body) > 0 {
		// JSON is YAML for the daemon: it looks at the content.
		header.Set("Content-Type", "application/yaml")
	}
	if ifRevision >= 0 {
		header.Set("If-Match", `"`+strconv.Itoa(ifRevision)+`"`)
	}
	return c.send(ctx, method, path, bytes.NewReader(body), header)
}

// send is do of a body that may be a stream.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Response, func(), error) {
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: c.TLS}
	base := strings.TrimSuffix(c.Server, "/")
	if base == "" {
		base = "http://l3afd"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.socket())
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, nil, err
	}
	req.Header = header
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, nil, c.unreachable(ctx, err)
	}
	done := func() {
		resp.Body.Close()
		transport.CloseIdleConnections()
	}
	if resp.StatusCode != http.StatusOK {
		defer done()
		return nil, nil, refused(resp)
	}
	return resp, done, nil
}

// unreachable says why there was no answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	cause := err
	if sys := (*os.SyscallError)(nil); errors.As(err, &sys) {
		cause = sys.Err
	}
	e := &Error{Detail: fmt.Sprintf("cannot reach l3afd at %s: %v", c.place(), cause), Err: err}
	alert := (*net.OpError)(nil)
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		e.Hint = "name the CA of its certificate with --ca"
	case errors.As(err, &alert) && alert.Op == "remote error":
		e.Hint = "it takes no such certificate of ours, or wants one: name it with --cert and --key"
	case c.Server != "" && errors.Is(err, syscall.ECONNREFUSED):
		e.Hint = "is l3afd running, with -listen of this address?"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		e.Hint = "is l3afd running? start it, or name its socket with --socket"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "this user may not open the socket: run as root, or let the user into its directory"
	case errors.Is(err, syscall.ENOTSOCK), errors.Is(err, syscall.EPROTOTYPE):
		e.Hint = "this is not the socket of l3afd: name it with --socket"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		e.Hint = "l3afd stopped while it worked on this: its log says why"
	}
	return e
}

// maxProblem is how many bytes of a refusal are read: verifier logs are long.
const maxProblem = 64 << 20

// refused makes an error of an answer that is no success.
func refused(resp *http.Response) error {
	var p struct {
		Code, Detail, Hint string
		Mistakes           []l3af.Mistake
		Current            int `json:"current_revision"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil || p.Code == "" {
		// Not one of ours, or cut off.
		start := strings.TrimSpace(strings.ToValidUTF8(string(text[:min(len(text), 200)]), "?"))
		return &Error{Status: resp.StatusCode, Detail: fmt.Sprintf("the daemon answered %s: %s", resp.Status, start)}
	}
	e := &Error{Status: resp.StatusCode, Code: p.Code, Detail: p.Detail, Hint: p.Hint}
	switch p.Code {
	case "invalid":
		if len(p.Mistakes) == 0 {
			p.Mistakes = []l3af.Mistake{{Message: p.Detail, Hint: p.Hint}}
		}
		e.Err = &l3af.InvalidError{Mistakes: p.Mistakes}
	case "conflict", "precondition_failed":
		e.Err = &l3af.ConflictError{Current: p.Current, Busy: p.Code == "conflict"}
	case "not_found":
		e.Err = l3af.ErrNotFound
	case "forbidden":
		e.Err = l3af.ErrForbidden
	}
	return e
}
