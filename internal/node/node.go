// Package node makes one machine match its state, and keeps doing so. What
// is wanted comes from the current revision, what is there is read from the
// kernel and never remembered; the difference is steps.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/agent"
	"l3af/internal/artifact"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// Kernel is what a node needs of its machine.
type Kernel interface {
	// Interfaces lists the interfaces of a network namespace ("" is the daemon's own).
	// errors.Is(err, os.ErrNotExist): there is no such namespace.
	Interfaces(netns string) ([]host.Interface, error)
	// Attached reads back every target that has a pin or a link of ours, in any state.
	Attached() ([]host.Attached, error)
	// Attach makes the target run load.Chain: maps are made or adopted and their contents written, the program is
	// loaded and verified, then one atomic link update switches the target over (or a link is made and pinned where
	// there is none; XDP mode change or a moved interface: new link). On error what ran runs on.
	Attach(ctx context.Context, load host.Load) (host.Result, error)
	// Prepare does all of an attach that takes long and that nobody sees: maps are opened or made, the program is loaded
	// and verified. It is called for several targets at a time; the order in which they are attached then, and what
	// is attached meanwhile, is not that of the calls.
	Prepare(ctx context.Context, load host.Load) (host.Prepared, error)
	// Write makes the target's map contents what the document wants and returns how many entries it changed. The
	// target must run.
	Write(t host.Target, chain *chain.Chain, contents []host.Contents) (int, error)
	// Read gives the values of entries of the maps of the target's chain: one, or of a per-CPU map one for each possible
	// CPU; nil where there is no such map or entry.
	Read(t host.Target, chain *chain.Chain, keys []host.MapKey) ([][][]byte, error)
	// MapIDs gives the IDs of the maps of a chain that are pinned at the target's own place, by their index in c.Maps; 0 for
	// one that is not there.
	MapIDs(t host.Target, c *chain.Chain) ([]uint32, error)
	// Pin makes the maps of the chain that the target runs be pinned where pins says, removes all that the target has
	// pinned elsewhere outside of its own place, and returns how many pins it made and removed. errors.Is(err, os.ErrNotExist): a map
	// cannot be found any more, and attaching makes it anew. [host.ErrTaken]: another target has a place; all else is done.
	Pin(t host.Target, chain *chain.Chain, pins host.Pins) (int, error)
	// PinAhead pins where pins says, and where nothing is yet, what the target has already of the maps of a chain that it
	// is to run.
	PinAhead(t host.Target, chain *chain.Chain, pins host.Pins) error
	// CheckPinPath says why maps cannot be pinned below a directory; nil if they can.
	CheckPinPath(dir string) error
	// Detach takes the target's link away; traffic flows on without the chain. No link is no error.
	Detach(t host.Target) error
	// Tidy removes every pin of the target that does not belong to keep, counters excepted.
	// keep nil: everything, directories included.
	Tidy(t host.Target, keep *chain.Chain) error
	// Counts reads every pinned counter map of the target: the running chain's, and those of replaced chains not yet
	// dropped. With final it waits until nothing runs replaced chains any more, so that their counts are final.
	Counts(t host.Target, final bool) ([]host.Counts, error)
	// MakeMaps makes the maps of a load that are not there, pins them at the target's own place, and writes their contents:
	// processes that the programs belong to may look at them before Attach. Maps that start anew take their place with
	// the switch.
	MakeMaps(load host.Load) error
	// DropCounts removes the counters of one replaced chain.
	DropCounts(t host.Target, chainID string) error
	// Watch calls changed once when it begins to listen, and then after interfaces or namespaces of the named netns
	// set come, go or change, until ctx ends.
	Watch(ctx context.Context, netns func() []string, changed func()) error
	// Boot is the machine's boot id (map ids never repeat within one boot).
	Boot() string
	// TestLoad is Attach without any effect: maps and program are made unpinned, verified, and closed.
	TestLoad(load host.Load) error
}

