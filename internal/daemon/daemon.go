// Package daemon is l3afd: it wires the kernel, the node and the API, and
// keeps out of their way.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/natefinch/lumberjack.v2"

	"l3af/internal/api"
	"l3af/internal/artifact"
	"l3af/internal/kernel"
	"l3af/internal/node"
)

// Main is l3afd with these arguments. It returns the exit code when SIGTERM
// or SIGINT ends it: 0 done, 1 failed, 2 called wrongly. What runs in the
// kernel runs on.
func Main(args []string) int {
	complain := func(err error, hint string) {
		fmt.Fprintf(os.Stderr, "l3afd: %s\n", strings.TrimSpace(err.Error()))
		if hint != "" {
			fmt.Fprintf(os.Stderr, "hint: %s\n", hint)
		}
	}
	var s settings
	var err error
	if len(args) > 0 && args[0] == "config" {
		if err = migrate(args[1:], os.Stdin, os.Stdout); err == nil {
			return 0
		}
	} else {
		s, err = parse(args)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return 0
	case errors.As(err, new(errUsage)):
		complain(err, "see l3afd -help")
		return 2
	case err != nil:
		complain(err, "")
		return 1
	case s.version:
		v := ReadVersion()
		fmt.Printf("l3afd %s %s %s\n", v.Version, v.Go, v.Revision)
		return 0
	}
	// Whoever reads our log may go: that is no reason to go as well.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// A terminal that closes takes no daemon with it.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	if err := run(ctx, s, hangups); err != nil {
		var h *hinted
		hint := ""
		if errors.As(err, &h) {
			hint = h.hint
		}
		complain(err, hint)
		return 1
	}
	return 0
}

// hinted is an error and what to do about it.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// run is the daemon until ctx ends.
func run(ctx context.Context, s settings, hangups <-chan os.Signal) (err error) {
	// All that keeps us from starting comes before anything is changed.
	if os.Geteuid() != 0 {
		return &hinted{errors.New("needs root, to load BPF programs and to attach them"), "run it with sudo, or as the systemd unit l3afd.service"}
	}
	if err := unused(s.stateDir); err != nil {
		return err
	}
	out, err := s.logWriter()
	if err != nil {
		return err
	}
	defer out.Close()
	log := logger(out, s.logFormat)
	for _, n := range s.notes {
		log.Warn("configuration", "file", s.config, "note", n)
	}
	limitMemory()

	keys, err := s.keys(log)
	if err != nil {
		return err
	}
	listeners, err := s.open(keys, log)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	k, err := kernel.New(s.bpffs, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	version := ReadVersion().Version
	metrics := api.NewMetrics(version)
	looked := make(chan struct{}, 2) // the node has looked at the machine
	var once sync.Once
	shrink := time.AfterFunc(time.Hour, debug.FreeOSMemory)
	defer shrink.Stop()
	n, err := node.Open(node.Options{
		Dir: s.stateDir, Kernel: k, Log: log,
		Remote:  artifact.Remote{CA: s.packageCA, Certificate: s.packageCert, Key: s.packageKey, Timeout: s.packageTimeout},
		Samples: s.monitorSamples, AgentPoll: s.agentPoll,
		Observe: func(r node.Reconciled) {
			metrics.Observe(r.Duration, r.Steps, r.Failures)
			first := false
			once.Do(func() { first = true; looked <- struct{}{} })
			if first || r.Steps > 0 {
				shrink.Reset(idle)
			}
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if n.Current() == nil {
		looked <- struct{}{} // there is nothing to look for
	}
	if s.pidFile != "" {
		// Nothing depends on it: that only one daemon runs is what locks are for.
		if err := os.WriteFile(s.pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			return fmt.Errorf("pid file: %w", err)
		}
		defer os.Remove(s.pidFile)
	}
	log.Info("started", "version", version, "go", runtime.Version(), "pid", os.Getpid(),
		"socket", s.socket, "listen", s.listen, "state", s.stateDir, "bpffs", s.bpffs)

	// The node works until the API has answered its last request.
	server := api.New(n, api.Options{Log: log, Metrics: metrics, Configs: s.upstream(log), Swagger: s.swagger})
	working, rest := context.WithCancel(context.WithoutCancel(ctx))
	defer rest()
	serving, quit := context.WithCancel(ctx)
	defer quit()
	var wg sync.WaitGroup
	if keys != nil {
		metrics.Certificates(keys.Certificates)
		wg.Go(func() { keys.Watch(working) })
	}
	ended := make(chan error, 1+len(listeners))
	wg.Go(func() {
		if err := n.Run(working); err != nil {
			ended <- fmt.Errorf("node: %w", err)
		}
	})
	var serve sync.WaitGroup
	for _, l := range listeners {
		serve.Go(func() {
			if err := l.serve(serving, server); err != nil {
				ended <- err
			}
		})
	}
	serve.Go(func() { s.importStore(serving, server, log) })
	for running := true; running; {
		select {
		case <-looked:
			tell(log, "READY=1")
		case <-hangups:
			log.Info("SIGHUP changes nothing: l3af apply changes the state, a restart the flags")
		case <-ctx.Done():
			running = false
		case err = <-ended:
			running = false
		}
	}
	tell(log, "STOPPING=1")
	log.Info("stopping; what runs in the kernel runs on")
	quit()
	serve.Wait()
	rest()
	wg.Wait()
	return err
}

// idle is how long after a change memory is given back: package kernel has
// forgotten the kernel's types then.
const idle = 3 * time.Second

// limitMemory trades a little time for memory: the daemon works rarely and
// waits long.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(64 << 20)
	}
}

// unused says whether a running daemon has the state directory, without
// changing anything.
func unused(dir string) error {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	who := "another l3afd"
	if pid, err := io.ReadAll(io.LimitReader(f, 20)); err == nil && len(pid) > 0 {
		who += " (pid " + strings.TrimSpace(string(pid)) + ")"
	}
	return fmt.Errorf("state directory %s is in use by %s", dir, who)
}

// logWriter is where the log goes.
func (s *settings) logWriter() (io.WriteCloser, error) {
	if s.logFile == "" {
		return nopCloser{os.Stderr}, nil
	}
	// The library makes the file when something is written, and nobody reads
	// the error of a log that cannot be.
	f, err := os.OpenFile(s.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	f.Close()
	return &lumberjack.Logger{Filename: s.logFile, MaxSize: s.logSize, MaxBackups: s.logBackups, MaxAge: s.logDays}, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func logger(w io.Writer, format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

func tell(log *slog.Logger, state string) {
	if err := notify(state); err != nil {
		log.Warn("the service manager was not told", "state", state, "error", err)
	}
}
