// Package api serves a node over HTTP: the API of docs and clients, its
// OpenAPI description, and metrics.
//
// On the unix socket root and the members of one group may write, everybody
// may read. Over TCP write those who show a certificate and, where the listener
// says so, root's processes on loopback.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"l3af"
	"l3af/internal/bind"
	"l3af/internal/configs"
)

// Node is the machine that is served.
type Node interface {
	// Apply makes s the state of the node. ifRevision is the revision that must
	// be in force, -1 for any. Errors: [*l3af.InvalidError], [*l3af.ConflictError].
	Apply(ctx context.Context, s *l3af.State, by string, ifRevision int) (*l3af.Applied, error)
	// Edit is Apply for a state that was made of revision ifRevision: packages
	// that it names stay what they are, but those that fresh reports. What the
	// kernel would refuse is a mistake as well.
	Edit(ctx context.Context, s *l3af.State, by string, ifRevision int, fresh func(ref string) bool) (*l3af.Applied, error)
	// Entries lists the programs of an object, of the package as Edit would take it.
	Entries(ctx context.Context, ref, object string, fresh bool) ([]bind.Entry, error)
	// Plan says what Apply would do, and changes nothing.
	Plan(ctx context.Context, s *l3af.State) (*l3af.Applied, error)
	// Check finds what is wrong with the packages and values of a state that
	// may have other mistakes as well.
	Check(ctx context.Context, s *l3af.State) []l3af.Mistake
	// Rollback applies an old revision again; 0 is the one before the current.
	Rollback(ctx context.Context, to int, by string, ifRevision int) (*l3af.Applied, error)
	Status(ctx context.Context) (*l3af.Status, error)
	// Current is the revision in force, nil before the first apply.
	Current() *l3af.Revision
	// Revisions are those kept, newest first; an error ends them.
	Revisions() iter.Seq2[*l3af.Revision, error]
	// Revision is one of those kept, or fails with [l3af.ErrNotFound].
	Revision(number int) (*l3af.Revision, error)
	// Events sends what happened lately, behind the event with the ID after if
	// that is part of it, then what happens until ctx ends.
	Events(ctx context.Context, after string) <-chan l3af.Event
	// Hurry has Apply and its like answer that wait for agents, and wait for none
	// any more.
	Hurry()
	Inspector
}

// Options of a [Server]. The zero value is good.
type Options struct {
	Log     *slog.Logger // nil: none
	Metrics *Metrics     // nil: new ones
	Group   string       // whose members may write; "": l3af
	// Configs is this machine for L3AF's API. Look is the server's affair, and
	// nil Interfaces are those of the process's network namespace.
	Configs configs.Host
	// Restart hands over to another version of the daemon; nil: there is none.
	// It returns when the other one serves, or says why it does not.
	Restart func(ctx context.Context, version string) error
	Swagger bool // serve /swagger/
}

// Server is the API of one node.
type Server struct {
	node      Node
	log       *slog.Logger
	group     string
	metrics   http.Handler
	mux       *http.ServeMux
	keepAlive time.Duration // between comments of an event stream
	leaving   sync.WaitGroup
	limits    limits
	hurry     func() // see leave

	configs    *configs.Host
	meters     *configsMetrics
	changing   chan struct{} // held by a call of L3AF's API that changes the state
	drafting   chan struct{} // held by each that has packages in memory
	restart    func(ctx context.Context, version string) error
	restarting atomic.Bool
	swagger    bool
}

// New returns the API of a node. A request that did not come through
// [Server.Serve] can only read.
func New(node Node, opts Options) *Server {
	s := &Server{node: node, log: opts.Log, group: opts.Group, keepAlive: 15 * time.Second,
		limits: limits{stop: 10 * time.Second, handover: 2 * time.Minute, answer: 5 * time.Second}}
	s.hurry = sync.OnceFunc(node.Hurry)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.group == "" {
		s.group = "l3af"
	}
	if opts.Metrics == nil {
		opts.Metrics = NewMetrics("")
	}
	s.configs, s.changing, s.restart, s.swagger = s.configsHost(opts.Configs), make(chan struct{}, 1), opts.Restart, opts.Swagger
	s.drafting = make(chan struct{}, 4)
	s.metrics, s.meters = opts.Metrics.handler(node, s.log, opts.Configs.Name)
	s.mux = s.routes(func(Route) bool { return true })
	return s
}

// routes serves the routes that want says. The method is part of a route: an
// interface may have the name of a verb.
func (s *Server) routes(want func(Route) bool) *http.ServeMux {
	mux := http.NewServeMux()
	for _, route := range Routes() {
		if want(route) {
			mux.HandleFunc(route.Method+" "+route.Path, func(w http.ResponseWriter, r *http.Request) { s.dispatch(w, r, route) })
		}
	}
	mux.HandleFunc(nowhere, func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, noRoute(mux, w, r)) })
	return mux
}

// nowhere is the pattern of all that no route has.
const nowhere = "/"

// noRoute says what there is instead at the path of a request.
func noRoute(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) *Problem {
	var allow []string
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPatch, http.MethodPost, http.MethodPut} {
		if _, pattern := mux.Handler(&http.Request{Method: method, Host: r.Host, URL: r.URL}); pattern != nowhere {
			allow = append(allow, method)
		}
	}
	if allow == nil {
		return &Problem{Status: http.StatusNotFound, Code: CodeNotFound,
			Detail: "there is nothing at " + r.URL.Path, Hint: "/openapi.json describes what there is"}
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	return &Problem{Status: http.StatusMethodNotAllowed, Code: CodeMethodNotAllowed,
		Detail: fmt.Sprintf("%s does not take %s", r.URL.Path, r.Method), Hint: "it takes " + strings.Join(allow, ", ")}
}

