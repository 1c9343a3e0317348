package agent

import (
	"bytes"
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
)

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
