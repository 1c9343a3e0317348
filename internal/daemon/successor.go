package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A running daemon gives its place to another one. It starts that with what
// must never be closed, the listening sockets and the locks, as descriptors,
// and a socket to talk over. The lines on it are
//
//	new: hello 1    it knows this protocol and its settings are good
//	old: go         nothing works on the state directory and on bpffs any more
//	new: ready      it has read back what there is and can work
//	old: yours      it answers and works from now on; the old one ends
//
// At the end of the socket the other one is gone. Then the new one goes on as
// if it had been told to, and the old one as if it had not asked, after it made
// sure that the new one has ended.

// handoverEnv tells a process what it is given: a handed in JSON. Descriptor 3
// is the socket, those of the files follow.
const handoverEnv = "L3AFD_HANDOVER"

const (
	protocol     = 1
	firstInherit = 3
)

type handed struct {
	Protocol int      `json:"protocol"`
	Files    []string `json:"files"`
	Again    program  `json:"again"` // what to hand over to at SIGHUP
}

// talk is an end of the socket between two daemons.
type talk struct {
	net.Conn
	lines *bufio.Reader
}

func newTalk(fd int) (*talk, error) {
	f := os.NewFile(uintptr(fd), "handover")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("handover: %w", err)
	}
	return &talk{Conn: c, lines: bufio.NewReader(c)}, nil
}

func (t *talk) say(line string) error {
	_, err := fmt.Fprintln(t.Conn, line)
	return err
}

// hear waits for a line until ctx ends or the deadline; zero: for ever.
func (t *talk) hear(ctx context.Context, line string, deadline time.Time) error {
	_ = t.SetReadDeadline(deadline)
	defer context.AfterFunc(ctx, func() { _ = t.SetReadDeadline(time.Now()) })()
	got, err := t.lines.ReadString('\n')
	if err != nil {
		return err
	}
	if got = strings.TrimSuffix(got, "\n"); got != line {
		return fmt.Errorf("it says %q, not %q", got, line)
	}
	return nil
}

// successor is a process that is to take our place.
type successor struct {
	path     string
	talk     *talk
	process  *os.Process
	ended    chan struct{}
	state    *os.ProcessState
	deadline time.Time
}

// startSuccessor starts a program with files, which are named descriptors.
func startSuccessor(p, again program, files []inherited, limit time.Duration) (*successor, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("handover: %w", err)
	}
	defer unix.Close(pair[1])
	ours, err := newTalk(pair[0])
	if err != nil {
		return nil, err
	}
	given := handed{Protocol: protocol, Again: again}
	// Not as *os.File: giving their descriptors away would make them block here.
	fds := []uintptr{0, 1, 2, uintptr(pair[1])}
	for _, f := range files {
		given.Files = append(given.Files, f.name)
		fds = append(fds, uintptr(f.fd))
	}
	text, err := json.Marshal(given)
	if err != nil {
		ours.Close()
		return nil, err
	}
	pid, err := syscall.ForkExec(p.Path, append([]string{p.Path}, p.Args...), &syscall.ProcAttr{
		Env: append(os.Environ(), handoverEnv+"="+string(text)), Files: fds,
	})
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start %s: %w", p.Path, err)
	}
	s := &successor{path: p.Path, talk: ours, ended: make(chan struct{}), deadline: time.Now().Add(limit)}
	s.process, err = os.FindProcess(pid)
	if err != nil {
		return nil, err // never on Unix
	}
	go func() {
		defer close(s.ended)
		s.state, _ = s.process.Wait()
	}()
	return s, nil
}

// hear waits for a line of the successor's, until ctx ends. The error says what
// became of it.
func (s *successor) hear(ctx context.Context, line string) error {
	err := s.talk.hear(ctx, line, s.deadline)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errEnding
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("not ready in time")
	default:
		// Why it is silent may be that it has ended.
		select {
		case <-s.ended:
			err = fmt.Errorf("ended (%v); the log has what it said", s.state)
		case <-time.After(time.Second):
		}
	}
	return fmt.Errorf("%s: %w", s.path, err)
}

// kill makes sure that it is gone.
func (s *successor) kill() {
	_ = s.process.Kill()
	<-s.ended
	s.talk.Close()
}

// inherited is a descriptor with the name it has in a handover.
type inherited struct {
	name string
	fd   int
}

// predecessor is the daemon whose place we take.
type predecessor struct {
	talk  *talk
	again program
	files map[string]int // not taken yet
}

// findPredecessor reads what this process was given; nil: it was started in
// the usual way. Nothing of it is passed on to processes that we start.
func findPredecessor() (*predecessor, error) {
	text, ok := os.LookupEnv(handoverEnv)
	if !ok {
		return nil, nil
	}
	if err := os.Unsetenv(handoverEnv); err != nil {
		return nil, err
	}
	var given handed
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		return nil, fmt.Errorf("%s: %w", handoverEnv, err)
	}
	if given.Protocol != protocol {
		return nil, fmt.Errorf("the l3afd before this one hands over by protocol %d, this one knows %d: stop the one and start the other", given.Protocol, protocol)
	}
	p := &predecessor{again: given.Again, files: map[string]int{}}
	for i := range 1 + len(given.Files) {
		if _, err := unix.FcntlInt(uintptr(firstInherit+i), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("descriptor %d of a handover: %w", firstInherit+i, err)
		}
		if i > 0 {
			p.files[given.Files[i-1]] = firstInherit + i
		}
	}
	var err error
	p.talk, err = newTalk(firstInherit)
	return p, err
}

// take takes a descriptor by its name.
func (p *predecessor) take(name string) (fd int, ok bool) {
	if p == nil {
		return -1, false
	}
	fd, ok = p.files[name]
	delete(p.files, name)
	return fd, ok
}

// leave closes what nobody took.
func (p *predecessor) leave() {
	for name, fd := range p.files {
		closeSocket(name, fd, true)
	}
	p.files = nil
}

// greet says that we can take its place, and returns when we may.
func (p *predecessor) greet() error {
	if err := p.talk.say(fmt.Sprintf("hello %d", protocol)); err != nil {
		return nil // it is gone
	}
	return p.wait("go")
}

// relieve says that we are ready, and returns when its place is ours.
func (p *predecessor) relieve() error {
	defer p.talk.Close()
	if err := p.talk.say("ready"); err != nil {
		return nil
	}
	return p.wait("yours")
}

func (p *predecessor) wait(line string) error {
	err := p.talk.hear(context.Background(), line, time.Time{})
	if number := syscall.Errno(0); errors.Is(err, io.EOF) || errors.As(err, &number) {
		return nil // it is gone
	}
	return err
}
