// Package doctor looks for what is wrong on a machine and says what to do. It
// changes nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"l3af"
	"l3af/client"
)

// Level is how bad a finding is.
type Level string

// The levels, from good to bad.
const (
	OK      Level = "ok"
	Note    Level = "note"    // worth knowing
	Warning Level = "warning" // will be trouble, or costs something
	Problem Level = "problem" // something does not work
)

// Finding is what one check found.
type Finding struct {
	Check   string `json:"check"` // kernel, limits, mounts, daemon, state, pins, hooks
	Level   Level  `json:"level"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"` // what to do
}

// Machine is what is examined.
type Machine struct {
	Client *client.Client // of the machine's daemon, which may not run
	Bpffs  string         // where the daemon has its pins
}

// examination collects findings.
type examination struct {
	Machine
	check    string
	findings []Finding

	status *l3af.Status // nil: the daemon does not answer
}

func (e *examination) say(level Level, fix, format string, args ...any) {
	e.findings = append(e.findings, Finding{e.check, level, fmt.Sprintf(format, args...), fix})
}

// Examine makes every check. A check that finds nothing wrong says so.
func Examine(ctx context.Context, m Machine) []Finding {
	e := &examination{Machine: m}
	for _, c := range []struct {
		name string
		look func(*examination, context.Context)
	}{
		{"kernel", (*examination).kernel},
		{"limits", (*examination).limits},
		{"mounts", (*examination).mounts},
		{"daemon", (*examination).daemon},
		{"state", (*examination).state},
		{"pins", (*examination).pins},
		{"hooks", (*examination).hooks},
	} {
		e.check = c.name
		before := len(e.findings)
		c.look(e, ctx)
		if len(e.findings) == before {
			e.say(OK, "", "nothing is wrong")
		}
		if ctx.Err() != nil {
			e.say(Problem, "", "the examination was cut short: %v", ctx.Err())
			break
		}
	}
	return e.findings
}

// Worst is the worst level of findings.
func Worst(findings []Finding) Level {
	levels := []Level{OK, Note, Warning, Problem}
	worst := 0
	for _, f := range findings {
		worst = max(worst, slices.Index(levels, f.Level))
	}
	return levels[worst]
}

// daemon asks l3afd how it is.
func (e *examination) daemon(ctx context.Context) {
	status, err := e.Client.Status(ctx)
	if err != nil {
		if running := entries(filepath.Join(e.Bpffs, "hooks")); len(running) > 0 {
			e.say(Problem, "start l3afd, which looks after them (systemctl start l3afd)", "chains run, and l3afd does not answer: %v", err)
		} else {
			e.say(Note, "start l3afd to run chains (systemctl start l3afd)", "l3afd does not answer: %v", err)
		}
		return
	}
	e.status = status
	e.say(OK, "", "l3afd answers; revision %d is in force", status.Revision)
	for _, trouble := range status.Errors {
		e.say(Problem, "its log says more", "%s", trouble)
	}
	if err := e.Client.Health(ctx); err != nil && len(status.Errors) == 0 {
		e.say(Problem, "its log says more", "l3afd is not well: %v", err)
	}
}

// state compares the machine with its state.
func (e *examination) state(ctx context.Context) {
	if e.status == nil {
		e.say(Note, "", "not looked at: l3afd does not answer")
		return
	}
	for _, c := range e.status.Chains {
		target := l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}.String()
		e.target(target, c.State, c.Error, "the interface is not there yet")
		if c.ModeNote != "" {
			e.say(Warning, "a driver with native XDP is several times as fast", "%s runs in generic mode: %s", target, firstLine(c.ModeNote))
		}
	}
	for _, p := range e.status.Probes {
		e.target("probe/"+p.Name, p.State, p.Error, "")
	}
	if e.status.Revision == 0 {
		return
	}
	rev, err := e.Client.State(ctx)
	if err != nil {
		e.say(Problem, "l3af history lists what there is; l3af apply puts a new one in force", "the state cannot be read: %v", err)
		return
	}
	plan, err := e.Client.Plan(ctx, &rev.State)
	if err != nil {
		fix := ""
		if errors.Is(err, l3af.ErrForbidden) {
			fix = "run l3af doctor as root, or as a member of the group l3af"
		}
		e.say(Note, fix, "drift was not looked for: %v", err)
		return
	}
	for _, s := range plan.Steps {
		e.say(Warning, "l3afd mends it within 30 s; see l3af events", "%s is not as the state says: l3afd would %s", s.Target, s.Verb)
	}
}

func (e *examination) target(name, state, why, waiting string) {
	switch state {
	case l3af.Failed:
		e.say(Problem, "l3af status has the whole story", "%s failed: %s", name, firstLine(why))
	case l3af.Waiting:
		if why == "" {
			why = waiting
		}
		e.say(Note, "", "%s waits: %s", name, firstLine(why))
	}
}

// entries lists a directory; none where it cannot be read.
func entries(dir string) []string {
	list, _ := os.ReadDir(dir)
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return names
}

func firstLine(s string) string {
	for i, r := range s {
		if r == '\n' {
			return s[:i] + " …"
		}
	}
	return s
}
