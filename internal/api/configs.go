package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/bind"
	"l3af/internal/configs"
)

// L3AF's own API: what upstream's control planes talk to. Success has no body,
// and errors have upstream's words in their detail.

// patience is how long a call waits for others that change the state.
const patience = 60 * time.Second

const restarting = "We are currently in the middle of a restart: please try again after some time"

// configsHost is the machine as payloads of L3AF see it.
func (s *Server) configsHost(h configs.Host) *configs.Host {
	h.Look = func(ctx context.Context, ref, object string, fresh bool) ([]bind.Entry, error) {
		return s.node.Entries(ctx, ref, object, fresh)
	}
	if h.Interfaces == nil {
		h.Interfaces = func() (map[string]bool, error) {
			list, err := net.Interfaces()
			all := make(map[string]bool, len(list))
			for _, i := range list {
				all[i.Name] = i.Flags&net.FlagLoopback != 0
			}
			return all, err
		}
	}
	return &h
}

// change is what a call makes of a state.
type change func(ctx context.Context, now *l3af.State) (*configs.Edit, error)

func (s *Server) configsUpdate(w http.ResponseWriter, r *http.Request) error {
	return s.configsInterfaces(w, r, s.configs.Update)
}

func (s *Server) configsAdd(w http.ResponseWriter, r *http.Request) error {
	return s.configsInterfaces(w, r, s.configs.Add)
}

func (s *Server) configsInterfaces(w http.ResponseWriter, r *http.Request, edit func(context.Context, *l3af.State, []configs.Interface) (*configs.Edit, error)) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	payload, notes, err := configs.ReadInterfaces(body)
	if err != nil {
		return configsProblem(err)
	}
	return s.configsChange(w, r, notes, func(ctx context.Context, now *l3af.State) (*configs.Edit, error) { return edit(ctx, now, payload) })
}

func (s *Server) configsDelete(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	payload, notes, err := configs.ReadNames(body)
	if err != nil {
		return configsProblem(err)
	}
	return s.configsChange(w, r, notes, func(ctx context.Context, now *l3af.State) (*configs.Edit, error) {
		return s.configs.Delete(ctx, now, payload)
	})
}

// configsChange makes a change the state of the node, whole or not at all.
func (s *Server) configsChange(w http.ResponseWriter, r *http.Request, notes []string, make change) error {
	if s.restarting.Load() {
		return restartUnderWay()
	}
	ctx := artifact.Once(r.Context())
	waited := time.NewTimer(patience)
	defer waited.Stop()
	// Few calls keep packages at a time, which may be large.
	select {
	case s.drafting <- struct{}{}:
		defer func() { <-s.drafting }()
	case <-waited.C:
		return busyForLong()
	case <-ctx.Done():
		return busyForLong() // nobody reads it
	}
	// Nobody waits while packages are fetched that may be far away.
	d, err := s.draft(ctx, make)
	if err != nil {
		return configsProblem(err)
	}
	waited.Reset(patience)
	if err := s.takeTurn(ctx, waited.C); err != nil {
		return err
	}
	defer func() { <-s.changing }()
	for {
		err := s.configsTry(ctx, w, peerOf(ctx).String(), notes, d)
		conflict := (*l3af.ConflictError)(nil)
		if !errors.As(err, &conflict) {
			return configsProblem(err)
		}
		// Somebody is at it, or applied a state: the change is made to that one.
		wait := time.Duration(0)
		if conflict.Busy {
			wait = again
		}
		select {
		case <-waited.C:
			return busyForLong()
		case <-time.After(wait):
		}
		if conflict.Current != d.revision {
			if d, err = s.draft(ctx, make); err != nil {
				return configsProblem(err)
			}
		}
	}
}

// again is how long a call waits before it tries again.
const again = 20 * time.Millisecond

// takeTurn waits for other callers that change the state, as upstream's wait for
// one another, but not for a restart.
func (s *Server) takeTurn(ctx context.Context, waited <-chan time.Time) error {
	for {
		select {
		case s.changing <- struct{}{}:
			return nil
		default:
		}
		if s.restarting.Load() {
			return restartUnderWay()
		}
		select {
		case s.changing <- struct{}{}:
			return nil
		case <-waited:
			return busyForLong()
		case <-ctx.Done():
			return busyForLong() // nobody reads it
		case <-time.After(again):
		}
	}
}

func restartUnderWay() *Problem {
	return &Problem{Status: http.StatusServiceUnavailable, Code: CodeUnavailable, Detail: restarting}
}

func busyForLong() *Problem {
	return &Problem{Status: http.StatusServiceUnavailable, Code: CodeUnavailable, Detail: "others have been changing the state for a minute", Hint: "try again"}
}

