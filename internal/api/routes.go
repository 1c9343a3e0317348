package api

import (
	_ "embed"
	"net/http"

	"l3af"
	"l3af/internal/configs"
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

type lastEvent struct {
	ID string `header:"Last-Event-ID" description:"The id of the last event that the client has."`
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

type configsVersion struct {
	Version string `path:"version" description:"Anything; v1 is usual."`
}

type configsIface struct {
	configsVersion
	Iface string `path:"iface" description:"An interface of this host."`
}

type bpfsPath struct {
	Iface string `path:"iface" description:"An interface of this host."`
}

type swaggerPath struct {
	Page string `path:"page" enum:"index.html,doc.json"`
}

// done are the answers of L3AF's calls, which say nothing when all is well.
func done(description string) []Answer {
	return []Answer{
		{http.StatusOK, "application/json", NoBody{}, description + " There is no body. Warning headers tell what in the payload has no effect."},
		forbidden,
		problem(http.StatusBadRequest, "The payload cannot be read (code invalid)."),
		problem(http.StatusNotFound, "The interface or a package is not there (code not_found)."),
		problem(http.StatusConflict, "The payload contradicts what is there (code conflict)."),
		problem(http.StatusRequestEntityTooLarge, "The body is over 16 MiB (code too_large)."),
		problem(http.StatusUnsupportedMediaType, "The body is neither JSON nor text (code unsupported_media_type)."),
		problem(http.StatusUnprocessableEntity, "The payload is for another host or has mistakes, or the kernel or an agent refuses a program (code invalid)."),
		problem(http.StatusServiceUnavailable, "Packages cannot be had now, or a restart is under way (code unavailable)."),
		problem(http.StatusInternalServerError, "Something failed; detail has the whole trail (code internal)."),
	}
}

// NoBody is the body of an answer that has none.
type NoBody struct{}

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
			Description: "Server-sent events: event is the kind, data the event as JSON (schema Event). A client that asks again, of this daemon or of the next, goes on behind the event that Last-Event-ID names. Only where that one is not remembered it gets all that are: after a crash of the daemon, whose events are gone, or behind more than 200 others.",
			Params:      lastEvent{},
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
			Description: "A copy of the chain runs them one after the other, with maps of its own: nothing at the hook changes. Any number of packets can be streamed as application/x-ndjson: the first line is this body without packets, each other line a packet in base64, as a JSON string. The answer, of the same type, begins when the chain is loaded: a line {\"packet\": PacketRun} for each packet, and at last {\"chain\": ChainRun} or {\"problem\": Problem}. It takes the right to write, because the daemon loads programs and opens the packages that are named.",
			Write:       true, Params: chainPath{}, Body: l3af.RunRequest{},
			Answers: ok(l3af.ChainRun{}, "What became of the packets.", append([]Answer{
				{http.StatusOK, streamType, RunAnswer{}, "What became of the packets, line by line."}, forbidden, noChain,
			}, badDocument...)...),
			handle: (*Server).runChain,
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
			Method: http.MethodPost, Path: "/l3af/configs/{version}/update", ID: "configsUpdate", Summary: "L3AF: the whole state of the host",
			Description: "Interfaces and programs that are not listed go; an interface with empty lists has none. What did not come through L3AF's API stays. All of it is done, or nothing.",
			Write:       true, Params: configsVersion{}, Body: []configs.Interface{},
			Answers: done("The host runs what was listed."),
			handle:  (*Server).configsUpdate,
		}, {
			Method: http.MethodPost, Path: "/l3af/configs/{version}/add", ID: "configsAdd", Summary: "L3AF: more programs",
			Description: "A program that is there already, and is the same, is left alone; another one of its name is a conflict.",
			Write:       true, Params: configsVersion{}, Body: []configs.Interface{},
			Answers: done("The programs run as well."),
			handle:  (*Server).configsAdd,
		}, {
			Method: http.MethodPost, Path: "/l3af/configs/{version}/delete", ID: "configsDelete", Summary: "L3AF: fewer programs",
			Write: true, Params: configsVersion{}, Body: []configs.InterfaceNames{},
			Answers: done("The programs are gone."),
			handle:  (*Server).configsDelete,
		}, {
			Method: http.MethodGet, Path: "/l3af/configs/{version}", ID: "configsAll", Summary: "L3AF: what every interface runs",
			Params:  configsVersion{},
			Answers: ok([]configs.Interface{}, "The interfaces, with every field of their programs.", damaged),
			handle:  (*Server).configsAll,
		}, {
			Method: http.MethodGet, Path: "/l3af/configs/{version}/{iface}", ID: "configsOne", Summary: "L3AF: what one interface runs",
			Params:  configsIface{},
			Answers: ok(configs.Interface{}, "The interface.", problem(http.StatusNotFound, "The host has no such interface (code not_found)."), damaged),
			handle:  (*Server).configsOne,
		}, {
			Method: http.MethodPut, Path: "/l3af/configs/{version}/restart", ID: "configsRestart", Summary: "L3AF: another version of l3afd takes over",
			Description: "The answer comes when the new version serves, or when it does not and the old one serves on.",
			Write:       true, Params: configsVersion{}, Body: configs.Restart{},
			Answers: done("The new version serves."),
			handle:  (*Server).configsRestart,
		}, {
			Method: http.MethodGet, Path: "/bpfs/{iface}", ID: "getBPFs", Summary: "L3AF: what runs of each program of an interface",
			Params:  bpfsPath{},
			Answers: ok([]Debug{}, "The programs, with the host's probes.", problem(http.StatusNotFound, "The host has no such interface (code not_found)."), damaged),
			handle:  (*Server).getBPFs,
		}, {
			Method: http.MethodGet, Path: "/swagger/{page}", ID: "getSwagger", Summary: "This description, as a page or as JSON",
			Params: swaggerPath{},
			Answers: []Answer{{http.StatusOK, "text/html", nil, "A page, or OpenAPI 3.1."}, {http.StatusOK, "", map[string]any{}, "A page, or OpenAPI 3.1."},
				problem(http.StatusNotFound, "There is no such page, or none are served (code not_found).")},
			handle: (*Server).getSwagger,
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
