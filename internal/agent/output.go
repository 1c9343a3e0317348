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
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What an agent prints is logged line by line, within these bounds.
const (
	maxLine   = 1000 // bytes; the rest of a line is left out
	burst     = 200  // lines at once
	perSecond = 20   // lines after that; more are counted
	tailLines = 5    // are kept for errors
)

// stdout and stderr of a command that may outlive the daemon are named pipes,
// which the command holds open for reading as well: it gets no SIGPIPE when
// the daemon is gone, and the next daemon opens them again. The kernel keeps
// what is printed in between, up to this; then the command waits to be heard.
const pipeSize = 1 << 20

// output reads what a command prints.
type output [2]*stream

type stream struct {
	*lines
	pipe  *os.File
	drain chan chan struct{}
	done  chan struct{}
}

var streams = [2]string{"stdout", "stderr"}

// makeOutput makes the pipes of a command in a directory. The files returned
// are for the command.
func makeOutput(dir string, log *slog.Logger) (o *output, ends [2]*os.File, err error) {
	for i, name := range streams {
		path := filepath.Join(dir, name)
		if err = os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			break
		}
		if err = unix.Mkfifo(path, 0o600); err != nil {
			break
		}
		// Not the runtime's: the command shall not get it non-blocking.
		var fd int
		if fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			break
		}
		ends[i] = os.NewFile(uintptr(fd), path)
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize)
	}
	if err == nil {
		o, err = openOutput(dir, log)
	}
	if err != nil {
		closeAll(ends)
		return nil, ends, fmt.Errorf("make pipes for its output: %w", err)
	}
	return o, ends, nil
}

func closeAll(files [2]*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// openOutput opens the pipes of a command that runs.
func openOutput(dir string, log *slog.Logger) (*output, error) {
	var pipes [2]*os.File
	for i, name := range streams {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			closeAll(pipes)
			return nil, err
		}
		pipes[i] = f
	}
	o := &output{}
	for i, name := range streams {
		o[i] = &stream{newLines(log.With("stream", name)), pipes[i], make(chan chan struct{}), make(chan struct{})}
		go o[i].read()
	}
	return o, nil
}

// read passes on a stream until nobody can write to it, or it is closed.
func (s *stream) read() {
	defer close(s.done)
	defer s.end()
	for buf := make([]byte, 4096); ; {
		n, err := s.pipe.Read(buf)
		s.write(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// Somebody waits for what is there now.
			err = s.rest(buf)
			_ = s.pipe.SetReadDeadline(time.Time{})
			close(<-s.drain)
		}
		if err != nil {
			return
		}
	}
}

// settle returns when all that was printed before is logged.
func (o *output) settle() {
	if o == nil {
		return
	}
	for _, s := range o {
		told := make(chan struct{})
		if s.pipe.SetReadDeadline(time.Now()) != nil {
			continue // it is closed
		}
		select {
		case s.drain <- told:
			<-told
		case <-s.done:
		}
	}
}

// tail is the last that was printed, of stderr if there was anything.
func (o *output) tail() string {
	if o == nil {
		return ""
	}
	if s := o[1].tail(); s != "" {
		return s
	}
	return o[0].tail()
}

// Close stops reading: what is printed later is for the next reader.
func (o *output) Close() {
	if o == nil {
		return
	}
	for _, s := range o {
		s.pipe.Close()
		<-s.done
	}
}

// rest reads what is in the pipe without waiting for more.
func (s *stream) rest(buf []byte) error {
	conn, err := s.pipe.SyscallConn()
	for err == nil {
		n, readErr := 0, error(nil)
		err = conn.Control(func(fd uintptr) { n, readErr = unix.Read(int(fd), buf) })
		switch {
		case n > 0:
			s.write(buf[:n])
		case errors.Is(readErr, unix.EINTR):
		case errors.Is(readErr, unix.EAGAIN):
			return nil
		case err == nil:
			err = io.EOF
		}
	}
	return err
}

// lines splits what is written to it, and logs it within bounds.
type lines struct {
	log   *slog.Logger
	level slog.Level

	mu      sync.Mutex
	part    []byte // of a line that has not ended
	cut     bool   // of which no more is taken
	last    []string
	allowed float64 // lines that may be logged now
	at      time.Time
	dropped int
}

func newLines(log *slog.Logger) *lines { return &lines{log: log, allowed: burst, at: time.Now()} }

func (l *lines) write(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(b) > 0 {
		text, rest, ended := bytes.Cut(b, []byte{'\n'})
		if room := maxLine - len(l.part); len(text) > room {
			text, l.cut = text[:max(room, 0)], true
		}
		l.part, b = append(l.part, text...), rest
		if ended {
			l.line()
		}
	}
}

// end takes what is there as the last line.
func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.line()
	}
	l.report()
}

func (l *lines) line() {
	text := strings.ToValidUTF8(strings.TrimRight(string(l.part), "\r"), "�")
	if l.cut {
		text += "…"
	}
	l.part, l.cut = l.part[:0], false
	if strings.TrimSpace(text) == "" {
		return
	}
	if len(l.last) == tailLines {
		l.last = l.last[1:]
	}
	l.last = append(l.last, text)
	now := time.Now()
	l.allowed = min(burst, l.allowed+perSecond*now.Sub(l.at).Seconds())
	if l.at = now; l.allowed < 1 {
		l.dropped++
		return
	}
	l.report()
	l.allowed--
	l.log.Log(context.Background(), l.level, text)
}

func (l *lines) report() {
	if l.dropped > 0 {
		l.log.Warn("lines are left out: it prints too many", "lines", l.dropped)
		l.dropped = 0
	}
}

func (l *lines) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last, "; ")
}