// draft is a change to the state of a revision.
type draft struct {
	now      *l3af.State
	revision int
	edit     *configs.Edit
}

func (s *Server) draft(ctx context.Context, make change) (*draft, error) {
	d := &draft{now: &l3af.State{APIVersion: l3af.APIVersion}}
	if c, err := s.current(ctx); err != nil {
		return nil, err
	} else if c != nil {
		d.now, d.revision = &c.State, c.Number
	}
	var err error
	if d.edit, err = make(ctx, d.now); err != nil {
		if e := (*configs.Error)(nil); errors.As(err, &e) && e.Program != nil {
			s.meters.configsFailed([]configs.Placed{*e.Program}, nil)
		}
		return nil, err
	}
	return d, nil
}

func (s *Server) configsTry(ctx context.Context, w http.ResponseWriter, by string, notes []string, d *draft) error {
	now, revision, edit := d.now, d.revision, d.edit
	start, update, stop := configs.Compare(now, edit.State)
	applied, err := s.node.Edit(ctx, edit.State, by, revision, edit.Fresh)
	if conflict := (*l3af.ConflictError)(nil); errors.As(err, &conflict) {
		return err
	}
	if err == nil {
		if failed, unstarted := failedOf(applied, now, edit.State); len(failed) > 0 || unstarted {
			reason := configs.Invalid
			if err = errors.Join(failed...); err == nil {
				err, reason = errors.New("l3afd is ending before all agents are started: send the request again"), configs.Unavailable
			}
			if back := s.takeBack(ctx, revision, applied.Revision, by); back != nil {
				s.log.Error("a refused change could not be taken back", "error", back)
				err = fmt.Errorf("%w\nand what ran before could not be restored: %w", err, back)
			}
			err = &configs.Error{Reason: reason, Err: err}
		}
	}
	if err != nil {
		s.meters.configsFailed(start, update)
		return edit.Explain(err)
	}
	s.meters.configsDone(start, update, stop)
	for _, n := range append(slices.Clone(notes), edit.Notes...) {
		s.log.Warn("request of L3AF's API", "by", by, "note", n)
		w.Header().Add("Warning", "299 l3afd "+quoted(n))
	}
	return s.write(w, http.StatusOK, "application/json", nil)
}

