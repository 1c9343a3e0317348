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
	"strings"
	"time"

	"l3af"
)

// unit is one agent. All it does is done by its goroutine, one thing after
// the other.
type unit struct {
	s    *Supervisor
	key  string
	dir  string
	log  *slog.Logger
	wake chan struct{} // something below has changed

	// Under s.mu.
	want   *Spec // nil: it is to end
	cancel context.CancelFunc
	failed error // why want could not be had
	again  bool  // want is to be started anew
	shown  shown

	// The goroutine's.
	rec   record   // what runs, or has done what it is for; ID "": nothing
	proc  *process // of a daemon that runs
	out   *output
	pause time.Duration // before the next start
	since time.Time     // when the daemon was started
	cause string        // why it ended last
	busy  string
}

// shown is what others see of a unit.
type shown struct {
	id, updated, maps string
	status            l3af.AgentStatus
	cgroup            *cgroup
}

// poke makes the goroutine look again, and ends what it does for somebody who
// wants something else by now. s.mu is held.
func (u *unit) poke() {
	if u.cancel != nil {
		u.cancel()
	}
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

func (u *unit) run() {
	for {
		u.s.mu.Lock()
		want, failed, closed, again := u.want, u.failed, u.s.closed, u.again
		ctx, cancel := context.WithCancel(context.Background())
		u.cancel = cancel
		u.s.mu.Unlock()
		switch {
		case closed:
			u.abandon()
			cancel()
			return
		case want == nil:
			u.leave()
			if u.gone() {
				cancel()
				return
			}
		case failed != nil:
			u.rest()
		case u.rec.ID != want.id(), again:
			u.taken()
			u.ended(want, u.bring(ctx, want))
		case u.rec.Updated != want.updated():
			u.ended(want, u.update(ctx, want))
		default:
			u.adjust(want)
			u.rest()
		}
		cancel()
	}
}

// taken says that want is being started.
func (u *unit) taken() {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	u.again = false
	u.shown.id = ""
}

// gone ends the unit unless it is wanted again.
func (u *unit) gone() bool {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.want != nil && !u.s.closed {
		return false
	}
	delete(u.s.units, u.key)
	u.s.tell()
	return true
}

// ended keeps what became of what was done for a want.
func (u *unit) ended(want *Spec, err error) {
	u.busy = ""
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.want == want && !errors.Is(err, errGivenUp) {
		u.failed = err
	}
	u.showLocked()
	u.s.tell()
}

// bring makes want what runs. On an error what ran before runs again.
func (u *unit) bring(ctx context.Context, want *Spec) error {
	u.busy = "starting"
	u.show()
	files := filepath.Join(u.dir, want.id())
	if err := u.lay(files, want); err != nil {
		return fmt.Errorf("lay out files: %w", err)
	}
	before := u.rec
	if before.ID != "" {
		u.stop() // of two at a time each would be in the other's way
	}
	if before.ID == want.id() {
		before = record{} // nothing to come back
	}
	u.s.opts.point("stopped")
	u.rec = record{Key: u.key, Boot: u.s.boot, Agent: want.Agent, Digest: want.Digest, ID: want.id(), Maps: want.Maps}
	err := u.start(ctx)
	if err == nil {
		err = u.runUpdate(ctx, want)
	}
	if err == nil {
		u.rec.Up, u.rec.Updated = true, want.updated()
		u.s.opts.point("started")
		err = u.rec.write(u.dir)
	}
	if err == nil {
		u.s.opts.point("recorded")
		u.pause, u.cause = 0, ""
		u.keepOnly(want.id())
		return nil
	}
	u.kill()
	if ctx.Err() != nil {
		err = errGivenUp
	} else {
		u.warn("failed: " + err.Error())
	}
	if rerr := u.back(ctx, before, files); rerr != nil {
		u.log.Error("what is left of an agent that failed", "error", rerr)
	}
	return err
}

// back makes what was there before what runs. What an initialiser did was taken
// back by its Stop: it is done once more, unless something else is wanted by now.
func (u *unit) back(ctx context.Context, before record, failed string) error {
	if before.ID == "" || !before.Agent.Daemon && ctx.Err() != nil {
		return u.erase()
	}
	u.rec = before
	u.rec.PID, u.rec.Start = 0, 0
	err := errors.Join(os.RemoveAll(failed), u.rec.write(u.dir))
	if before.Agent.Daemon {
		u.restart(0)
	} else if rerr := u.redo(ctx); rerr != nil {
		return errors.Join(err, rerr, u.erase())
	}
	return err
}

// redo starts what is on record once more. On an error nothing of it runs.
func (u *unit) redo(ctx context.Context) error {
	updated := u.rec.Updated
	// Should this daemon end before that is done, the next one does the rest.
	u.rec.Up, u.rec.Updated = u.rec.Agent.Daemon, ""
	err := u.start(ctx)
	if err == nil {
		err = u.runUpdate(ctx, u.rec.spec())
	}
	if err != nil && u.rec.Up && u.proc != nil && ctx.Err() != nil {
		return nil // it runs; who sees to it next has it updated
	}
	if err != nil {
		u.kill()
	}
	u.rec.Up, u.rec.Updated = true, updated
	return errors.Join(err, u.rec.write(u.dir))
}

func (u *unit) lay(dir string, want *Spec) error {
	if want.Open == nil {
		return errors.New("its package is not known")
	}
	pkg, err := want.Open()
	if err != nil {
		return err
	}
	return lay(dir, pkg, want.Agent.Files)
}

// adjust takes what may change of an agent without starting it anew.
func (u *unit) adjust(want *Spec) {
	maps := cmp.Or(u.rec.Maps, want.Maps)
	if slices.Equal(u.rec.Agent.Stop, want.Agent.Stop) && slices.Equal(u.rec.Agent.Status, want.Agent.Status) && maps == u.rec.Maps {
		return
	}
	u.rec.Agent, u.rec.Maps = want.Agent, maps
	if err := u.rec.write(u.dir); err != nil {
		u.log.Error(err.Error())
	}
}

// rest waits until there is something to do, and looks after a daemon.
func (u *unit) rest() {
	u.show()
	a := &u.rec.Agent
	if u.rec.ID == "" || !a.Daemon {
		<-u.wake
		return
	}
	if u.proc == nil { // it ended when nobody looked after it
		u.over(cmp.Or(u.cause, "it has ended"))
		return
	}
	var poll <-chan time.Time
	if len(a.Status) > 0 {
		t := time.NewTimer(u.s.opts.Poll)
		defer t.Stop()
		poll = t.C
	}
	select {
	case <-u.wake:
	case <-u.proc.done:
		u.out.settle()
		why := u.proc.err
		if why == nil {
			why = errors.New("it has ended with status 0")
		}
		u.over(why.Error() + colon(u.out.tail()))
	case <-poll:
		if why := u.ask(); why != "" {
			u.proc.end(u.s.opts.Stop)
			u.over(why)
		}
	}
}

// ask runs Status; it says why a daemon does not run as it should.
func (u *unit) ask() string {
	said, err := u.short(context.Background(), u.rec.Agent.Status, u.s.opts.Stop)
	switch said = strings.TrimSpace(said); {
	case err != nil:
		return fmt.Sprintf("status: %v", err)
	case !strings.EqualFold(said, "running"):
		return fmt.Sprintf("status: it says %q, not RUNNING", said)
	}
	return ""
}

// over is a daemon that ended: it is started again, after a pause that grows
// while it does not run for long.
func (u *unit) over(why string) {
	if !u.since.IsZero() && time.Since(u.since) >= u.s.opts.Healthy || u.pause == 0 {
		u.pause = u.s.opts.Pause
	} else {
		u.pause = min(2*u.pause, 64*u.s.opts.Pause)
	}
	u.kill()
	u.cause = why
	u.warn(fmt.Sprintf("ended: %s; started again in %v", why, u.pause))
	u.restart(u.pause)
}

// restart starts what is on record once more, unless something else is to be done.
func (u *unit) restart(pause time.Duration) {
	u.busy = "restarting"
	u.show()
	defer func() { u.busy = "" }()
	t := time.NewTimer(pause)
	defer t.Stop()
	for waiting := true; waiting; {
		select {
		case <-t.C:
			waiting = false
		case <-u.wake:
			u.s.mu.Lock()
			other := u.s.closed || u.again || u.want == nil || u.failed == nil && u.want.id() != u.rec.ID
			u.s.mu.Unlock()
			if other {
				return // the loop sees to it
			}
		}
	}
	u.s.mu.Lock()
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel = cancel
	u.s.mu.Unlock()
	defer cancel()
	u.rec.Starts++
	u.show()
	if err := u.redo(ctx); err != nil {
		u.cause = err.Error()
	}
}

// stop ends what runs because it is not wanted any more. Should this daemon
// end before that is done, the next one does it.
func (u *unit) stop() {
	u.rec.Up = false
	if err := u.rec.write(u.dir); err != nil {
		u.log.Error(err.Error())
	}
	u.s.opts.point("stopping")
	if words := u.rec.Agent.Stop; len(words) > 0 {
		if _, err := u.short(context.Background(), words, u.s.opts.Stop); err != nil {
			u.log.Warn("stop failed", "error", err)
		}
	}
	if u.proc != nil {
		u.proc.end(u.s.opts.Stop)
	}
	if u.kill(); u.rec.Agent.Daemon || len(u.rec.Agent.Stop) > 0 {
		u.tellEvent("stopped")
	}
}

// kill makes sure that nothing of the agent runs any more.
func (u *unit) kill() {
	if u.proc != nil {
		u.proc.end(0)
		u.proc.release()
	}
	if err := u.rec.cgroup().remove(); err != nil {
		u.log.Error(err.Error())
	}
	u.out.Close()
	u.proc, u.out, u.rec.PID, u.rec.Start = nil, nil, 0, 0
}

// leave ends the agent and removes what there is of it.
func (u *unit) leave() {
	u.busy = "stopping"
	u.show()
	if u.rec.ID != "" {
		u.stop()
	}
	u.s.opts.point("left")
	if err := u.erase(); err != nil {
		u.log.Error(err.Error())
	}
	u.busy = ""
}

// erase removes what is on disk of an agent of which nothing runs.
func (u *unit) erase() error {
	err := u.rec.cgroup().remove() // a command of its end made it anew
	u.rec = record{}
	u.s.opts.point("removed cgroup")
	// What names the rest goes last.
	if rerr := u.keepOnly(""); rerr != nil {
		return errors.Join(err, rerr)
	}
	return errors.Join(err, os.RemoveAll(u.dir))
}

// keepOnly removes the files of all agents of the key but one.
func (u *unit) keepOnly(id string) error {
	entries, err := os.ReadDir(u.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != id {
			err = errors.Join(err, os.RemoveAll(filepath.Join(u.dir, e.Name())))
		}
	}
	return err
}

// abandon leaves the agent to the next daemon.
func (u *unit) abandon() {
	u.out.Close()
	if u.proc != nil {
		u.proc.release()
	}
}

func (u *unit) tellEvent(message string) {
	u.log.Info(message)
	u.s.opts.Event(u.key, message)
}

func (u *unit) warn(message string) {
	u.log.Warn(message)
	u.s.opts.Event(u.key, message)
}

// show lets others see what is.
func (u *unit) show() {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	u.showLocked()
}

func (u *unit) showLocked() {
	status := l3af.AgentStatus{State: u.busy, Restarts: u.rec.Starts, Error: u.cause}
	if u.proc != nil {
		status.PID = u.proc.pid
	}
	switch {
	case u.busy != "":
	case u.rec.ID == "":
		status.State = l3af.Failed
	case u.proc != nil:
		status.State = l3af.Running
	case u.rec.Agent.Daemon:
		status.State = "restarting"
	default:
		status.State = "done"
	}
	u.shown = shown{status: status, cgroup: u.rec.cgroup()}
	if u.busy == "" || u.busy == "restarting" {
		u.shown.id, u.shown.updated, u.shown.maps = u.rec.ID, u.rec.Updated, u.rec.Maps
	}
}
