// Package agent runs the userspace halves of programs: it starts them, keeps
// them running, and ends them with all that they made. They outlive the daemon
// that started them, and the next one goes on where it ended.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"l3af"
)

// Options say how agents are run.
type Options struct {
	// Dir is where agents have their directories; made when it does not exist.
	// One process at a time works on it.
	Dir string
	Log *slog.Logger // nil: none
	// Event, when set, is told what happens to an agent. It must not block.
	Event func(key, message string)
	// Changed, when set, is called after an agent came to be as it is wanted, or
	// failed to. It must not block.
	Changed func()

	Poll    time.Duration // how often a daemon's Status runs; 0: every 30 s
	Start   time.Duration // how long Start of what is no daemon, and Update, may take; 0: 60 s
	Stop    time.Duration // how long Stop may take, and then a process after SIGTERM; 0: 10 s
	Pause   time.Duration // before a daemon that ended is started again, doubled each time up to 64 times that; 0: 1 s
	Healthy time.Duration // after so long a daemon's pauses begin anew; 0: 1 min

	point func(string) // tests: called between any two changes
}

// State is how it stands with an agent that is wanted.
type State int

// The states.
const (
	Idle     State = iota // nobody asked for it
	Starting              // it is being started, or updated
	Up                    // it has done what it is for, or runs
	Failed                // it could not be started or updated; what ran before runs again
)

// What is done about an agent.
const (
	Start   = "start"
	Restart = "restart" // it, or another of its key, gives way
	Update  = "update"
	Stop    = "stop"
)

// Supervisor runs agents.
type Supervisor struct {
	opts    Options
	log     *slog.Logger
	boot    string
	cgroups string // the directory of ours; "": none
	wg      sync.WaitGroup

	mu      sync.Mutex
	units   map[string]*unit // by key
	closed  bool
	changed chan struct{} // closed and replaced when a state changes
}

// Open goes on with the agents that another daemon started: those that run,
// run on. What was being started is ended; it is started again when it is
// asked for.
func Open(opts Options) (*Supervisor, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Event == nil {
		opts.Event = func(string, string) {}
	}
	if opts.Changed == nil {
		opts.Changed = func() {}
	}
	if opts.point == nil {
		opts.point = func(string) {}
	}
	opts.Poll, opts.Start, opts.Stop = cmp.Or(opts.Poll, 30*time.Second), cmp.Or(opts.Start, time.Minute), cmp.Or(opts.Stop, 10*time.Second)
	opts.Pause, opts.Healthy = cmp.Or(opts.Pause, time.Second), cmp.Or(opts.Healthy, time.Minute)
	s := &Supervisor{opts: opts, log: opts.Log, units: map[string]*unit{}, changed: make(chan struct{})}
	var err error
	if s.boot, err = bootID(); err != nil {
		return nil, fmt.Errorf("agents: %w", err)
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("agents: %w", err)
	}
	if root := cgroupRoot(); root != "" {
		s.cgroups = filepath.Join(root, "l3af-"+hash(opts.Dir))
	}
	entries, err := os.ReadDir(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("agents: %w", err)
	}
	// Whatever is wrong with one of them, the others are looked after.
	for _, e := range entries {
		if err := s.find(filepath.Join(opts.Dir, e.Name())); err != nil {
			s.log.Error("agent of an earlier daemon", "directory", e.Name(), "error", err)
		}
	}
	if err := s.sweep(); err != nil {
		s.log.Error("agents of an earlier daemon", "error", err)
	}
	for _, u := range s.units {
		s.wg.Go(u.run)
	}
	return s, nil
}

// sweep removes the control groups of agents that had not begun.
func (s *Supervisor) sweep() error {
	if s.cgroups == "" {
		return nil
	}
	entries, err := os.ReadDir(s.cgroups)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	used := map[string]bool{}
	for _, u := range s.units {
		used[u.rec.Cgroup] = true
	}
	for _, e := range entries {
		c := &cgroup{filepath.Join(s.cgroups, e.Name())}
		if e.IsDir() && !used[c.dir] {
			err = errors.Join(err, c.remove())
		}
	}
	return err
}

// find goes on with the agent that has a directory.
func (s *Supervisor) find(dir string) error {
	r, err := readRecord(dir, s.boot)
	if err != nil {
		return err // its cgroup is swept
	}
	if r == nil {
		return os.RemoveAll(dir) // of another boot, or it had not begun
	}
	u := s.unit(r.Key)
	if !r.Up {
		if p := find(r.PID, r.Start, r.cgroup()); p != nil {
			p.end(0)
			p.release()
		}
		if err := r.cgroup().remove(); err != nil {
			return err
		}
		return os.RemoveAll(dir)
	}
	u.rec, u.want = *r, r.spec()
	if r.Agent.Daemon {
		if u.proc = find(r.PID, r.Start, r.cgroup()); u.proc != nil {
			if u.out, err = openOutput(dir, u.log); err != nil {
				u.log.Warn("what it prints is lost", "error", err)
			}
		}
	}
	u.show()
	s.units[r.Key] = u
	return nil
}