// Import makes a store of L3AF's, which is what GET gives for all interfaces,
// the state of a node that never had one. It does nothing on others, and
// interfaces need not be there yet.
func (s *Server) Import(ctx context.Context, store []byte, by string) error {
	payload, notes, err := configs.ReadInterfaces(store)
	if err != nil {
		return err
	}
	// Where the daemon ends meanwhile, no agent is waited for.
	defer context.AfterFunc(ctx, s.hurry)()
	select {
	case s.changing <- struct{}{}:
		defer func() { <-s.changing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c, err := s.current(ctx); c != nil || err != nil {
		return err
	}
	host := *s.configs
	host.Interfaces = func() (map[string]bool, error) {
		all := map[string]bool{}
		for _, in := range payload {
			all[in.Iface] = false
		}
		return all, nil
	}
	ctx = artifact.Once(ctx)
	edit, err := host.Update(ctx, &l3af.State{APIVersion: l3af.APIVersion}, payload)
	if err != nil {
		return err
	}
	for _, n := range append(notes, edit.Notes...) {
		s.log.Warn("import", "note", n)
	}
	applied, err := s.node.Edit(ctx, edit.State, by, 0, edit.Fresh)
	if err != nil {
		return edit.Explain(err)
	}
	failed, unstarted := failedOf(applied, new(l3af.State), edit.State)
	if unstarted {
		failed = append(failed, errors.New("l3afd is ending before all agents are started: the next one goes on with that"))
	}
	return errors.Join(failed...)
}

// quoted is a text as headers can hold it.
func quoted(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// failedOf are the failures that a change is to blame for: those of chains and
// probes that it changed. unstarted says whether there are some besides whose agents
// the daemon, which ends, did not come to.
func failedOf(a *l3af.Applied, before, after *l3af.State) (failed []error, unstarted bool) {
	for _, step := range a.Failed {
		switch {
		case reflect.DeepEqual(wantedAt(before, step.Target), wantedAt(after, step.Target)):
		case step.Unstarted:
			unstarted = true
		default:
			err := errors.New(step.Error)
			// Where the kernel was asked it says so itself, with the verb that it was.
			if _, rest, ok := strings.Cut(step.Error, " "); !ok || !strings.HasPrefix(rest, step.Target+": ") {
				err = fmt.Errorf("%s %s: %w", step.Verb, step.Target, err)
			}
			failed = append(failed, err)
		}
	}
	return failed, unstarted
}

// wantedAt is what a state wants at a target; nil when it wants nothing.
func wantedAt(s *l3af.State, target string) any {
	for _, c := range s.Chains {
		if (l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}).String() == target {
			return c
		}
	}
	for _, p := range s.Probes {
		if "probe/"+p.Name == target {
			return p
		}
	}
	return nil
}

// takeBack makes the state what it was before a change.
func (s *Server) takeBack(ctx context.Context, to, from int, by string) error {
	ctx = context.WithoutCancel(ctx)
	var err error
	if to > 0 {
		_, err = s.node.Rollback(ctx, to, by, from)
	} else {
		_, err = s.node.Edit(ctx, &l3af.State{APIVersion: l3af.APIVersion}, by, from, func(string) bool { return false })
	}
	return err
}

// configsProblem says an error of L3AF's API in the words of HTTP.
func configsProblem(err error) error {
	var e *configs.Error
	var p *Problem
	if err == nil || errors.As(err, &p) {
		return err
	}
	if errors.As(err, &e) {
		p = &Problem{Status: http.StatusUnprocessableEntity, Code: CodeInvalid, Detail: err.Error()}
		switch e.Reason {
		case configs.Malformed:
			p.Status = http.StatusBadRequest
		case configs.Unknown:
			p.Status, p.Code = http.StatusNotFound, CodeNotFound
		case configs.Conflict:
			p.Status, p.Code = http.StatusConflict, CodeConflict
		case configs.Unavailable:
			p.Status, p.Code = http.StatusServiceUnavailable, CodeUnavailable
		}
		if wrong := (*l3af.InvalidError)(nil); errors.As(err, &wrong) {
			p.Mistakes = wrong.Mistakes
		}
		return p
	}
	return err
}

func (s *Server) configsAll(w http.ResponseWriter, r *http.Request) error {
	now, err := s.stateNow(r.Context())
	if err != nil {
		return err
	}
	return s.respondIndented(w, configs.All(now, s.configs.Name))
}

func (s *Server) configsOne(w http.ResponseWriter, r *http.Request) error {
	now, err := s.stateNow(r.Context())
	if err != nil {
		return err
	}
	iface := r.PathValue("iface")
	if err := s.knows(now, iface); err != nil {
		return err
	}
	return s.respondIndented(w, configs.One(now, s.configs.Name, iface))
}

// knows says whether there is such an interface: in the state, or here.
func (s *Server) knows(now *l3af.State, iface string) error {
	if slices.ContainsFunc(configs.All(now, s.configs.Name), func(in configs.Interface) bool { return in.Iface == iface }) {
		return nil
	}
	here, err := s.configs.Interfaces()
	if err != nil {
		return fmt.Errorf("failed to get net interfaces: %w", err)
	}
	if _, ok := here[iface]; !ok {
		return &Problem{Status: http.StatusNotFound, Code: CodeNotFound, Detail: fmt.Sprintf("%.80s interface name not found in the host", iface)}
	}
	return nil
}

// stateNow is the state in force, empty before the first.
func (s *Server) stateNow(ctx context.Context) (*l3af.State, error) {
	c, err := s.current(ctx)
	if c == nil {
		return &l3af.State{APIVersion: l3af.APIVersion}, err
	}
	return &c.State, nil
}

// respondIndented writes JSON as upstream's GET does.
func (s *Server) respondIndented(w http.ResponseWriter, v any) error {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return s.write(w, http.StatusOK, "application/json", body.Bytes())
}

// configsRestart hands over to another version of the daemon.
func (s *Server) configsRestart(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	want, _, err := configs.ReadRestart(body)
	if err != nil {
		return configsProblem(err)
	}
	if want.HostName != s.configs.Name {
		return &Problem{Status: http.StatusUnprocessableEntity, Code: CodeInvalid,
			Detail: fmt.Sprintf("provided bpf programs do not belong to this host (the restart is for %.80q, this is %q)", want.HostName, s.configs.Name)}
	}
	if s.restart == nil {
		return &Problem{Status: http.StatusUnprocessableEntity, Code: CodeInvalid, Detail: "failed to getNewVersion: no repository of versions is configured",
			Hint: "restart-repo in the configuration of l3afd names one"}
	}
	select {
	case s.changing <- struct{}{}:
		defer func() { <-s.changing }()
	default:
		return restartUnderWay()
	}
	s.restarting.Store(true)
	defer s.restarting.Store(false)
	if err := aside(r.Context(), func() error { return s.restart(r.Context(), want.Version) }); err != nil {
		return configsProblem(err)
	}
	return s.write(w, http.StatusOK, "application/json", nil)
}
