package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

var progRunVerbs = []verb{{
	name: "run", args: "PROG data_in FILE [data_out FILE [data_size_out L]] [ctx_in FILE [ctx_out FILE [ctx_size_out M]]] [repeat N]",
	short: "Run a program on a packet of yours",
	long: `Run runs a program once, or N times, on the packet in a file and says what it
returned and how long one run took. PROG is ` + progSelection.usage() + `.
Nothing is attached; the program's maps are its own, and change.

  data_in FILE      the packet; - is standard input
  data_out FILE     where the packet goes as it left the program; - prints it
  data_size_out L   at most so many bytes of it (32768)
  ctx_in, ctx_out   the same for the context, as the program's type has it in linux/bpf.h
  ctx_size_out M    at most so many bytes of it (32768)
  repeat N          run it N times`,
	example: `  l3af prog run pinned /sys/fs/bpf/acl data_in packet.bin data_out - repeat 1000000`,
	run:     (*call).progRun,
}}

// defaultOut is the room bpftool has for what a program wrote, in bytes.
const defaultOut = 32 << 10

// runFiles are the files of a run.
type runFiles struct {
	dataIn, dataOut, ctxIn, ctxOut string
	dataSize, ctxSize, repeat      uint64
}

// ran is what became of a run.
type ran struct {
	DataOut *[]int `json:"data_out,omitempty"` // where - was asked for
	CtxOut  *[]int `json:"ctx_out,omitempty"`
	// Retval is what the program returned, Duration ns of one run.
	Retval   uint32 `json:"retval"`
	Duration int64  `json:"duration"`
}

func (c *call) progRun() error {
	p, err := c.selectProgram()
	if err != nil {
		return err
	}
	defer p.Close()
	f, err := c.runFiles()
	if err != nil {
		return err
	}
	opts := bpfsys.RunOptions{Repeat: uint32(f.repeat)}
	if opts.Data, err = c.readFile(f.dataIn); err != nil {
		return err
	}
	if opts.Context, err = c.readFile(f.ctxIn); err != nil {
		return err
	}
	if f.dataIn != "" {
		opts.DataOut = make([]byte, f.dataSize)
	}
	if f.ctxIn != "" {
		opts.ContextOut = make([]byte, f.ctxSize)
	}
	r, err := bpfsys.Run(p, opts)
	const enotsupp = unix.Errno(524) // not in errno.h
	switch {
	case errors.Is(err, unix.ENOSPC):
		err = fmt.Errorf("run program: what it wrote is longer than there is room for: %d bytes of data, %d of context", r.DataSize, r.ContextSize)
		return &hinted{err, "data_size_out and ctx_size_out say how much room there is"}
	case errors.Is(err, enotsupp):
		return fmt.Errorf("run program: the kernel does not run programs of this type: %v", p.Type())
	case errors.Is(err, unix.EINVAL):
		return &hinted{fmt.Errorf("run program: %w", err), "a packet has 14 bytes at least; a context has the size that the program's type says"}
	case err != nil:
		return fmt.Errorf("run program: %w", err)
	}
	out := ran{Retval: r.Return, Duration: r.Duration.Nanoseconds()}
	if out.DataOut, err = c.writeRun(f.dataOut, r.DataOut); err != nil {
		return err
	}
	if out.CtxOut, err = c.writeRun(f.ctxOut, r.ContextOut); err != nil {
		return err
	}
	return c.answer(out, func(w io.Writer) error {
		var b strings.Builder
		if out.DataOut != nil {
			dumpHex(&b, r.DataOut)
		}
		if out.CtxOut != nil {
			dumpHex(&b, r.ContextOut)
		}
		average := ""
		if f.repeat > 1 {
			average = " (average)"
		}
		fmt.Fprintf(&b, "Return value: %d, duration%s: %dns\n", out.Retval, average, r.Duration/time.Nanosecond)
		_, err := io.WriteString(w, b.String())
		return err
	})
}

func (c *call) runFiles() (f runFiles, err error) {
	f = runFiles{dataSize: defaultOut, ctxSize: defaultOut, repeat: 1}
	files := map[string]*string{"data_in": &f.dataIn, "data_out": &f.dataOut, "ctx_in": &f.ctxIn, "ctx_out": &f.ctxOut}
	numbers := map[string]*uint64{"data_size_out": &f.dataSize, "ctx_size_out": &f.ctxSize, "repeat": &f.repeat}
words:
	for len(c.words) > 0 {
		for _, word := range []string{"data_in", "data_out", "data_size_out", "ctx_in", "ctx_out", "ctx_size_out", "repeat"} {
			if !c.take(word) {
				continue
			}
			if to := files[word]; to != nil {
				*to, err = c.next(word)
			} else {
				*numbers[word], err = c.number(word, 31)
			}
			if err != nil {
				return f, err
			}
			continue words
		}
		return f, &usageError{fmt.Sprintf("unknown word %q", c.peek()), "there is data_in, data_out, data_size_out, ctx_in, ctx_out, ctx_size_out and repeat"}
	}
	switch {
	case f.dataIn == "" && f.ctxIn == "":
		return f, &usageError{"no data_in", "data_in FILE says on what to run the program"}
	case f.dataIn == "-" && f.ctxIn == "-":
		return f, &usageError{what: "standard input can be data_in or ctx_in, not both"}
	case f.dataIn == "" && f.dataOut != "", f.ctxIn == "" && f.ctxOut != "":
		return f, &usageError{what: "what goes out must have come in: data_out takes data_in, ctx_out takes ctx_in"}
	}
	return f, nil
}

func (c *call) readFile(name string) ([]byte, error) {
	switch name {
	case "":
		return nil, nil
	case "-":
		return io.ReadAll(c.in)
	}
	return os.ReadFile(name)
}

// writeRun writes what came out to a file, or gives it to be printed.
func (c *call) writeRun(name string, b []byte) (*[]int, error) {
	switch name {
	case "":
		return nil, nil
	case "-":
		list := make([]int, len(b))
		for i := range b {
			list[i] = int(b[i])
		}
		return &list, nil
	}
	return nil, os.WriteFile(name, b, 0o644)
}

// dumpHex prints bytes as bpftool does: 16 a line, with their offset and as text.
func dumpHex(w io.Writer, b []byte) {
	for at := 0; at < len(b); at += 16 {
		row := b[at:min(at+16, len(b))]
		fmt.Fprintf(w, "%07x\t", at)
		for i := range 16 {
			if i < len(row) {
				fmt.Fprintf(w, "%02x", row[i])
			} else {
				fmt.Fprint(w, "  ")
			}
			if i%2 == 1 {
				fmt.Fprint(w, " ")
			}
		}
		fmt.Fprint(w, "| ")
		for i, c := range row {
			if i == 8 {
				fmt.Fprint(w, " ")
			}
			if c < 0x20 || c > 0x7e {
				c = '.'
			}
			fmt.Fprintf(w, "%c", c)
		}
		fmt.Fprintln(w)
	}
}
