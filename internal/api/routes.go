package api

import (
	_ "embed"
	"net/http"

	"l3af"
)

//go:generate go run ./gen openapi.json

// openAPI describes [Routes]. It is generated, so that the daemon does not
// carry the generator.
//
//go:embed openapi.json
var openAPI []byte

// Route is one operation of the API. The same table makes the server and its
// description.
type Route struct {
	Method, Path string
	ID           string // operationId
	Summary      string
	Description  string
	Write        bool // only for those who may write
	Params       any  // a struct with path and header tags; nil: none
	Body         any  // what a JSON body holds; nil: none
	YAML         bool // the body may be YAML as well
	Optional     bool // there may be no body
	Answers      []Answer

	handle func(s *Server, w http.ResponseWriter, r *http.Request) error
}

// Answer is one way in which an operation ends.
type Answer struct {
	Status      int
	Type        string // the media type; "" is application/json
	Body        any    // nil: text
	Description string
}

// ok is the answer of success; with it come the problems every operation can have.
func ok(body any, description string, more ...Answer) []Answer {
	return append(append([]Answer{{http.StatusOK, "", body, description}}, more...),
		problem(http.StatusInternalServerError, "Something failed; detail has the whole trail (code internal)."))
}

func problem(status int, description string) Answer {
	return Answer{status, "application/problem+json", Problem{}, description}
}

var (
	badDocument = []Answer{
		problem(http.StatusBadRequest, "The body or a header cannot be read (code invalid)."),
		problem(http.StatusRequestEntityTooLarge, "The body is over 16 MiB (code too_large)."),
		problem(http.StatusUnsupportedMediaType, "The body is neither JSON nor YAML (code unsupported_media_type)."),
		problem(http.StatusUnprocessableEntity, "The document has mistakes; all of them are told (code invalid)."),
	}
	noChain   = problem(http.StatusNotFound, "The hook has no chain (code not_found).")
	forbidden = problem(http.StatusForbidden, "This peer may not write (code forbidden).")
	damaged   = problem(http.StatusServiceUnavailable, "The latest revision cannot be read (code unhealthy).")
	busy      = problem(http.StatusConflict, "Another apply is under way (code conflict).")
	changed   = problem(http.StatusPreconditionFailed, "If-Match names another revision than current_revision (code precondition_failed).")
)

func writes(description string, more ...Answer) []Answer {
	return ok(l3af.Applied{}, description, append(more, append([]Answer{forbidden}, badDocument...)...)...)
}

type ifMatch struct {
	IfMatch string `header:"If-Match" description:"The revision that must be in force, as ETag gives it: \"3\"."`
}

type rollback struct {
	Revision int `json:"revision,omitempty" minimum:"0" description:"The revision to apply again; 0 or none: the one before the current."`
}

type revisionPath struct {
	Revision string `path:"revision" description:"The number of a revision, or current."`
}

type chainPath struct {
	Interface string `path:"interface" description:"The interface; in another network namespace NETNS:INTERFACE, slashes as %2F."`
	Hook      string `path:"hook" enum:"xdp,tc-ingress,tc-egress"`
}

// Health says whether the daemon does its work.
type Health struct {
	Status string `json:"status" enum:"ok"`
}