// Options say how a node is to be.
type Options struct {
	Dir    string   // the state directory; made when it does not exist
	Lock   *os.File // what [Lock] gave for Dir, closed with the node; nil: it is taken
	Kernel Kernel
	Log    *slog.Logger // nil: none
	// Observe, when set, is told of every reconcile. It must not block.
	Observe func(Reconciled)
	// Interval is how often the node looks after the machine unasked; 0: every 30 s.
	Interval time.Duration
	// Samples is how many samples, one a second, the aggregators max-rate and avg of monitored map entries look back;
	// 0: 20.
	Samples int
	// AgentPoll is how often daemons among agents are asked how they are; 0: every 30 s.
	AgentPoll time.Duration
	// Open opens packages; nil: an [artifact.Opener] that fetches as Remote says.
	Open   func(ctx context.Context, ref string) (*artifact.Package, error)
	Remote artifact.Remote

	point func(string) // tests: called before and after each change of a file
}

// Reconciled is one pass over the machine.
type Reconciled struct {
	Duration time.Duration
	Steps    int
	Failures int // targets that do not run as wanted, and troubles of the node
}

// Node keeps one machine as its state says.
type Node struct {
	opts     Options
	kernel   Kernel
	log      *slog.Logger
	lock     *os.File
	disk     disk
	store    *artifact.Store
	totals   *totals
	events   events
	agents   *agent.Supervisor
	monitors monitors

	applying sync.Mutex    // an apply or rollback is under way
	changed  chan struct{} // something may have to be done

	hurried context.Context // ends when nobody is to wait for agents any more
	hurry   context.CancelFunc

	mu      sync.Mutex // an apply or a reconcile is at work
	settled map[host.Target]string
	gone    map[host.Target]time.Time
	refused map[host.Target]refusal
	present map[host.Target]bool // nil: nothing is known to compare with
	// pending are the agents that the last reconcile left others to start, by
	// target; awaited are the targets that an apply waits for.
	pending map[host.Target]starting
	awaited map[host.Target]bool

	view     sync.RWMutex // what Status and Current read; written under mu as well
	revs     *revisions
	made     []*made
	failed   map[host.Target]error
	notes    map[host.Target]string
	took     map[host.Target]*chain.Chain // as the kernel took it, where not as composed; without code
	troubles []string
	damage   []string // of files, found when the node was opened
	last     []l3af.Step
	closed   bool
}

var errClosed = errors.New("the node is shutting down")

// Open takes the state directory for this process and reads what is in it.
// It changes nothing on the machine, but goes on with the agents that an
// earlier process started.
func Open(opts Options) (n *Node, err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Interval == 0 {
		opts.Interval = 30 * time.Second
	}
	lock := opts.Lock
	if lock == nil {
		if lock, err = Lock(opts.Dir); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	n = &Node{
		opts: opts, kernel: opts.Kernel, log: opts.Log, lock: lock,
		disk:     disk{point: opts.point},
		monitors: monitors{keep: cmp.Or(opts.Samples, defaultSamples), series: map[sampled]series{}},
		changed:  make(chan struct{}, 1),
		settled:  map[host.Target]string{}, gone: map[host.Target]time.Time{}, refused: map[host.Target]refusal{},
		failed: map[host.Target]error{}, notes: map[host.Target]string{}, took: map[host.Target]*chain.Chain{},
	}
	n.hurried, n.hurry = context.WithCancel(context.Background())
	if err := n.disk.sweep(opts.Dir); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if n.store, err = artifact.OpenStore(filepath.Join(opts.Dir, "packages")); err != nil {
		return nil, fmt.Errorf("packages: %w", err)
	}
	if n.opts.Open == nil {
		opener, err := artifact.NewOpener(opts.Remote, n.store, n.log)
		if err != nil {
			return nil, err
		}
		n.opts.Open = opener.Open
	}
	var damage error
	if n.totals, damage, err = openTotals(opts.Kernel, n.disk, filepath.Join(opts.Dir, "counters.json")); err != nil {
		return nil, fmt.Errorf("counters: %w", err)
	}
	if damage != nil {
		n.log.Error(damage.Error())
		n.damage = append(n.damage, damage.Error())
	}
	if n.revs, err = openRevisions(filepath.Join(opts.Dir, "revisions"), n.disk, n.log); err != nil {
		return nil, fmt.Errorf("revisions: %w", err)
	}
	if n.revs.damage != nil {
		n.log.Error("nothing is changed until a state is applied", "error", n.revs.damage)
	}
	if rev := n.revs.current; rev != nil {
		n.made = build(&rev.State, n.stored(rev))
	}
	if err := n.events.open(n.disk, filepath.Join(opts.Dir, "events.json")); err != nil {
		n.log.Warn("the events of the daemon before are lost", "error", err)
	}
	if n.agents, err = n.openAgents(); err != nil {
		return nil, err
	}
	return n, nil
}

// Lock makes sure that one node works on a state directory, which is made when
// it does not exist: as long as any descriptor of the file is open that is
// returned, another Lock fails. For people the file holds the pid of this
// process.
func Lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		who := "another l3afd"
		if pid, err := io.ReadAll(io.LimitReader(f, 20)); err == nil && strings.TrimSpace(string(pid)) != "" {
			who += " (pid " + strings.TrimSpace(string(pid)) + ")"
		}
		return nil, fmt.Errorf("state directory %s is in use by %s", filepath.Dir(path), who)
	}
	SignLock(f)
	return f, nil
}

