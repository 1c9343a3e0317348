package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"l3af"
)

// Packets for a chain may be streamed, however many there are: as lines of
// JSON, the first of which is a RunRequest without packets and the others a packet
// in base64 each. The answer begins when the chain is loaded. It has a line for
// each packet, as a RunAnswer, and at last one with the chain, or with what went
// wrong.
const streamType = "application/x-ndjson"

// maxLine bounds a packet's line: 256 KiB in base64.
const maxLine = 512 << 10

// RunAnswer is one line of a streamed answer: one of its parts is there.
type RunAnswer struct {
	Packet  *l3af.PacketRun `json:"packet,omitempty"`  // what became of the next packet
	Chain   *l3af.ChainRun  `json:"chain,omitempty"`   // the last line
	Problem *Problem        `json:"problem,omitempty"` // the last line, where something went wrong
}

func streamed(r *http.Request) bool {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && t == streamType
}

func (s *Server) streamChain(w http.ResponseWriter, r *http.Request, h l3af.Hook) error {
	t := &stream{w: w, ctl: http.NewResponseController(w), out: bufio.NewWriterSize(w, 64<<10)}
	t.in = bufio.NewReaderSize(reading{t, r.Body}, maxLine)
	_ = t.ctl.EnableFullDuplex() // recorders of tests have none
	defer func() { _ = t.ctl.SetReadDeadline(time.Time{}) }()
	head, err := t.head()
	if err != nil {
		return err
	}
	req, err := parseRun(head)
	if err != nil {
		return err
	}
	if req.Packets != nil {
		return badRun("the packets come in lines of their own")
	}
	req.Stream, req.Each = t.packets, func(p l3af.PacketRun) error { return t.answer(RunAnswer{Packet: &p}) }
	ran, err := s.node.RunChain(r.Context(), h, req)
	if err != nil && !t.begun {
		return err
	}
	t.begin()
	last := RunAnswer{Chain: ran}
	if err != nil {
		last = RunAnswer{Problem: problemOf(err)}
	}
	if err := errors.Join(t.answer(last), t.flush()); err != nil {
		s.log.Debug("client went away", "error", err)
	}
	return nil
}

// stream is lines of JSON in both directions.
type stream struct {
	w     http.ResponseWriter
	ctl   *http.ResponseController
	in    *bufio.Reader
	out   *bufio.Writer
	begun bool // the answer has
}

// reading is the client's lines. Before it waits for more, the client gets the
// answers there are.
type reading struct {
	*stream
	body io.Reader
}

func (r reading) Read(b []byte) (int, error) {
	if r.begun {
		if err := r.flush(); err != nil {
			return 0, err
		}
	}
	_ = r.ctl.SetReadDeadline(time.Now().Add(bodyTimeout)) // recorders of tests have none
	return r.body.Read(b)
}

// head reads the first line, which may hold a document.
func (t *stream) head() ([]byte, error) {
	var head []byte
	for {
		part, err := t.in.ReadSlice('\n')
		if head = append(head, part...); len(head) > maxBody {
			return nil, &Problem{Status: http.StatusRequestEntityTooLarge, Code: CodeTooLarge, Detail: "the document is over 16 MiB"}
		}
		switch {
		case err == nil, errors.Is(err, io.EOF):
			return head, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, badRun("read body: " + err.Error())
		}
	}
}

// packets gives the packets of the lines behind the head, once the answer has
// begun.
func (t *stream) packets(yield func([]byte, error) bool) {
	t.begin()
	for number := 1; ; number++ {
		line, err := t.in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(line)) == 0:
			return
		case errors.Is(err, bufio.ErrBufferFull):
			err = fmt.Errorf("it is over %d KiB", maxLine>>10)
		case errors.Is(err, io.EOF):
			err = nil
		}
		var packet []byte
		if err == nil {
			err = json.Unmarshal(line, &packet)
		}
		if err != nil {
			yield(nil, badRun(fmt.Sprintf("read packet %d: %v", number, err)))
			return
		}
		if !yield(packet, nil) {
			return
		}
	}
}

func (t *stream) begin() {
	if t.begun {
		return
	}
	t.begun = true
	t.w.Header().Set("Content-Type", streamType)
	t.w.WriteHeader(http.StatusOK)
}

func (t *stream) answer(a RunAnswer) error {
	enc := json.NewEncoder(t.out)
	enc.SetEscapeHTML(false)
	if t.out.Available() < 4<<10 {
		deadline(t.w, writeTimeout)
	}
	return enc.Encode(a)
}

func (t *stream) flush() error {
	deadline(t.w, writeTimeout)
	if err := t.out.Flush(); err != nil {
		return err
	}
	return t.ctl.Flush()
}
