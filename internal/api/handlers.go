package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"l3af"
	"l3af/internal/doc"
)

const (
	maxBody      = 16 << 20         // bytes
	bodyTimeout  = 30 * time.Second // for the client to send it
	drainTimeout = 5 * time.Second  // for what nobody wants
)

func (s *Server) getState(w http.ResponseWriter, r *http.Request) error {
	state, revision := &l3af.State{APIVersion: l3af.APIVersion}, 0
	if c, err := s.current(r.Context()); err != nil {
		return err
	} else if c != nil {
		state, revision = &c.State, c.Number
	}
	w.Header().Set("ETag", etag(revision))
	w.Header().Set("Cache-Control", "no-cache")
	if slices.Contains(strings.Split(strings.ReplaceAll(r.Header.Get("If-None-Match"), " ", ""), ","), etag(revision)) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return s.respond(w, http.StatusOK, "application/json", state)
}

// current is the revision in force, nil before the first apply. That the latest
// cannot be read is an error: the state is not empty then, it is unknown.
func (s *Server) current(ctx context.Context) (*l3af.Revision, error) {
	if c := s.node.Current(); c != nil {
		return c, nil
	}
	st, err := s.node.Status(ctx)
	if err != nil || st.Revision == 0 {
		return nil, err
	}
	return nil, &Problem{Status: http.StatusServiceUnavailable, Code: CodeUnhealthy,
		Detail: fmt.Sprintf("revision %d cannot be read: %s", st.Revision, strings.Join(st.Errors, "\n")),
		Hint:   "apply a document, or roll back to an earlier revision"}
}

func etag(revision int) string { return `"` + strconv.Itoa(revision) + `"` }

func (s *Server) putState(w http.ResponseWriter, r *http.Request) error {
	only, err := s.onlyIf(r)
	if err != nil {
		return err
	}
	state, err := s.readState(w, r)
	if err != nil {
		return err
	}
	applied, err := s.node.Apply(context.WithoutCancel(r.Context()), state, peerOf(r.Context()).String(), only)
	return s.applied(w, applied, err)
}

func (s *Server) plan(w http.ResponseWriter, r *http.Request) error {
	state, err := s.readState(w, r)
	if err != nil {
		return err
	}
	applied, err := s.node.Plan(r.Context(), state)
	return s.applied(w, applied, err)
}

func (s *Server) rollback(w http.ResponseWriter, r *http.Request) error {
	only, err := s.onlyIf(r)
	if err != nil {
		return err
	}
	to, err := readRollback(w, r)
	if err != nil {
		return err
	}
	applied, err := s.node.Rollback(context.WithoutCancel(r.Context()), to, peerOf(r.Context()).String(), only)
	return s.applied(w, applied, err)
}

func (s *Server) applied(w http.ResponseWriter, a *l3af.Applied, err error) error {
	if err != nil {
		return err
	}
	answer := *a
	answer.Steps = orEmpty(answer.Steps)
	w.Header().Set("ETag", etag(a.Revision))
	return s.respond(w, http.StatusOK, "application/json", answer)
}

// onlyIf is the revision that If-Match wants to be in force, -1 for any. Of
// several it is the current one if that is among them.
func (s *Server) onlyIf(r *http.Request) (int, error) {
	header := strings.Join(r.Header.Values("If-Match"), ",")
	if strings.TrimSpace(header) == "" || strings.TrimSpace(header) == "*" {
		return -1, nil
	}
	current, only := 0, -1
	if c := s.node.Current(); c != nil {
		current = c.Number
	}
	for part := range strings.SplitSeq(header, ",") {
		part = strings.TrimSpace(part)
		n, err := strconv.ParseUint(strings.Trim(part, `"`), 10, 31)
		if err != nil {
			return 0, &Problem{Status: http.StatusBadRequest, Code: CodeInvalid,
				Detail: fmt.Sprintf("If-Match: %.80q is not a revision", part), Hint: `write a revision as ETag gives it: "3"`}
		}
		if only < 0 || int(n) == current {
			only = int(n)
		}
	}
	return only, nil
}

// readBody reads what was sent, within bounds.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	return readWithin(w, r, "the body is over 16 MiB", "fewer map entries, or compact JSON, make it smaller")
}