// SignLock writes the pid of this process into a lock. That it fails is no
// matter: nothing but what people are told depends on it.
func SignLock(f *os.File) {
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
}

// Run keeps the machine as the current revision says until ctx ends: now,
// when interfaces change, and at every interval.
func (n *Node) Run(ctx context.Context) error {
	if err := n.events.begin(); err != nil {
		n.log.Warn("after a crash old events may come twice", "error", err)
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() { n.watch(ctx) })
	watching.Go(func() { n.monitors.run(ctx, n) })

	tick := time.NewTicker(n.opts.Interval)
	defer tick.Stop()
	for contents := true; ; {
		n.mu.Lock()
		if n.closed {
			n.mu.Unlock()
			return errClosed
		}
		n.reconcile(ctx, contents)
		n.mu.Unlock()
		contents = true
		select {
		case <-ctx.Done():
			return nil
		case <-n.changed:
			// Changes come in bunches.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(10 * time.Millisecond):
			}
			select {
			case <-n.changed:
			default:
			}
			// An interface changes no map, and there may be many.
			contents = false
		case <-tick.C:
		}
	}
}

// wake makes Run look again.
func (n *Node) wake() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// watch passes on what the kernel says of interfaces. It starts over when it
// failed.
func (n *Node) watch(ctx context.Context) {
	for {
		err := n.kernel.Watch(ctx, n.namespaces, n.wake)
		if ctx.Err() != nil {
			return
		}
		n.log.Error("watching interfaces failed; they are looked at every interval", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Second):
		}
		n.wake() // what came in between
	}
}

// namespaces lists the network namespaces the current state names, sorted.
func (n *Node) namespaces() []string {
	n.view.RLock()
	defer n.view.RUnlock()
	var names []string
	for _, m := range n.made {
		if m.chain != nil {
			names = append(names, m.chain.Netns)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Close waits for what is under way, and gives the state directory free. What
// runs in the kernel runs on, and so do agents.
func (n *Node) Close() error {
	err := n.agents.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.view.Lock()
	defer n.view.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	n.events.close()
	if err := n.events.keep(); err != nil {
		n.log.Warn("the recent events are lost", "error", err)
	}
	return errors.Join(err, n.lock.Close())
}

// Events gives the recent events, then the new ones until ctx ends. after is the
// ID of one that the reader has; those up to it are left out where it is
// remembered, which all are that an orderly end of the daemon left. Who reads
// too slowly loses the oldest.
func (n *Node) Events(ctx context.Context, after string) <-chan l3af.Event {
	return n.events.read(ctx, after)
}

// clear forgets a failure.
func (n *Node) clear(t host.Target) {
	n.view.Lock()
	defer n.view.Unlock()
	delete(n.failed, t)
}

func (n *Node) note(t host.Target, note string) {
	n.view.Lock()
	defer n.view.Unlock()
	if note == "" {
		delete(n.notes, t)
	} else {
		n.notes[t] = note
	}
}

// taken keeps how the kernel took a chain, nil: as it was composed.
func (n *Node) taken(t host.Target, c *chain.Chain) {
	n.view.Lock()
	defer n.view.Unlock()
	if c == nil {
		delete(n.took, t)
	} else {
		n.took[t] = c.Light()
	}
}

func (n *Node) failedAlready(t host.Target, err error) bool {
	before := n.failed[t]
	return before != nil && err != nil && before.Error() == err.Error()
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
