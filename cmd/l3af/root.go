package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"l3af/client"
	"l3af/internal/near"
	"l3af/internal/version"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1 // or, of diff, there are differences
	exitUsage  = 2
)

// app is what the commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	socket   string
	remote   remote
	tls      *tls.Config // for remote
	output   string      // table, wide, json, yaml; "" as the command likes
	inBatch  bool        // others run in this process
}

// usageError is a mistake in how the command was called.
type usageError struct {
	what string
	hint string
}

func (e *usageError) Error() string { return e.what }

// failure is what went wrong while doing as told.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }

// errDifferent makes diff exit with 1 and say no more.
var errDifferent = errors.New("different")

// run is the whole command line; it returns the exit code.
func run(args []string, in io.Reader, out, errw io.Writer) int {
	// The first signal ends what is under way in good order; commands that
	// only wait, like events, are done then.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	printed := &output{Writer: out}
	a := &app{in: in, out: printed, err: errw}
	root := newRoot(a)
	root.SetArgs(bpftoolLine(root, objects(), args))
	root.SetIn(in)
	root.SetOut(printed)
	root.SetErr(errw)
	cmd, err := root.ExecuteContextC(ctx)
	f, u, told := (*failure)(nil), (*usageError)(nil), (*errTold)(nil)
	switch {
	case printed.err != nil:
		a.complain(printed.err)
		return exitFailed
	case err == nil:
		return exitDone
	case errors.As(err, &told):
		if errors.As(err, &u) {
			return exitUsage
		}
		return exitFailed
	case errors.Is(err, errDifferent):
		return exitFailed
	case errors.As(err, &f):
		a.complain(f.error)
		return exitFailed
	}
	if asksJSON(args) && printJSONAs(printed, map[string]string{"error": err.Error()}, false) == nil {
		return exitUsage
	}
	hint := fmt.Sprintf("see %s --help", cmd.CommandPath())
	if errors.As(err, &u) && u.hint != "" {
		hint = u.hint
	}
	fmt.Fprintf(errw, "l3af: %v\nhint: %s\n", err, hint)
	return exitUsage
}

// newRoot makes the command tree.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "l3af",
		Short: "Run many eBPF programs on one host as if they were one",
		Long: `l3af tells l3afd, the daemon of a node, which eBPF programs to run at which
network interfaces and kernel events, and shows what runs.

Try "l3af demo" first: it needs root, and l3afd beside l3af.`,
		Version:       version.Read().Version,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		if args[0] == "gen" {
			return &usageError{`unknown command "gen"`, "bpftool gen is for building, and l3af is not: libbpf's skeletons come from bpftool, Go's from bpf2go"}
		}
		var names []string
		for _, c := range root.Commands() {
			names = append(names, c.Name())
		}
		return &usageError{fmt.Sprintf("unknown command %q", args[0]), near.Hint(args[0], names)}
	}
	root.SetVersionTemplate("l3af {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "socket", "", "socket of l3afd (default $L3AF_SOCKET, else "+client.DefaultSocket+")")
	a.remote.flags(flags)
	flags.StringVarP(&a.output, "output", "o", "", "output format: "+strings.Join(formats, ", "))
	var asJSON bool // bpftool's options, which its objects have of their own
	for name, short := range map[string]string{"json": "j", "pretty": "p"} {
		flags.BoolVarP(&asJSON, name, short, false, "")
		_ = flags.MarkHidden(name)
	}
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	root.PersistentPreRunE = func(*cobra.Command, []string) (err error) {
		if a.tls, err = a.remote.open(a.socket); err != nil {
			if u := (*usageError)(nil); errors.As(err, &u) {
				return err
			}
			return &failure{err}
		}
		if a.socket == "" {
			a.socket = os.Getenv("L3AF_SOCKET")
		}
		if a.socket == "" {
			a.socket = client.DefaultSocket
		}
		if asJSON && a.output == "" {
			a.output = formatJSON
		}
		if a.output != "" && !slices.Contains(formats, a.output) {
			return &usageError{
				fmt.Sprintf("unknown output format %q", a.output),
				"formats are " + strings.Join(formats, ", "),
			}
		}
		return nil
	}
	commands := []*cobra.Command{
		newApply(a), newDiff(a), newGet(a), newStatus(a), newChain(a), newHistory(a), newRollback(a), newEvents(a),
		newDoctor(a), newTop(a), newDemo(a), newBench(a), newVersion(a),
	}
	for _, o := range objects() {
		commands = append(commands, newObject(a, o))
	}
	for _, c := range commands {
		for _, c := range append(c.Commands(), c) {
			work := c.RunE
			c.RunE = func(cmd *cobra.Command, args []string) error {
				err := work(cmd, args)
				if u := (*usageError)(nil); err == nil || errors.As(err, &u) {
					return err
				}
				return &failure{err}
			}
		}
		root.AddCommand(c)
	}
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) == 0 {
					return cmd.Help()
				}
				return &usageError{fmt.Sprintf("no completion for %q", args[0]), "there is bash, zsh, fish and powershell"}
			}
			c.Args = cobra.ArbitraryArgs
		}
	}
	return root
}

// noArgs is for commands that take flags only.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{what: fmt.Sprintf("unexpected argument %q", args[0])}
	}
	return nil
}
