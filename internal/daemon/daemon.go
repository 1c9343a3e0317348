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
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/natefinch/lumberjack.v2"

	"l3af/internal/api"
	"l3af/internal/gate"
	"l3af/internal/kernel"
	"l3af/internal/node"
	"l3af/internal/version"
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
		v := version.Read()
		fmt.Printf("l3afd %s %s %s\n", v.Version, v.Go, v.Revision)
		return 0
	}
	// Whoever reads our log may go: that is no reason to go as well.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// A terminal that closes takes no daemon with it either.
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

// daemon is what stays when a node and the servers of its API come and go.
type daemon struct {
	settings
	log     *slog.Logger
	keys    *gate.Keys
	metrics *api.Metrics
	sockets sockets
	locks   locks
	from    *predecessor // until its place is ours
	news    string       // for the next node
	self    program      // what SIGHUP hands over to

	asked   chan *handover
	handing atomic.Bool   // a handover is under way
	ended   chan struct{} // closed when the daemon has
	last    *api.Server
}

// locks keep others from working where we do.
type locks struct{ bpffs, state *os.File }

func (l *locks) close() {
	for _, f := range []*os.File{l.bpffs, l.state} {
		if f != nil {
			f.Close()
		}
	}
}

// run is the daemon until ctx ends, or another process has its place.
func run(ctx context.Context, s settings, hangups <-chan os.Signal) error {
	// All that keeps us from starting comes before anything is changed.
	if os.Geteuid() != 0 {
		return &hinted{errors.New("needs root, to load BPF programs and to attach them"), "run it with sudo, or as the systemd unit l3afd.service"}
	}
	from, err := findPredecessor()
	if err != nil {
		return err
	}
	if from == nil {
		if err := unused(s.stateDir); err != nil {
			return err
		}
	}
	self := startedAs()
	if from != nil && from.again.Path != "" {
		self = from.again
	}
	out, err := s.logWriter()
	if err != nil {
		return err
	}
	defer out.Close()
	d := &daemon{
		settings: s, log: s.logger(out), metrics: api.NewMetrics(version.Read().Version),
		sockets: sockets{from: from, fds: map[string]int{}}, from: from,
		self: self, asked: make(chan *handover), ended: make(chan struct{}),
	}
	defer close(d.ended)
	for _, n := range s.notes {
		d.log.Warn("configuration", "file", s.config, "note", n)
	}
	limitMemory()
	if d.keys, err = s.keys(d.log); err != nil {
		return err
	}
	if d.keys != nil {
		d.metrics.Certificates(d.keys.Certificates)
	}
	defer d.locks.close()
	defer d.sockets.close()
	if d.from != nil {
		if err := d.inherit(); err != nil {
			return err
		}
	}
	listeners, err := s.open(&d.sockets, d.keys, d.log)
	if err != nil {
		return err
	}
	if d.from == nil {
		if d.locks.bpffs, err = kernel.Lock(d.bpffs, d.log); err != nil {
			return err
		}
		if d.locks.state, err = node.Lock(d.stateDir); err != nil {
			return err
		}
	}
	for {
		next, err := d.serve(ctx, listeners, hangups)
		if next == nil || err != nil {
			return err
		}
		if err = d.give(ctx, next); err == nil {
			return d.leave(next)
		}
		d.failed(next, err)
		if listeners, err = s.open(&d.sockets, d.keys, d.log); err != nil {
			return err
		}
	}
}

// inherit takes the locks of our predecessor, and returns when it works no more.
// Nothing of what it shares with us may be touched before: also its sockets may
// not be made to block for a moment.
func (d *daemon) inherit() error {
	bpffs, ok := d.from.take("bpffs:" + d.bpffs)
	state, ok2 := d.from.take("state:" + d.stateDir)
	if !ok || !ok2 {
		return fmt.Errorf("the l3afd before this one does not work on %s and %s: stop the one and start the other", d.bpffs, d.stateDir)
	}
	d.locks.bpffs, d.locks.state = os.NewFile(uintptr(bpffs), d.bpffs), os.NewFile(uintptr(state), filepath.Join(d.stateDir, "lock"))
	if err := d.from.greet(); err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	return nil
}

