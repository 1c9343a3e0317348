package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"l3af/internal/node"
)

// handover is one try to have another process take our place.
type handover struct {
	program
	again program       // what it hands over to at SIGHUP
	limit time.Duration // for each of the two times that we wait for it
	next  *successor
	err   error
	done  chan error
}

// program is what is started.
type program struct {
	Path string   `json:"path"`
	Args []string `json:"args"`
}

// startedAs is the path and the arguments that this daemon was started with.
// What is there by now may be another version.
func startedAs() program {
	p := program{os.Args[0], os.Args[1:]}
	if !strings.Contains(p.Path, "/") {
		if found, err := exec.LookPath(p.Path); err == nil {
			p.Path = found
		}
	}
	if abs, err := filepath.Abs(p.Path); err == nil {
		p.Path = abs
	}
	return p
}

var (
	errEnding   = errors.New("l3afd is ending")
	errUnderWay = errors.New("a handover is under way")
)

// Handover has a program take the place of this daemon: another l3afd. It
// returns when that works, and this daemon ends then; or with an error that says
// why it does not, and this daemon goes on. At SIGHUP the other one hands over to
// again.
func (d *daemon) Handover(to, again program) error {
	if !d.handing.CompareAndSwap(false, true) {
		return errUnderWay
	}
	defer d.handing.Store(false)
	h := &handover{program: to, again: again, limit: d.restartTimeout, done: make(chan error, 1)}
	select {
	case d.asked <- h:
	case <-d.ended:
		return errEnding
	}
	select {
	case err := <-h.done:
		return err
	case <-d.ended:
		return errEnding
	}
}

// watch waits for what ends serving. It starts successors, and returns one that
// has greeted us: then we are to stop, so that it can go on.
func (d *daemon) watch(ctx context.Context, n *node.Node, looked <-chan struct{}, hangups <-chan os.Signal, ended <-chan error) (*handover, error) {
	var starting *handover
	greeted := make(chan *handover, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		if starting == nil {
			return
		}
		if h := <-greeted; h.err == nil {
			h.next.kill()
		}
		starting.done <- errEnding
	}()
	for {
		select {
		case <-looked:
			tell(d.log, "READY=1")
		case <-hangups:
			go func() {
				if err := d.Handover(d.self, d.self); errors.Is(err, errUnderWay) {
					d.log.Info("SIGHUP", "error", err) // other errors are logged
				}
			}()
		case h := <-d.asked:
			starting = h
			tell(d.log, reloading())
			d.log.Info("handing over", "to", h.Path)
			files := []inherited{{"bpffs:" + d.bpffs, int(d.locks.bpffs.Fd())}, {"state:" + d.stateDir, int(d.locks.state.Fd())}}
			for name, fd := range d.sockets.fds {
				files = append(files, inherited{name, fd})
			}
			go func() {
				h.err = h.start(ctx, files)
				greeted <- h
			}()
		case h := <-greeted:
			starting = nil
			if h.err == nil {
				return h, nil
			}
			d.failed(h, h.err)
			n.Tell(d.news)
			d.news = ""
			tell(d.log, "READY=1")
		case <-ctx.Done():
			return nil, nil
		case err := <-ended:
			return nil, err
		}
	}
}

// start starts the successor and waits until it greets us.
func (h *handover) start(ctx context.Context, files []inherited) (err error) {
	if h.next, err = startSuccessor(h.program, h.again, files, h.limit); err != nil {
		return err
	}
	if err = h.next.hear(ctx, fmt.Sprintf("hello %d", protocol)); err != nil {
		h.next.kill()
	}
	return err
}

// give gives our place to the successor. Nothing of ours works any more.
func (d *daemon) give(ctx context.Context, h *handover) error {
	h.next.deadline = time.Now().Add(h.limit)
	err := h.next.talk.say("go")
	if err == nil {
		err = h.next.hear(ctx, "ready")
	}
	if err == nil {
		// Before it says anything itself: it would not be listened to.
		tell(d.log, fmt.Sprintf("MAINPID=%d\nREADY=1", h.next.process.Pid))
		if err = h.next.talk.say("yours"); err != nil {
			tell(d.log, fmt.Sprintf("MAINPID=%d", os.Getpid()))
		}
	}
	if err != nil {
		h.next.kill()
	}
	return err
}

// failed tells that we go on.
func (d *daemon) failed(h *handover, err error) {
	d.log.Error("the handover failed; this l3afd goes on", "to", h.Path, "error", err)
	d.news = fmt.Sprintf("handover to %s failed: %v", h.Path, err)
	h.done <- fmt.Errorf("hand over: %w", err)
}

// leave ends what is left of us when the successor works.
func (d *daemon) leave(h *handover) error {
	d.sockets.gone = true
	d.log.Info("handed over", "to", h.Path, "pid", h.next.process.Pid)
	h.done <- nil
	d.last.Wait() // for the answer to who asked
	return nil
}

// reloading is what the service manager is told while it is to wait for the
// next READY=1 (sd_notify(3)).
func reloading() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}
