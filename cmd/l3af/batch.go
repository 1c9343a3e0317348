package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func batchObject() object {
	return object{
		name:  "batch",
		short: "Run the commands of a file",
		long: `Batch runs one command after the other until one fails. A line is a command
without l3af before it; words are separated by blanks, and stand between quotes
where they have some. What follows # is a comment; a line that ends with \ goes on.
With -j every command answers in JSON, all in one document.`,
		verbs: []verb{{
			name: "file", args: "{FILE | -}",
			short:   "Run the commands of a file, or of standard input",
			example: `  echo "map update name config key 0 0 0 0 value 1 0 0 0" | l3af batch file -`,
			run:     (*call).batch,
		}},
	}
}

// batchAnswer is a command and what it said.
type batchAnswer struct {
	Command []string        `json:"command"`
	Output  json.RawMessage `json:"output"`
}

func (c *call) batch() error {
	path, err := c.next("file of commands")
	if err != nil {
		return err
	}
	if err := c.end(); err != nil {
		return err
	}
	in := c.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	answers := []batchAnswer{}
	n, err := eachCommand(in, func(args []string) error {
		a, err := c.one(args)
		if a != nil {
			answers = append(answers, *a)
		}
		return err
	})
	if c.opts.asJSON(c.app) {
		// A command that failed has said so in its answer.
		told := (*errTold)(nil)
		if err != nil && !errors.As(err, &told) {
			return err
		}
		return errors.Join(printJSONAs(c.out, answers, c.opts.pretty || c.output == formatJSON), err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "processed %d commands\n", n)
	return err
}

// one runs one command; its answer is nil where that is printed already.
func (c *call) one(args []string) (*batchAnswer, error) {
	var out bytes.Buffer
	sub := &app{in: strings.NewReader(""), out: c.out, err: c.err, inBatch: true}
	line := args
	if c.opts.asJSON(c.app) {
		sub.out = &out
		line = append(slices.Clone(line), "-j")
		if c.opts.compat {
			line = append(line, "--bpftool-compat")
		}
	}
	all := slices.DeleteFunc(objects(), func(o object) bool { return o.name == "batch" })
	root := newRoot(sub)
	line = bpftoolLine(root, all, line)
	version := len(line) > 0 && line[0] == versionName && slices.ContainsFunc(args, asksVersion)
	if len(line) == 0 || !version && !slices.ContainsFunc(all, func(o object) bool { return o.name == line[0] }) {
		return nil, &usageError{fmt.Sprintf("unknown command %q", args[0]), "a batch has the commands of bpftool: prog, map, link and so on"}
	}
	root.SetArgs(slices.Insert(line, 1, c.daemonFlags()...)) // behind a negative number they would be words
	root.SetIn(sub.in)
	root.SetOut(sub.out)
	root.SetErr(c.err)
	err := root.ExecuteContext(c.ctx)
	if sub.out != &out {
		return nil, err
	}
	text := bytes.TrimSpace(out.Bytes())
	if !json.Valid(text) { // such as a help text
		text, _ = json.Marshal(string(text))
	}
	return &batchAnswer{args, text}, err
}

// eachCommand reads commands and counts those that f did; errors name the line.
func eachCommand(r io.Reader, f func(args []string) error) (int, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	done, at, before := 0, 0, ""
	for lines.Scan() {
		at++
		line := before + lines.Text()
		if before = ""; strings.HasSuffix(line, `\`) {
			before = strings.TrimSuffix(line, `\`)
			continue
		}
		args, err := splitWords(line)
		if err == nil && len(args) == 0 {
			continue
		}
		if err == nil {
			err = f(args)
		}
		if err != nil {
			return done, fmt.Errorf("line %d: %w", at, err)
		}
		done++
	}
	if err := lines.Err(); err != nil {
		return done, fmt.Errorf("line %d: %w", at+1, err)
	}
	if before != "" {
		return done, &usageError{what: fmt.Sprintf("line %d ends with \\, and nothing follows", at)}
	}
	return done, nil
}

// splitWords splits a line into words, of which those between quotes may have
// blanks, up to a comment.
func splitWords(line string) ([]string, error) {
	var list []string
	for line = strings.TrimLeft(line, " \t\r"); line != "" && line[0] != '#'; line = strings.TrimLeft(line, " \t\r") {
		if q := line[0]; q == '"' || q == '\'' {
			end := strings.IndexByte(line[1:], q)
			if end < 0 {
				return nil, &usageError{what: fmt.Sprintf("no %c ends the word that begins with one", q)}
			}
			list, line = append(list, line[1:1+end]), line[2+end:]
			continue
		}
		end := strings.IndexAny(line, " \t\r")
		if end < 0 {
			end = len(line)
		}
		list, line = append(list, line[:end]), line[end:]
	}
	return list, nil
}