// again is another descriptor of a lock, for those who close theirs.
func again(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// serve works until ctx ends, or until a successor waits that is to go on.
func (d *daemon) serve(ctx context.Context, listeners []*listener, hangups <-chan os.Signal) (next *handover, err error) {
	log := d.log
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	bpffs, err := again(d.locks.bpffs)
	if err != nil {
		return nil, err
	}
	k, err := kernel.Open(bpffs, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	looked := make(chan struct{}, 2) // the node has looked at the machine
	var once sync.Once
	shrink := time.AfterFunc(time.Hour, debug.FreeOSMemory)
	defer shrink.Stop()
	state, err := again(d.locks.state)
	if err != nil {
		return nil, err
	}
	n, err := node.Open(node.Options{
		Dir: d.stateDir, Lock: state, Kernel: k, Log: log,
		Remote:  d.remote(),
		Samples: d.monitorSamples, AgentPoll: d.agentPoll,
		Observe: func(r node.Reconciled) {
			d.metrics.Observe(r.Duration, r.Steps, r.Failures)
			first := false
			once.Do(func() { first = true; looked <- struct{}{} })
			if first || r.Steps > 0 {
				shrink.Reset(idle)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if n.Current() == nil {
		looked <- struct{}{} // there is nothing to look for
	}
	if d.from != nil {
		if err := d.relieve(k); err != nil {
			return nil, err
		}
	}
	if d.news != "" {
		n.Tell(d.news)
		d.news = ""
	}
	if d.pidFile != "" {
		// Nothing depends on it: that only one daemon runs is what locks are for.
		if err := os.WriteFile(d.pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			return nil, fmt.Errorf("pid file: %w", err)
		}
		defer func() {
			if next == nil {
				os.Remove(d.pidFile)
			}
		}()
	}
	log.Info("started", "version", version.Read().Version, "go", runtime.Version(), "pid", os.Getpid(),
		"socket", d.socket, "listen", d.listen, "state", d.stateDir, "bpffs", d.bpffs)

	// The node works until the API has answered its last request.
	opts := api.Options{Log: log, Metrics: d.metrics, Configs: d.upstream(log), Swagger: d.swagger}
	if d.restartRepo != "" {
		opts.Restart = d.restartWith
	}
	server := api.New(n, opts)
	d.last = server
	working, rest := context.WithCancel(context.WithoutCancel(ctx))
	defer rest()
	serving, quit := context.WithCancelCause(ctx)
	defer quit(nil)
	var wg sync.WaitGroup
	if d.keys != nil {
		wg.Go(func() { d.keys.Watch(working) })
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
	serve.Go(func() { d.importStore(serving, server, log) })
	next, err = d.watch(ctx, n, looked, hangups, ended)
	if next == nil {
		tell(log, "STOPPING=1")
		log.Info("stopping; what runs in the kernel runs on")
		quit(nil)
	} else {
		quit(api.ErrHandover)
	}
	serve.Wait()
	rest()
	wg.Wait()
	return next, err
}

// relieve tells the predecessor that we can work, and takes its place.
func (d *daemon) relieve(k *kernel.Kernel) error {
	if _, err := k.Attached(); err != nil {
		return fmt.Errorf("read back what is attached: %w", err)
	}
	if err := d.from.relieve(); err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	d.from.leave()
	d.from, d.sockets.from = nil, nil
	d.news = fmt.Sprintf("l3afd %s took over as process %d", version.Read().Version, os.Getpid())
	node.SignLock(d.locks.state)
	return nil
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

func (s *settings) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.logLevel)) // check has seen it
	opts := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func tell(log *slog.Logger, state string) {
	if err := notify(state); err != nil {
		log.Warn("the service manager was not told", "state", state, "error", err)
	}
}
