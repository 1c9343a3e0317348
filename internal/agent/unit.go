package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	id, updated string
	status      l3af.AgentStatus
	cgroup      *cgroup
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
	u.rec = record{Key: u.key, Boot: u.s.boot, Agent: want.Agent, Digest: want.Digest, ID: want.id()}
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

// start runs Start of what is on record: a daemon is made, anything else must
// end with status 0.
func (u *unit) start(ctx context.Context) error {
	if len(u.rec.Agent.Start) == 0 {
		return nil
	}
	c, err := u.cgroup()
	if err != nil {
		return err
	}
	out, ends, err := makeOutput(u.dir, u.log)
	if err != nil {
		return err
	}
	u.s.opts.point("made pipes")
	cmd := command{dir: filepath.Join(u.dir, u.rec.ID), words: u.rec.Agent.Start, cgroup: c, stdout: ends[0], stderr: ends[1]}
	if u.rec.Agent.Daemon {
		cmd.cpu, cmd.memory = u.rec.Agent.CPU, u.rec.Agent.Memory
	}
	p, err := cmd.start(func(p *process) error {
		u.s.opts.point("made process")
		u.rec.PID, u.rec.Start = p.pid, p.start
		if err := u.rec.write(u.dir); err != nil {
			return err
		}
		u.s.opts.point("recorded process")
		return nil
	})
	closeAll(ends)
	if err != nil {
		out.Close()
		return fmt.Errorf("start: %w", err)
	}
	u.out, u.proc, u.since = out, p, time.Now()
	if u.rec.Agent.Daemon {
		u.tellEvent(fmt.Sprintf("started, pid %d", p.pid))
		return nil
	}
	limit := time.NewTimer(u.s.opts.Start)
	defer limit.Stop()
	select {
	case <-p.done:
		out.settle()
		if p.err != nil {
			return fmt.Errorf("start: %w%s", p.err, colon(out.tail()))
		}
		u.proc = nil
		p.release()
		u.rec.PID, u.rec.Start = 0, 0
		u.tidy()
		u.tellEvent("done")
		return nil
	case <-limit.C:
		out.settle()
		return fmt.Errorf("start: it has not ended after %v%s", u.s.opts.Start, colon(out.tail()))
	case <-ctx.Done():
		return ctx.Err()
	}
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// cgroup makes the control group of the agent. Without one, what it makes is
// known by its process group alone.
func (u *unit) cgroup() (*cgroup, error) {
	u.rec.Cgroup = ""
	if u.s.cgroups == "" {
		return nil, nil
	}
	c := &cgroup{filepath.Join(u.s.cgroups, directory(u.key))}
	if err := c.make(); err != nil {
		if errors.Is(err, os.ErrPermission) || strings.Contains(err.Error(), "read-only") {
			return nil, nil
		}
		return nil, err
	}
	u.rec.Cgroup = c.dir
	return c, nil
}

// tidy removes the control group when nothing is in it.
func (u *unit) tidy() {
	if c := u.rec.cgroup(); c != nil && u.proc == nil && !c.populated() && c.remove() == nil {
		u.rec.Cgroup = ""
	}
}

// update runs Update of an agent that runs.
func (u *unit) update(ctx context.Context, want *Spec) error {
	u.busy = "updating"
	u.show()
	if err := u.runUpdate(ctx, want); err != nil {
		if ctx.Err() != nil {
			return errGivenUp
		}
		u.warn("failed: " + err.Error())
		return err
	}
	u.rec.Agent, u.rec.Updated = want.Agent, want.updated()
	u.tellEvent("updated")
	return u.rec.write(u.dir)
}

// runUpdate runs Update. A daemon that was just started may not be ready for
// it: it is tried several times.
func (u *unit) runUpdate(ctx context.Context, want *Spec) error {
	if len(want.Agent.Update) == 0 {
		return nil
	}
	tries := 1
	if want.Agent.Daemon {
		tries = 5
	}
	pause := u.s.opts.Pause / 8
	for {
		_, err := u.short(ctx, want.Agent.Update, u.s.opts.Start)
		if tries--; err == nil || tries == 0 || ctx.Err() != nil {
			if err != nil {
				err = fmt.Errorf("update: %w", err)
			}
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause *= 2
	}
}

// short runs a command that ends soon, and returns what it printed.
func (u *unit) short(ctx context.Context, words []string, limit time.Duration) (stdout string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it has not ended after %v", limit))
	defer cancel()
	if _, err := u.cgroup(); err != nil {
		return "", err
	}
	defer u.tidy()
	var r, w [2]*os.File
	for i := range r {
		if r[i], w[i], err = os.Pipe(); err != nil {
			closeAll(r)
			closeAll(w)
			return "", err
		}
	}
	defer closeAll(r)
	cmd := command{dir: filepath.Join(u.dir, u.rec.ID), words: words, cgroup: u.rec.cgroup(), stdout: w[0], stderr: w[1]}
	p, err := cmd.start(nil)
	closeAll(w)
	if err != nil {
		return "", err
	}
	defer p.release()
	var said bytes.Buffer
	tails := [2]*lines{newLines(u.log.With("stream", streams[0])), newLines(u.log.With("stream", streams[1]))}
	if slices.Equal(words, u.rec.Agent.Status) {
		tails[0].level = slog.LevelDebug // its words are known
	}
	read := make(chan struct{}, 2)
	for i := range r {
		go func() {
			to := io.Writer(writer{tails[i]})
			if i == 0 {
				to = io.MultiWriter(to, &bounded{&said})
			}
			_, _ = io.Copy(to, r[i])
			tails[i].end()
			read <- struct{}{}
		}()
	}
	select {
	case <-p.done:
		err = p.err
	case <-ctx.Done():
		p.signal(9)
		<-p.done
		err = context.Cause(ctx)
	}
	// What it left behind may hold the pipes open.
	patience := time.AfterFunc(time.Second, func() { closeAll(r) })
	defer patience.Stop()
	for range r {
		<-read
	}
	if err != nil {
		tail := tails[1].tail()
		if tail == "" {
			tail = tails[0].tail()
		}
		return "", fmt.Errorf("%w%s", err, colon(tail))
	}
	return said.String(), nil
}

type writer struct{ *lines }

func (w writer) Write(b []byte) (int, error) { w.write(b); return len(b), nil }

// bounded keeps the first of what is written to it.
type bounded struct{ *bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:max(0, min(len(p), maxLine-b.Len()))])
	return len(p), nil
}

// adjust takes what may change of an agent without starting it anew.
func (u *unit) adjust(want *Spec) {
	if slices.Equal(u.rec.Agent.Stop, want.Agent.Stop) && slices.Equal(u.rec.Agent.Status, want.Agent.Status) {
		return
	}
	u.rec.Agent = want.Agent
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
		u.shown.id, u.shown.updated = u.rec.ID, u.rec.Updated
	}
}