// readWithin is readBody that says of a body that is too large what and why.
func readWithin(w http.ResponseWriter, r *http.Request, over16MiB, hint string) ([]byte, error) {
	if err := mediaType(r); err != nil {
		return nil, err
	}
	tooLarge := &Problem{Status: http.StatusRequestEntityTooLarge, Code: CodeTooLarge, Detail: over16MiB, Hint: hint}
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Now().Add(bodyTimeout)) // recorders of tests have none
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = ctl.SetReadDeadline(time.Time{})
	if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
		return nil, tooLarge
	} else if err != nil {
		return nil, &Problem{Status: http.StatusBadRequest, Code: CodeInvalid, Detail: "failed to read request body: " + err.Error()}
	}
	return body, nil
}

// readTree reads the document in the body; nil when there is none.
func readTree(w http.ResponseWriter, r *http.Request) (tree any, empty bool, err error) {
	body, err := readBody(w, r)
	if err != nil || len(body) == 0 {
		return nil, err == nil, err
	}
	if tree, err = doc.Parse(body); err != nil {
		return nil, false, &Problem{Status: http.StatusBadRequest, Code: CodeInvalid, Detail: err.Error(),
			Mistakes: []l3af.Mistake{{Message: err.Error()}}}
	}
	return tree, false, nil
}

// mediaType refuses what is said to be something else than JSON, YAML or text.
// What it is the content decides: curl calls everything a form.
func mediaType(r *http.Request) error {
	t := r.Header.Get("Content-Type")
	if t != "" {
		parsed, _, err := mime.ParseMediaType(t)
		sub := parsed[strings.LastIndexAny(parsed, "/+")+1:]
		switch {
		case err == nil && sub != parsed && (sub == "json" || sub == "yaml" || sub == "x-yaml"):
		case parsed == "text/plain", parsed == "application/octet-stream", parsed == "application/x-www-form-urlencoded":
		default:
			return &Problem{Status: http.StatusUnsupportedMediaType, Code: CodeUnsupportedMediaType,
				Detail: fmt.Sprintf("cannot read a body of type %.80q", t), Hint: "send application/json or application/yaml"}
		}
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return &Problem{Status: http.StatusUnsupportedMediaType, Code: CodeUnsupportedMediaType,
			Detail: fmt.Sprintf("cannot read a body encoded as %.80q", e), Hint: "send it as it is"}
	}
	return nil
}

// readState reads a document. Its mistakes are told at once, those that only
// the packages show included.
func (s *Server) readState(w http.ResponseWriter, r *http.Request) (*l3af.State, error) {
	tree, empty, err := readTree(w, r)
	if err != nil {
		return nil, err
	}
	if empty {
		const msg = "the body is empty: it must be a state document"
		return nil, &Problem{Status: http.StatusBadRequest, Code: CodeInvalid, Detail: msg, Mistakes: []l3af.Mistake{{Message: msg}}}
	}
	state, err := l3af.ParseState(tree)
	if wrong := (*l3af.InvalidError)(nil); errors.As(err, &wrong) {
		return nil, wrong.With(s.node.Check(r.Context(), state))
	}
	return state, err
}

func readRollback(w http.ResponseWriter, r *http.Request) (int, error) {
	tree, _, err := readTree(w, r)
	if err != nil || tree == nil {
		return 0, err
	}
	bad := func(path, message string) error {
		return &l3af.InvalidError{Mistakes: []l3af.Mistake{{Path: path, Message: message, Hint: `send {"revision": 3}, or nothing for the one before`}}}
	}
	keys, isMap := tree.(map[string]any)
	if !isMap {
		return 0, bad("", "the document must be a mapping")
	}
	to := 0
	for k, v := range keys {
		if k != "revision" {
			return 0, bad(k, fmt.Sprintf("unknown key %q", k))
		}
		n, isNumber := v.(json.Number)
		i, err := strconv.ParseUint(n.String(), 10, 31)
		if !isNumber || err != nil {
			return 0, bad(k, "must be the number of a revision")
		}
		to = int(i)
	}
	return to, nil
}

