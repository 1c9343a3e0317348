package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/client"
)

func (a *app) client() *client.Client {
	return &client.Client{Socket: a.socket, Server: a.remote.server, TLS: a.tls}
}

// hinted is an error and what to do about it.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// complain prints an error for people: every mistake of a document on a line
// of its own, hints below what they are about.
func (a *app) complain(err error) {
	line := func(what, hint string) {
		fmt.Fprintf(a.err, "l3af: %s\n", strings.TrimSpace(what))
		if hint != "" {
			fmt.Fprintf(a.err, "hint: %s\n", hint)
		}
	}
	var invalid *l3af.InvalidError
	var partly *errNotAll
	switch {
	case errors.As(err, &invalid):
		// What stands before the mistakes says where they are.
		where, ok := strings.CutSuffix(err.Error(), invalid.Error())
		if !ok {
			where = ""
		}
		for _, m := range invalid.Mistakes {
			hint := m.Hint
			m.Hint = ""
			line(where+m.String(), hint)
		}
	case errors.As(err, &partly):
		for _, s := range partly.failed {
			line(trouble(s.Target, s.Error), "")
		}
		hint := "all else runs as wanted; l3af status shows what does not"
		if partly.plan {
			hint = "nothing was changed; apply would leave these as they are, and change the others"
		}
		fmt.Fprintln(a.err, "hint: "+hint)
	case errors.Is(err, context.Canceled):
		line("interrupted", "")
	default:
		line(err.Error(), a.hint(err))
	}
}

func (a *app) hint(err error) string {
	var h *hinted
	var conflict *l3af.ConflictError
	var refused *client.Error
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.As(err, &conflict) && !conflict.Busy:
		return "somebody else changed the state: look with l3af diff, then apply again"
	case errors.As(err, &refused):
		return refused.Hint
	case errors.As(err, &verifier): // EACCES is what it answers, too
		return ""
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return "run it as root"
	}
	return ""
}
