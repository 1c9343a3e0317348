package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/trace"
)

var progTraceVerbs = []verb{{
	name: "tracelog", args: "[{stdout|stderr} PROG]",
	short: "Print what programs say",
	long: `Tracelog prints what programs of the whole machine print with bpf_printk, until it
is interrupted; what it has read nobody else reads. Where tracefs is not mounted
it is for this command alone.

With stdout or stderr it prints what one program wrote to its streams so far
(Linux 6.17): stderr is where the kernel says what a program does wrong. PROG is
` + progSelection.usage() + `.

In JSON each line is a string.`,
	example: `  l3af prog tracelog
  l3af prog tracelog stderr name acl`,
	run: (*call).progTracelog,
}}

func (c *call) progTracelog() error {
	var stream bpfsys.Stream
	switch {
	case c.take("stdout"):
		stream = bpfsys.Stdout
	case c.take("stderr"):
		stream = bpfsys.Stderr
	case len(c.words) > 0:
		return &usageError{fmt.Sprintf("unknown word %q", c.peek()), "there is stdout and stderr"}
	}
	var from io.ReadCloser
	if stream == 0 {
		pipe, err := trace.Pipe()
		if err != nil {
			return fmt.Errorf("read what programs print: %w", err)
		}
		defer context.AfterFunc(c.ctx, func() { pipe.Close() })()
		from = pipe
	} else {
		p, err := c.selectProgram()
		if err != nil {
			return err
		}
		defer p.Close()
		if err := c.end(); err != nil {
			return err
		}
		from = &streamReader{program: p, stream: stream}
	}
	defer from.Close()
	err := c.printLines(from)
	if errors.Is(err, os.ErrClosed) && c.ctx.Err() != nil {
		err = nil
	}
	return err
}

// printLines prints lines as they come; as JSON, one array of them at the end of
// which the reader ended.
func (c *call) printLines(from io.Reader) error {
	lines := bufio.NewReader(from)
	asJSON := c.opts.asJSON(c.app)
	separator := "["
	var err error
	for err == nil {
		var line string
		if line, err = lines.ReadString('\n'); line == "" {
			continue
		}
		if !asJSON {
			if _, err := io.WriteString(printable{c.out}, line); err != nil {
				return err
			}
			continue
		}
		text, err := json.Marshal(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c.out, "%s%s", separator, text); err != nil {
			return err
		}
		separator = ",\n"
	}
	if asJSON {
		if separator == "[" {
			fmt.Fprint(c.out, "[")
		}
		fmt.Fprintln(c.out, "]")
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// streamReader reads what a program has written to a stream.
type streamReader struct {
	program bpfsys.Handle
	stream  bpfsys.Stream
}

func (r *streamReader) Read(b []byte) (int, error) {
	n, err := bpfsys.ReadStream(r.program, r.stream, b)
	switch {
	case errors.Is(err, unix.EINVAL):
		return 0, errors.New("read stream: this kernel has none (before Linux 6.17)")
	case err != nil:
		return 0, fmt.Errorf("read stream: %w", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (r *streamReader) Close() error { return nil }
