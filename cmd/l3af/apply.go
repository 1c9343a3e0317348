package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"l3af"
	"l3af/client"
)

// errNotAll is returned after an apply of which something failed, or would.
type errNotAll struct {
	failed []l3af.Step
	plan   bool
}

func (e *errNotAll) Error() string {
	lines := make([]string, len(e.failed))
	for i, s := range e.failed {
		lines[i] = trouble(s.Target, s.Error)
	}
	return strings.Join(lines, "\n")
}

func newApply(a *app) *cobra.Command {
	var file string
	var dry bool
	var only int
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the node run what a document says, and nothing else",
		Long: `Apply makes the node run what a document says, and nothing else. It prints what
changed; a second apply of the same document changes nothing. When some hooks
cannot run as wanted, the others do all the same, and the exit code is 1.`,
		Example: `  l3af apply -f state.yaml
  l3af apply -f state.yaml --dry-run
  l3af get | sed s/1000/2000/ | l3af apply -f -`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if only < -1 {
				return &usageError{"--if-revision must be 0 or more", "0 means: only when nothing was ever applied"}
			}
			s, err := a.document(cmd.Context(), file)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if dry {
				plan, err := a.client().Plan(ctx, s)
				if err != nil {
					return err
				}
				return a.showApplied(ctx, plan, true)
			}
			if only == -1 {
				// What we replace is what is there now: of two at once, one
				// is told to look again.
				if only, err = a.revision(ctx); err != nil {
					return err
				}
			}
			applied, err := a.client().Apply(ctx, s, only)
			if err != nil {
				return err
			}
			return a.showApplied(ctx, applied, false)
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "the document, YAML or JSON; - reads standard input")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "check everything and print the plan, change nothing")
	cmd.Flags().IntVar(&only, "if-revision", -1, "only if this is the revision in force")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return cmd
}

// revision is the number of the latest revision, 0 before the first apply.
func (a *app) revision(ctx context.Context) (int, error) {
	r, err := a.client().State(ctx)
	if err == nil {
		return r.Number, nil
	}
	refused := (*client.Error)(nil)
	if !errors.Is(err, l3af.ErrNotFound) && !(errors.As(err, &refused) && refused.Code == "unhealthy") {
		return 0, err
	}
	// None was applied, or the latest is damaged.
	st, err := a.client().Status(ctx)
	if err != nil {
		return 0, err
	}
	return st.Revision, nil
}

// showApplied prints what an apply did, or would do, and fails when not all of
// it worked.
func (a *app) showApplied(ctx context.Context, ap *l3af.Applied, plan bool) error {
	err := a.show(ap, func(bool) error {
		switch {
		case !ap.Changed && len(ap.Steps)+len(ap.Agents) == 0:
			fmt.Fprintf(a.out, "revision %d: nothing to change\n", ap.Revision)
		case !ap.Changed && plan:
			fmt.Fprintf(a.out, "revision %d: the same state, would be repaired\n", ap.Revision)
		case !ap.Changed:
			fmt.Fprintf(a.out, "revision %d: the same state, repaired\n", ap.Revision)
		case plan && ap.Revision == 0:
			fmt.Fprintln(a.out, "would become the first revision")
		case plan:
			fmt.Fprintf(a.out, "would replace revision %d\n", ap.Revision)
		default:
			fmt.Fprintf(a.out, "now revision %d\n", ap.Revision)
		}
		t := &table{}
		for _, s := range ap.Steps {
			what := s.To
			if s.From != "" && s.To != "" && s.From != s.To {
				what = s.From + " -> " + s.To
			} else if s.To == "" {
				what = s.From
			}
			if s.Error != "" {
				what = "failed"
			}
			tried := slices.IndexFunc(ap.Tried, func(t l3af.Tried) bool { return t.Target == s.Target })
			if tried >= 0 {
				if s.Error == "" {
					what += "  the kernel takes it"
				} else {
					what = "the kernel refuses it"
				}
			}
			t.add("", s.Verb, s.Target, what)
			if tried < 0 {
				continue
			}
			for i, p := range ap.Tried[tried].Programs {
				program := p.Package
				if p.Linkage != "" {
					program += ", " + p.Linkage
				}
				t.add("", "", fmt.Sprintf("  %d %s", i+1, p.Name), program)
			}
		}
		for _, s := range ap.Agents {
			t.add("", s.Verb, s.Target, "agent of "+s.Program)
		}
		if !plan {
			a.addWaiting(ctx, t)
		}
		return t.print(a.out)
	})
	if err != nil || len(ap.Failed) == 0 {
		return err
	}
	return &errNotAll{ap.Failed, plan}
}

// addWaiting names the chains that wait for their interface: that is no
// mistake, but it may be a misspelled name. A daemon that has ended since it
// applied the state cannot say.
func (a *app) addWaiting(ctx context.Context, t *table) {
	st, err := a.client().Status(ctx)
	if err != nil {
		return
	}
	for _, c := range st.Chains {
		if c.State == l3af.Waiting {
			t.add("", "waiting", hookName(c), cmp.Or(c.Error, "no such interface yet"))
		}
	}
}

// trouble is what is wrong with a hook or probe; most errors name it already.
func trouble(target, err string) string {
	if strings.Contains(err, target) {
		return err
	}
	return target + ": " + err
}

func hookName(c l3af.ChainStatus) string {
	return l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}.String()
}