func (s *Server) status(r *http.Request) (*l3af.Status, error) {
	st, err := s.node.Status(r.Context())
	if err != nil {
		return nil, err
	}
	// No list is null.
	c := *st
	c.Chains, c.Probes, c.Errors = slices.Clone(orEmpty(c.Chains)), orEmpty(c.Probes), orEmpty(c.Errors)
	for i := range c.Chains {
		programs := slices.Clone(orEmpty(c.Chains[i].Programs))
		for j := range programs {
			if programs[j].Verdicts == nil {
				programs[j].Verdicts = map[l3af.Verdict]uint64{}
			}
		}
		c.Chains[i].Programs = programs
	}
	return &c, nil
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request) error {
	st, err := s.status(r)
	if err != nil {
		return err
	}
	return s.respond(w, http.StatusOK, "application/json", st)
}

func (s *Server) getChains(w http.ResponseWriter, r *http.Request) error {
	st, err := s.status(r)
	if err != nil {
		return err
	}
	return s.respond(w, http.StatusOK, "application/json", st.Chains)
}

func (s *Server) getChain(w http.ResponseWriter, r *http.Request) error {
	st, err := s.status(r)
	if err != nil {
		return err
	}
	place := r.PathValue("interface")
	h := l3af.Hook{Interface: place, Kind: l3af.HookKind(r.PathValue("hook"))}
	if i := strings.LastIndexByte(place, ':'); i >= 0 {
		h.Netns, h.Interface = place[:i], place[i+1:]
	}
	for _, c := range st.Chains {
		if (l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}) == h {
			return s.respond(w, http.StatusOK, "application/json", c)
		}
	}
	p := &Problem{Status: http.StatusNotFound, Code: CodeNotFound, Detail: fmt.Sprintf("chain %s: not found", h),
		Hint: "/v1/chains lists the chains"}
	if kinds := l3af.HookKinds(); !slices.Contains(kinds, h.Kind) {
		p.Hint = fmt.Sprintf("the hooks are %s, %s and %s", kinds[0], kinds[1], kinds[2])
	}
	return p
}

// getRevisions writes one revision after the other: together they may be large.
func (s *Server) getRevisions(w http.ResponseWriter, r *http.Request) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	before := "["
	for rev, err := range s.node.Revisions() {
		if err != nil && before == "[" {
			return err
		}
		if before == "[" {
			w.Header().Set("Content-Type", "application/json")
		}
		if err == nil {
			deadline(w, writeTimeout)
			if _, err = io.WriteString(w, before); err == nil {
				err = out.Encode(rev)
			}
		}
		if err != nil {
			s.log.Debug("revisions cut off", "error", err)
			panic(http.ErrAbortHandler) // the client must not take a part for the whole
		}
		before = ","
	}
	if before == "[" {
		return s.respond(w, http.StatusOK, "application/json", []l3af.Revision{})
	}
	_, _ = io.WriteString(w, "]\n")
	return nil
}

func (s *Server) getRevision(w http.ResponseWriter, r *http.Request) error {
	which := r.PathValue("revision")
	if which == "current" {
		if c, err := s.current(r.Context()); err != nil {
			return err
		} else if c != nil {
			return s.respond(w, http.StatusOK, "application/json", c)
		}
		return &Problem{Status: http.StatusNotFound, Code: CodeNotFound, Detail: "nothing was applied yet",
			Hint: "apply a state first"}
	}
	n, err := strconv.Atoi(which)
	if err == nil {
		var rev *l3af.Revision
		if rev, err = s.node.Revision(n); err == nil {
			return s.respond(w, http.StatusOK, "application/json", rev)
		}
		if !errors.Is(err, l3af.ErrNotFound) {
			return err
		}
	}
	return &Problem{Status: http.StatusNotFound, Code: CodeNotFound, Detail: fmt.Sprintf("revision %.80s: not found", which),
		Hint: "/v1/revisions lists those that are kept"}
}

func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	deadline(w, writeTimeout)
	s.metrics.ServeHTTP(w, r)
	return nil
}

func (s *Server) getHealth(w http.ResponseWriter, r *http.Request) error {
	st, err := s.node.Status(r.Context())
	why := ""
	if err != nil {
		why = err.Error()
	} else {
		why = strings.Join(st.Errors, "\n")
	}
	if why != "" {
		return &Problem{Status: http.StatusServiceUnavailable, Code: CodeUnhealthy, Detail: why}
	}
	return s.respond(w, http.StatusOK, "application/json", Health{"ok"})
}

func (s *Server) getOpenAPI(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	deadline(w, writeTimeout)
	_, err := w.Write(openAPI)
	if err != nil {
		s.log.Debug("client went away", "error", err)
	}
	return nil
}
