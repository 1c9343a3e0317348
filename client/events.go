package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"syscall"
	"time"

	"l3af"
)

// Events calls f with what happened lately and then with what happens, until
// ctx ends, f returns an error, or the daemon stops. It returns the error of
// f, that of ctx, or [io.ErrUnexpectedEOF] when the daemon stopped.
func (c *Client) Events(ctx context.Context, f func(l3af.Event) error) error {
	events, done, err := c.events(ctx, "")
	if err != nil {
		return err
	}
	defer done()
	return each(ctx, events, f)
}

// Follow is Events for longer than one daemon: when it stops, or another takes
// over, Follow goes on with the next one, and f is called for what happened
// meanwhile, once for each event. Where there is no daemon for as long as wait,
// it returns the error of Events; also when there is none to begin with.
func (c *Client) Follow(ctx context.Context, wait time.Duration, f func(l3af.Event) error) error {
	var last string
	var went time.Time // the last daemon; zero: there was none yet
	for {
		var failed error
		events, done, err := c.events(ctx, last)
		if err == nil {
			err = each(ctx, events, func(e l3af.Event) error {
				if failed = f(e); failed == nil {
					last = e.ID
				}
				return failed
			})
			done()
			went = time.Now()
		}
		if failed != nil || !Gone(err) || went.IsZero() || time.Since(went) >= wait {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// again is how long a client waits before it looks for the next daemon.
const again = 100 * time.Millisecond

// Gone reports whether an error of a call is that there was no daemon, or that
// it stopped before it had answered: another one may come.
func Gone(err error) bool {
	for _, is := range []error{io.EOF, io.ErrUnexpectedEOF, fs.ErrNotExist, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// events asks for events, behind one of them if after is its ID.
func (c *Client) events(ctx context.Context, after string) (io.Reader, func(), error) {
	header := http.Header{}
	if after != "" {
		header.Set("Last-Event-ID", after)
	}
	resp, done, err := c.send(ctx, http.MethodGet, "/v1/events", http.NoBody, header)
	if err != nil {
		return nil, nil, err
	}
	return resp.Body, done, nil
}

// each calls f with each event of a stream.
func each(ctx context.Context, events io.Reader, f func(l3af.Event) error) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return &Error{Detail: "l3afd ended the events: " + err.Error(), Hint: "it stopped; ask again when it runs", Err: err}
		}
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok {
			continue // the kind and the id, which are in the data too, a comment, the end of an event
		}
		var e l3af.Event
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("read event: %w", err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
}
