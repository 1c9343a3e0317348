package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"l3af/internal/demo"
)

func newDemo(a *app) *cobra.Command {
	var keep bool
	var stop string
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole of it, in network namespaces of its own",
		Long: `Demo makes two network namespaces joined by a veth pair, starts an l3afd of its
own, and applies acl -> ratelimit -> stats on the receiving side. It sends real
traffic, shows what each program lets through and drops, then changes the chain
again and again under traffic and counts the packets that a change lost: 0, or
the exit code is 1. It takes everything away in the end. It needs root, and the
l3afd beside this program, or the one in $PATH.`,
		Example: `  sudo l3af demo
  sudo l3af demo --keep`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if stop != "" {
				return demo.Stop(stop)
			}
			if length < 3*time.Second || length > time.Hour {
				return &usageError{"--time must be between 3s and 1h", "a time is written like 20s"}
			}
			err := demo.Run(cmd.Context(), demo.Options{
				Out:      a.out,
				Terminal: terminal(a.out),
				Keep:     keep,
				Time:     length,
				Command:  called(),
				Daemon:   l3afd,
			})
			if cmd.Context().Err() != nil {
				return errors.New("demo: interrupted; everything it made is gone")
			}
			if err != nil {
				return fmt.Errorf("demo: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave it running, and say what to try and how to stop it")
	cmd.Flags().StringVar(&stop, "stop", "", "take away the demo that --keep left in this folder")
	cmd.Flags().DurationVar(&length, "time", 20*time.Second, "about how long it takes")
	_ = cmd.MarkFlagDirname("stop")
	return cmd
}

// called is how to call this program again.
func called() string {
	if ofGoRun() {
		return "go run ./cmd/l3af"
	}
	return os.Args[0]
}

// ofGoRun says that go run made this program, and takes it away afterwards.
func ofGoRun() bool {
	exe, err := os.Executable()
	return err != nil || strings.Contains(exe, "/go-build")
}

// l3afd is the daemon that belongs to this program: beside it, else in PATH. Where
// go run made this one, it makes that one in dir.
func l3afd(ctx context.Context, dir string) (string, error) {
	if ofGoRun() {
		path := filepath.Join(dir, "l3afd")
		// go run asks no version control either, which may refuse.
		out, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, "l3af/cmd/l3afd").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build l3afd: %w\n%s", err, out)
		}
		return path, nil
	}
	if exe, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(exe), "l3afd")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("l3afd")
	if err != nil {
		return "", &hinted{fmt.Errorf("find l3afd: %w", err), "it belongs beside l3af or into a folder of $PATH"}
	}
	return path, nil
}