// ServeHTTP answers one request. A panic costs the request, not the daemon.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.answer(s.mux, w, r) }

// answer answers one request with a part of the API.
func (s *Server) answer(part http.Handler, w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := &recorder{ResponseWriter: w}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.Error("panic", "request", r.Method+" "+r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if rec.status != 0 {
				panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
			}
			s.fail(rec, r, &Problem{Status: http.StatusInternalServerError, Code: CodeInternal,
				Detail: "the request met a bug of l3afd", Hint: "the log of l3afd has the details"})
		}
		level := slog.LevelDebug
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			level = slog.LevelInfo
		}
		s.log.Log(r.Context(), level, "request", "method", r.Method, "path", r.URL.Path,
			"status", rec.status, "by", peerOf(r.Context()).String(), "duration", time.Since(start))
	}()
	h := rec.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	part.ServeHTTP(rec, r)
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, route Route) {
	peer := peerOf(r.Context())
	peer.shows(r.TLS)
	if route.Write {
		if p := peer.mayWrite(r, s.group); p != nil {
			s.fail(w, r, p)
			return
		}
	}
	if err := route.handle(s, w, r); err != nil {
		s.fail(w, r, err)
	}
}

// fail answers with a problem.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	if p.Status >= 500 {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	drain(w, r)
	s.respond(w, p.Status, "application/problem+json", p)
}

// drain takes what a client still sends, within bounds, because many clients
// read no answer before they have sent all. One that asked first is told at
// once, and so is one that streams.
func drain(w http.ResponseWriter, r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	if r.Header.Get("Expect") == "" && !streamed(r) {
		ctl := http.NewResponseController(w)
		_ = ctl.SetReadDeadline(time.Now().Add(drainTimeout)) // recorders of tests have none
		_, err := io.CopyN(io.Discard, r.Body, 4*maxBody)
		_ = ctl.SetReadDeadline(time.Time{})
		if errors.Is(err, io.EOF) {
			return
		}
	}
	w.Header().Set("Connection", "close")
}

// writeTimeout is how long a client may take to read an answer.
const writeTimeout = 30 * time.Second

// respond writes v as JSON.
func (s *Server) respond(w http.ResponseWriter, status int, contentType string, v any) error {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return s.write(w, status, contentType, body.Bytes())
}

// write writes an answer. That the client goes is no error.
func (s *Server) write(w http.ResponseWriter, status int, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	deadline(w, writeTimeout)
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		s.log.Debug("client went away", "error", err)
	}
	return nil
}

// deadline bounds the writing of an answer from now on.
func deadline(w http.ResponseWriter, d time.Duration) {
	// Only connections have deadlines, not the recorders of tests.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d))
}

// recorder remembers whether and how a request was answered.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// The codes of problems.
const (
	CodeInvalid              = "invalid"                // 400 cannot be read, 422 has mistakes
	CodeForbidden            = "forbidden"              // 403
	CodeNotFound             = "not_found"              // 404
	CodeMethodNotAllowed     = "method_not_allowed"     // 405
	CodeConflict             = "conflict"               // 409 another apply is under way
	CodePreconditionFailed   = "precondition_failed"    // 412 If-Match names another revision
	CodeTooLarge             = "too_large"              // 413
	CodeUnsupportedMediaType = "unsupported_media_type" // 415
	CodeInternal             = "internal"               // 500
	CodeUnhealthy            = "unhealthy"              // 503
	CodeUnavailable          = "unavailable"            // 503 for now
)

// Codes lists every code.
func Codes() []string {
	return []string{CodeInvalid, CodeForbidden, CodeNotFound, CodeMethodNotAllowed, CodeConflict, CodePreconditionFailed,
		CodeTooLarge, CodeUnsupportedMediaType, CodeInternal, CodeUnhealthy, CodeUnavailable}
}

// Problem is what an answer other than success says (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"` // the whole trail of the cause
	Hint   string `json:"hint,omitempty"`
	// Mistakes are all there are in the document.
	Mistakes []l3af.Mistake `json:"mistakes,omitempty"`
	// CurrentRevision is the one in force, of codes conflict and precondition_failed.
	CurrentRevision *int `json:"current_revision,omitempty"`
}

func (p *Problem) Error() string { return p.Detail }

// problemOf says an error in the words of HTTP.
func problemOf(err error) *Problem {
	var p *Problem
	var invalid *l3af.InvalidError
	var conflict *l3af.ConflictError
	switch {
	case errors.As(err, &p):
	case errors.As(err, &invalid):
		p = &Problem{Status: http.StatusUnprocessableEntity, Code: CodeInvalid, Mistakes: invalid.Mistakes}
	case errors.As(err, &conflict) && conflict.Busy:
		p = &Problem{Status: http.StatusConflict, Code: CodeConflict, CurrentRevision: &conflict.Current, Hint: "try again"}
	case errors.As(err, &conflict):
		p = &Problem{Status: http.StatusPreconditionFailed, Code: CodePreconditionFailed, CurrentRevision: &conflict.Current,
			Hint: "look at the state that is in force now, then apply again"}
	case errors.Is(err, l3af.ErrNotFound):
		p = &Problem{Status: http.StatusNotFound, Code: CodeNotFound}
	case errors.Is(err, l3af.ErrForbidden):
		p = &Problem{Status: http.StatusForbidden, Code: CodeForbidden}
	default:
		p = &Problem{Status: http.StatusInternalServerError, Code: CodeInternal}
	}
	if p.Detail == "" {
		p.Detail = err.Error()
	}
	p.Title = http.StatusText(p.Status)
	return p
}
