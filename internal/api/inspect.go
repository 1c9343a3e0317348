package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"l3af"
	"l3af/internal/doc"
)

// Inspector looks into the chains of a node. Hooks without a chain are
// [l3af.ErrNotFound].
type Inspector interface {
	// RunChain runs packets through a copy of the hook's chain; nothing at the
	// hook changes.
	RunChain(ctx context.Context, h l3af.Hook, req *l3af.RunRequest) (*l3af.ChainRun, error)
	// ExplainChain loads the chain, and its programs alone, to see what they
	// cost. It is the one in force, or that of s.
	ExplainChain(ctx context.Context, h l3af.Hook, s *l3af.State) (*l3af.ChainPlan, error)
	// DumpChain gives the chain's code, with jited that which the CPU runs.
	DumpChain(ctx context.Context, h l3af.Hook, jited bool) (*l3af.ChainCode, error)
}

type dumpPath struct {
	chainPath
	Jited bool `query:"jited" description:"The machine code as well."`
}

// hookOf is the hook that a request's path names.
func hookOf(r *http.Request) (l3af.Hook, error) {
	place := r.PathValue("interface")
	h := l3af.Hook{Interface: place, Kind: l3af.HookKind(r.PathValue("hook"))}
	if i := strings.LastIndexByte(place, ':'); i >= 0 {
		h.Netns, h.Interface = place[:i], place[i+1:]
	}
	if kinds := l3af.HookKinds(); !slices.Contains(kinds, h.Kind) {
		return h, &Problem{Status: http.StatusNotFound, Code: CodeNotFound, Detail: fmt.Sprintf("chain %s: not found", h),
			Hint: fmt.Sprintf("the hooks are %s, %s and %s", kinds[0], kinds[1], kinds[2])}
	}
	return h, nil
}

func (s *Server) runChain(w http.ResponseWriter, r *http.Request) error {
	h, err := hookOf(r)
	if err != nil {
		return err
	}
	if streamed(r) {
		return s.streamChain(w, r, h)
	}
	req, err := readRun(w, r)
	if err != nil {
		return err
	}
	ran, err := s.node.RunChain(r.Context(), h, req)
	if err != nil {
		return err
	}
	return s.respond(w, http.StatusOK, "application/json", ran)
}

func badRun(detail string) error {
	return &Problem{Status: http.StatusBadRequest, Code: CodeInvalid, Detail: detail,
		Hint: `send {"packets": ["…"]} in JSON, each packet in base64`, Mistakes: []l3af.Mistake{{Message: detail}}}
}

// readRun reads packets and, perhaps, a document.
func readRun(w http.ResponseWriter, r *http.Request) (*l3af.RunRequest, error) {
	body, err := readWithin(w, r, "the packets and the document are over 16 MiB",
		"stream them as application/x-ndjson, or send fewer: a third of the size is their writing in base64")
	if err != nil {
		return nil, err
	}
	req, err := parseRun(body)
	if err == nil && req.Packets == nil {
		err = badRun("there are no packets")
	}
	return req, err
}

// parseRun reads what is asked.
func parseRun(text []byte) (*l3af.RunRequest, error) {
	var parts struct {
		Packets  [][]byte        `json:"packets"`
		State    json.RawMessage `json:"state"`
		LiveMaps bool            `json:"live_maps"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&parts); err != nil {
		return nil, badRun("read body: " + err.Error())
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, badRun("read body: there is more than one value")
	}
	req := &l3af.RunRequest{Packets: parts.Packets, LiveMaps: parts.LiveMaps}
	if len(parts.State) == 0 {
		return req, nil
	}
	tree, err := doc.Parse(parts.State)
	if err != nil {
		return nil, badRun("state: " + err.Error())
	}
	req.State, err = l3af.ParseState(tree)
	return req, err
}

func (s *Server) explainChain(w http.ResponseWriter, r *http.Request) error {
	h, err := hookOf(r)
	if err != nil {
		return err
	}
	var state *l3af.State
	if r.Method == http.MethodPost {
		if state, err = s.readState(w, r); err != nil {
			return err
		}
	}
	x, err := s.node.ExplainChain(r.Context(), h, state)
	if err != nil {
		return err
	}
	return s.respond(w, http.StatusOK, "application/json", x)
}

func (s *Server) dumpChain(w http.ResponseWriter, r *http.Request) error {
	h, err := hookOf(r)
	if err != nil {
		return err
	}
	jited := r.URL.Query().Get("jited")
	if jited != "" && jited != "true" && jited != "false" {
		return &Problem{Status: http.StatusBadRequest, Code: CodeInvalid, Detail: fmt.Sprintf("jited: %.80q is neither true nor false", jited)}
	}
	d, err := s.node.DumpChain(r.Context(), h, jited == "true")
	if err != nil {
		return err
	}
	return s.respond(w, http.StatusOK, "application/json", d)
}