func (s *Supervisor) unit(key string) *unit {
	return &unit{s: s, key: key, dir: filepath.Join(s.opts.Dir, directory(key)), log: s.log.With("agent", key), wake: make(chan struct{}, 1)}
}

// State tells how it stands with an agent, and why it failed.
func (s *Supervisor) State(spec *Spec) (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state(spec)
}

// state is State. s.mu is held.
func (s *Supervisor) state(spec *Spec) (State, error) {
	u := s.units[spec.Key]
	switch {
	case u == nil || u.want == nil || u.want.id() != spec.id() || u.want.updated() != spec.updated():
		return Idle, nil
	case u.failed != nil:
		return Failed, u.failed
	case u.again:
		return Starting, nil
	case u.shown.id == spec.id() && u.shown.updated == spec.updated():
		return Up, nil
	}
	return Starting, nil
}

// Would tells what Want and Again would do about an agent: [Start], [Restart],
// [Update], or "" where it is as it is wanted or on its way there.
func (s *Supervisor) Would(spec *Spec) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[spec.Key]
	switch {
	case u == nil || u.want == nil, u.failed != nil && u.shown.id == "":
		return Start
	case u.want.id() != spec.id():
		return Restart
	case u.failed != nil && u.shown.id != spec.id():
		return Restart
	case u.failed != nil, u.want.updated() != spec.updated():
		return Update
	case u.shown.id == spec.id() && u.shown.maps != "" && spec.Maps != "" && u.shown.maps != spec.Maps:
		return Restart
	}
	return ""
}

// Keys are those of the agents that are wanted, sorted.
func (s *Supervisor) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for key, u := range s.units {
		if u.want != nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Want makes an agent as it is wanted, in the background. Another agent of the
// same key gives way to it, and comes back if it fails. One that failed is
// tried again.
func (s *Supervisor) Want(spec *Spec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	u := s.units[spec.Key]
	if u == nil {
		u = s.unit(spec.Key)
		s.units[spec.Key] = u
		defer s.wg.Go(u.run)
	}
	if spec.same(u.want) && u.failed == nil {
		return
	}
	u.want, u.failed = spec, nil
	u.poke()
}

// Again starts an agent anew, in the background, that is up and found other
// maps when it started than there are now: what it did to them, or holds open,
// is not its program's any more. It reports whether it does.
func (s *Supervisor) Again(spec *Spec) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, _ := s.state(spec)
	u := s.units[spec.Key]
	if s.closed || state != Up || u.shown.maps == spec.Maps {
		return false
	}
	// A record of a daemon that did not keep them: they are those of now.
	u.want, u.again = spec, u.shown.maps != ""
	u.poke()
	return u.again
}

// Keep ends, in the background, the agents whose key is not to be kept.
func (s *Supervisor) Keep(keep func(key string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, u := range s.units {
		if u.want != nil && !keep(key) {
			u.want, u.failed, u.again = nil, nil, false
			u.shown.status.State = "stopping"
			u.poke()
		}
	}
}

// Wait returns when none of the agents is being started any more, or ctx ends.
func (s *Supervisor) Wait(ctx context.Context, specs []*Spec) error {
	for {
		s.mu.Lock()
		changed, closed := s.changed, s.closed
		s.mu.Unlock()
		if closed {
			return errors.New("agents are not looked after any more")
		}
		busy := false
		for _, spec := range specs {
			state, _ := s.State(spec)
			busy = busy || state == Starting
		}
		if !busy {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Status tells how an agent is; nil when there is none.
func (s *Supervisor) Status(key string) *l3af.AgentStatus {
	s.mu.Lock()
	u := s.units[key]
	if u == nil {
		s.mu.Unlock()
		return nil
	}
	status, c := u.shown.status, u.shown.cgroup
	if u.failed != nil {
		status.Error = u.failed.Error()
	}
	s.mu.Unlock()
	cpu, memory := c.used()
	status.CPUSeconds, status.Memory = cpu.Seconds(), memory
	return &status
}

// Close stops looking after the agents: daemons run on, for the next
// supervisor. What is being started is ended.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, u := range s.units {
		u.poke()
	}
	s.tell()
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// tell wakes those who wait for a state. s.mu is held.
func (s *Supervisor) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
	s.opts.Changed()
}

// errGivenUp: what was asked for is not wanted any more.
var errGivenUp = errors.New("given up")
