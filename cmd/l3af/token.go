package main

import (
	"fmt"
	"io"
	"strings"

	"l3af/internal/inspect"
)

func tokenObject() object {
	return object{
		name:  "token",
		short: "See which bpffs let others than root use BPF",
		verbs: []verb{{
			name: "show", aliases: []string{"list"},
			short: "Show what each bpffs was mounted to allow those who make a token of it",
			run:   (*call).tokenShow,
		}},
	}
}

func (c *call) tokenShow() error {
	if err := c.end(); err != nil {
		return err
	}
	list, err := inspect.Tokens()
	if err != nil {
		return err
	}
	return answerList(c, list, false, func(w io.Writer) error {
		var b strings.Builder
		for i := range list {
			printToken(&b, &list[i])
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}

func printToken(w io.Writer, t *inspect.Token) {
	fmt.Fprintf(w, "token_info  %s\n", word(t.Info))
	for _, allowed := range []struct {
		what string
		list []string
	}{{"cmds", t.Cmds}, {"maps", t.Maps}, {"progs", t.Progs}, {"attachs", t.Attachs}} {
		fmt.Fprintf(w, "\tallowed_%s:\n", allowed.what)
		if len(allowed.list) > 0 {
			fmt.Fprintf(w, "\t  %s\n", strings.Join(allowed.list, " "))
		}
	}
}