// Routes lists every operation.
func Routes() []Route {
	return []Route{
		{
			Method: http.MethodGet, Path: "/v1/state", ID: "getState", Summary: "The state the node was told",
			Description: "ETag is the revision. Before the first apply the state is empty and the revision 0.",
			Answers:     ok(l3af.State{}, "The state document.", damaged),
			handle:      (*Server).getState,
		}, {
			Method: http.MethodPut, Path: "/v1/state", ID: "putState", Summary: "Make the node run this state and nothing else",
			Description: "The answer comes when everything that can be done is done. Hooks that do not run as wanted are listed in failed; they do not hold up the others.",
			Write:       true, Params: ifMatch{}, Body: l3af.State{}, YAML: true,
			Answers: writes("The state is in force. ETag is its revision.", busy, changed),
			handle:  (*Server).putState,
		}, {
			Method: http.MethodPost, Path: "/v1/plan", ID: "plan", Summary: "What applying this state would do",
			Description: "Everything is checked and nothing changed. It takes the right to write, because the daemon opens the packages that are named.",
			Write:       true, Body: l3af.State{}, YAML: true,
			Answers: writes("The steps."),
			handle:  (*Server).plan,
		}, {
			Method: http.MethodGet, Path: "/v1/status", ID: "getStatus", Summary: "What the node runs, read back from the kernel",
			Answers: ok(l3af.Status{}, "The status."),
			handle:  (*Server).getStatus,
		}, {
			Method: http.MethodGet, Path: "/v1/revisions", ID: "getRevisions", Summary: "The applied states, newest first",
			Description: "At most 50 are kept.",
			Answers:     ok([]l3af.Revision{}, "The revisions."),
			handle:      (*Server).getRevisions,
		}, {
			Method: http.MethodGet, Path: "/v1/revisions/{revision}", ID: "getRevision", Summary: "One applied state",
			Params:  revisionPath{},
			Answers: ok(l3af.Revision{}, "The revision.", problem(http.StatusNotFound, "There is no such revision, or not any more (code not_found)."), damaged),
			handle:  (*Server).getRevision,
		}, {
			Method: http.MethodPost, Path: "/v1/rollback", ID: "rollback", Summary: "Apply an old revision again, as a new one",
			Description: "Its packages are the bytes they were then.",
			Write:       true, Params: ifMatch{}, Body: rollback{}, YAML: true, Optional: true,
			Answers: writes("The old state is in force. ETag is its new revision.", busy, changed,
				problem(http.StatusNotFound, "There is no such revision, or not any more (code not_found).")),
			handle: (*Server).rollback,
		}, {
			Method: http.MethodGet, Path: "/v1/events", ID: "getEvents", Summary: "What happens on the node, lately and from now on",
			Description: "Server-sent events: event is the kind, data the event as JSON (schema Event).",
			Answers:     []Answer{{http.StatusOK, "text/event-stream", l3af.Event{}, "Events, until the client or the daemon goes."}},
			handle:      (*Server).events,
		}, {
			Method: http.MethodGet, Path: "/v1/chains", ID: "getChains", Summary: "Every chain",
			Answers: ok([]l3af.ChainStatus{}, "The chains."),
			handle:  (*Server).getChains,
		}, {
			Method: http.MethodGet, Path: "/v1/chains/{interface}/{hook}", ID: "getChain", Summary: "The chain of one hook",
			Params:  chainPath{},
			Answers: ok(l3af.ChainStatus{}, "The chain.", problem(http.StatusNotFound, "The hook has no chain (code not_found).")),
			handle:  (*Server).getChain,
		}, {
			Method: http.MethodPost, Path: "/v1/chains/{interface}/{hook}/run", ID: "runChain", Summary: "What a hook's chain does with packets",
			Description: "A copy of the chain runs them one after the other, with maps of its own: nothing at the hook changes. It takes the right to write, because the daemon loads programs and opens the packages that are named.",
			Write:       true, Params: chainPath{}, Body: l3af.RunRequest{},
			Answers: ok(l3af.ChainRun{}, "What became of the packets.", append([]Answer{forbidden, noChain}, badDocument...)...),
			handle:  (*Server).runChain,
		}, {
			Method: http.MethodGet, Path: "/v1/chains/{interface}/{hook}/explain", ID: "explainChain", Summary: "How a hook's chain came about, and what it costs",
			Description: "It takes the right to write, because the daemon loads the chain and its programs aside.",
			Write:       true, Params: chainPath{},
			Answers: ok(l3af.ChainPlan{}, "The explanation.", forbidden, noChain,
				problem(http.StatusUnprocessableEntity, "The chain cannot be composed (code invalid).")),
			handle: (*Server).explainChain,
		}, {
			Method: http.MethodPost, Path: "/v1/chains/{interface}/{hook}/explain", ID: "explainProposedChain", Summary: "The same of the chain that this state has for the hook",
			Description: "Nothing is applied. It takes the right to write, because the daemon loads programs and opens the packages that are named.",
			Write:       true, Params: chainPath{}, Body: l3af.State{}, YAML: true,
			Answers: ok(l3af.ChainPlan{}, "The explanation.", append([]Answer{forbidden, noChain}, badDocument...)...),
			handle:  (*Server).explainChain,
		}, {
			Method: http.MethodGet, Path: "/v1/chains/{interface}/{hook}/dump", ID: "dumpChain", Summary: "The code of a hook's chain",
			Description: "It takes the right to write: machine code tells where to attack a kernel.",
			Write:       true, Params: dumpPath{},
			Answers: ok(l3af.ChainCode{}, "The code.", forbidden, noChain,
				problem(http.StatusBadRequest, "The query cannot be read (code invalid)."),
				problem(http.StatusUnprocessableEntity, "The chain cannot be composed (code invalid).")),
			handle: (*Server).dumpChain,
		}, {
			Method: http.MethodGet, Path: "/metrics", ID: "getMetrics", Summary: "Metrics for Prometheus",
			Answers: []Answer{{http.StatusOK, "text/plain", nil, "The metrics."}},
			handle:  (*Server).getMetrics,
		}, {
			Method: http.MethodGet, Path: "/healthz", ID: "getHealth", Summary: "Whether the daemon does its work",
			Description: "Chains that fail or wait are no trouble of the daemon: status tells them.",
			Answers: []Answer{{http.StatusOK, "", Health{}, "It does."},
				problem(http.StatusServiceUnavailable, "It does not; detail says why (code unhealthy).")},
			handle: (*Server).getHealth,
		}, {
			Method: http.MethodGet, Path: "/openapi.json", ID: "getOpenAPI", Summary: "This description",
			Answers: []Answer{{http.StatusOK, "", map[string]any{}, "OpenAPI 3.1."}},
			handle:  (*Server).getOpenAPI,
		},
	}
}
