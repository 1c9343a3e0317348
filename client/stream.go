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
	"sync"

	"l3af"
)

// onTheWay is how many packets are sent ahead of what is told of them.
const onTheWay = 256

// streamChain sends packets and takes what is told of them at the same time,
// in lines of JSON.
func (c *Client) streamChain(ctx context.Context, h l3af.Hook, req *l3af.RunRequest) (*l3af.ChainRun, error) {
	head, err := json.Marshal(struct {
		State    *l3af.State `json:"state,omitempty"`
		LiveMaps bool        `json:"live_maps,omitempty"`
	}{req.State, req.LiveMaps})
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, lines := io.Pipe()
	defer body.Close()
	// The daemon answers once it has loaded the chain: a refusal comes before
	// any packet is sent.
	go func() { _, _ = lines.Write(append(head, '\n')) }()
	resp, done, err := c.send(ctx, http.MethodPost, chainPath(h)+"/run", body, http.Header{"Content-Type": {"application/x-ndjson"}})
	if err != nil {
		return nil, err
	}
	defer done()
	places := make(chan struct{}, onTheWay)
	var sender sync.WaitGroup
	var sent error
	sender.Go(func() {
		sent = sendPackets(ctx, lines, req.Stream, places)
		lines.CloseWithError(sent) // nil is the end
		if sent != nil {
			cancel()
		}
	})
	ran, err := readRun(resp.Body, func(p l3af.PacketRun) error {
		select {
		case <-places:
		default:
			return errors.New("l3afd told of a packet that was not sent")
		}
		return req.Each(p)
	})
	cancel()
	body.Close()
	sender.Wait()
	// What ended the stream here is why the answer ended.
	if sent != nil && err != nil && !errors.Is(sent, context.Canceled) && !errors.Is(sent, io.ErrClosedPipe) {
		return nil, sent
	}
	return ran, err
}

// sendPackets writes a line for each packet, as long as there are places.
func sendPackets(ctx context.Context, w io.Writer, packets func(func([]byte, error) bool), places chan struct{}) error {
	out := bufio.NewWriterSize(w, 64<<10)
	var failed error
	packets(func(p []byte, err error) bool {
		var line []byte
		if err == nil {
			line, err = json.Marshal(p)
		}
		if err != nil {
			failed = err
			return false
		}
		select {
		case places <- struct{}{}:
		default:
			if failed = out.Flush(); failed != nil {
				return false
			}
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				failed = ctx.Err()
				return false
			}
		}
		if p == nil {
			line = []byte(`""`)
		}
		_, failed = out.Write(append(line, '\n'))
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return out.Flush()
}

// readRun takes the lines of the answer.
func readRun(r io.Reader, each func(l3af.PacketRun) error) (*l3af.ChainRun, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, &Error{Detail: "l3afd ended the run: " + err.Error(), Hint: "its log says why", Err: err}
		}
		var a struct {
			Packet  *l3af.PacketRun
			Chain   *l3af.ChainRun
			Problem json.RawMessage
		}
		if err := json.Unmarshal(line, &a); err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		switch {
		case a.Chain != nil:
			return a.Chain, nil
		case a.Problem != nil:
			return nil, refused(&http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(a.Problem))})
		case a.Packet != nil:
			if err := each(*a.Packet); err != nil {
				return nil, err
			}
		}
	}
}
