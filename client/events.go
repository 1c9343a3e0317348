package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"l3af"
)

// Events calls f with what happened lately and then with what happens, until
// ctx ends, f returns an error, or the daemon stops. It returns the error of
// f, that of ctx, or [io.ErrUnexpectedEOF] when the daemon stopped.
func (c *Client) Events(ctx context.Context, f func(l3af.Event) error) error {
	resp, done, err := c.do(ctx, http.MethodGet, "/v1/events", nil, -1)
	if err != nil {
		return err
	}
	defer done()
	lines := bufio.NewReader(resp.Body)
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
			continue // the kind, which is in the data too, a comment, the end of an event
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
