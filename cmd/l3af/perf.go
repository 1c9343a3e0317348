package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"l3af/internal/inspect"
)

func perfObject() object {
	return object{
		name:  "perf",
		short: "Show the programs behind perf events and raw tracepoints of processes",
		verbs: []verb{{
			name: "show", aliases: []string{"list"}, run: perfShow,
			short: "Show which processes hold which events open, and the programs bound to them",
			long: `Show looks at the descriptors of every process. Events that are bound by a link
which is pinned and held by no process are in l3af link show.`,
			example: "  l3af perf show",
		}},
	}
}

func perfShow(c *call) error {
	if err := c.end(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("show perf events: needs root: the kernel tells nobody else")
	}
	list, err := inspect.PerfEvents()
	if err != nil {
		return fmt.Errorf("show perf events: %w", err)
	}
	return answerList(c, list, false, func(w io.Writer) error {
		for _, e := range list {
			words := []string{fmt.Sprintf("pid %d", e.PID), "", fmt.Sprintf("fd %d: prog_id %d", e.FD, e.ProgID), "", e.FDType, ""}
			add := func(f string, v any) { words = append(words, fmt.Sprintf(f, v), "") }
			if e.Tracepoint != nil {
				add("%s", *e.Tracepoint)
			}
			if e.Func != nil {
				add("func %s", *e.Func)
			}
			if e.Addr != nil {
				add("addr %d", *e.Addr)
			}
			if e.Filename != nil {
				add("filename %s", word(*e.Filename))
			}
			if e.Offset != nil {
				add("offset %d", *e.Offset)
			}
			if _, err := fmt.Fprintln(w, strings.TrimRight(strings.Join(words, " "), " ")); err != nil {
				return err
			}
		}
		return nil
	})
}
