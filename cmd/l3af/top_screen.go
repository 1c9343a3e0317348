package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"l3af/internal/top"
)

// screen shows a view on a terminal, which is given back as it was.
type screen struct {
	out      io.Writer
	keyboard int
	was      *term.State
	stop     func()
	resized  chan os.Signal

	mu     sync.Mutex
	view   *top.View
	closed bool
}

// What a terminal does (ECMA-48, and xterm's second screen).
const (
	secondScreen = "\x1b[?1049h\x1b[?25l" // without a cursor
	firstScreen  = "\x1b[?25h\x1b[?1049l"
	homeCursor   = "\x1b[H"
	clearLine    = "\x1b[K"
	clearBelow   = "\x1b[J"
)

// newScreen takes the terminal over. stop is called when a key says to end.
func newScreen(out io.Writer, keyboard *os.File, view *top.View, stop func()) (*screen, error) {
	s := &screen{out: out, keyboard: int(keyboard.Fd()), stop: stop, view: view, resized: make(chan os.Signal, 1)}
	var err error
	if s.was, err = term.MakeRaw(s.keyboard); err != nil {
		return nil, err
	}
	fmt.Fprint(out, secondScreen)
	signal.Notify(s.resized, unix.SIGWINCH)
	go func() {
		for range s.resized {
			s.mu.Lock()
			_ = s.draw()
			s.mu.Unlock()
		}
	}()
	go s.read(keyboard)
	return s, nil
}

func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	signal.Stop(s.resized)
	close(s.resized)
	fmt.Fprint(s.out, firstScreen)
	_ = term.Restore(s.keyboard, s.was)
}

func (s *screen) show(l *top.Look) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.Add(l)
	return s.draw()
}

func (s *screen) end() error { return nil }

// draw paints over what is there, in one write: nothing flickers.
func (s *screen) draw() error {
	if s.closed {
		return nil
	}
	width, height, err := term.GetSize(s.keyboard)
	if err != nil {
		return err
	}
	frame := s.view.Frame(width, height)
	_, err = io.WriteString(s.out, homeCursor+strings.Join(frame, clearLine+"\r\n")+clearLine+clearBelow)
	return err
}

// read presses the keys that come, until the keyboard is gone.
func (s *screen) read(keyboard io.Reader) {
	b := make([]byte, 64)
	for {
		n, err := keyboard.Read(b)
		if err != nil {
			s.stop()
			return
		}
		s.mu.Lock()
		for _, key := range pressed(b[:n]) {
			if s.view.Press(key) {
				s.stop()
			}
		}
		_ = s.draw()
		s.mu.Unlock()
	}
}

// sequences are what keys without a letter send (ECMA-48, and VT220's).
var sequences = []struct{ sent, key string }{
	{"\x1b[A", top.KeyUp}, {"\x1bOA", top.KeyUp}, {"\x1b[B", top.KeyDown}, {"\x1bOB", top.KeyDown},
	{"\x1b[5~", top.KeyPageUp}, {"\x1b[6~", top.KeyPageDown},
	{"\r", top.KeyEnter}, {"\n", top.KeyEnter}, {"\x7f", top.KeyBackspace}, {"\b", top.KeyBackspace}, {"\x03", top.KeyInterrupt},
}

// pressed are the keys that sent b. Others than those we know
// are left out; a lone escape is the key.
func pressed(b []byte) []string {
	var list []string
next:
	for len(b) > 0 {
		for _, s := range sequences {
			if rest, ok := strings.CutPrefix(string(b), s.sent); ok {
				list, b = append(list, s.key), []byte(rest)
				continue next
			}
		}
		r, n := utf8.DecodeRune(b)
		switch {
		case r == '\x1b' && len(b) > 1 && (b[1] == '[' || b[1] == 'O'):
			// A key that means nothing here: to the letter or ~ that ends it.
			for n = 2; n < len(b) && (b[n] < '@' || b[n] > '~'); n++ {
			}
			n = min(n+1, len(b))
		case r == '\x1b':
			list = append(list, top.KeyEscape)
		case r >= ' ' && r != utf8.RuneError:
			list = append(list, string(r))
		}
		b = b[n:]
	}
	return list
}
