// Package kernel is the only package that changes the kernel: it loads
// programs, makes and fills their maps, attaches them to hooks and kernel
// events, pins what must outlive the daemon, and reads back what runs.
//
// It remembers nothing: bpffs and the kernel say what is there. One directory
// of bpffs belongs to one Kernel at a time.
//
//	DIR/hooks/[NETNS:]IFACE/KIND/link              the bpf_link, which holds the program
//	DIR/hooks/[NETNS:]IFACE/KIND/maps/MEMBER/MAP   the maps of the chain's programs
//	DIR/hooks/[NETNS:]IFACE/KIND/counters/ID       the counters of the chain ID
//	DIR/hooks/[NETNS:]IFACE/KIND/segments/ID       the PROG_ARRAY that joins the chain's segments
//	DIR/hooks/[NETNS:]IFACE/KIND/outside/…         links to what is pinned outside of DIR as well
//	DIR/probes/NAME/…                              the same of a probe
//	DIR/instances/NAME/maps/MAP                    the maps that programs of an instance share
package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"l3af/internal/chain"
)

// Kernel changes the kernel for the targets whose pins are in one directory.
// Its methods may be called from several goroutines.
type Kernel struct {
	root string // the bpffs directory
	log  *slog.Logger
	boot string
	dir  *os.File // root, locked
	// apart: maps are made anew, wherever one may be found.
	apart bool

	// mu keeps changes apart. Readers look at the kernel without it: every
	// change leaves the pins in a state they understand.
	mu sync.Mutex

	// switched counts changes of links; quiet is what it was when the last wait
	// began after which nothing ran what was replaced before. See quiesce.
	switched atomic.Int64
	quiet    atomic.Int64

	// narrowed tells how chains were composed that exceeded a limit of the
	// verifier, by ID.
	narrow   sync.Mutex
	narrowed map[string]chain.Composition

	// idle gives memory back when nothing was loaded for a while.
	idle *time.Timer
}

// DefaultBpffs is the directory of l3afd that is told no other.
const DefaultBpffs = "/sys/fs/bpf/l3af"

// New takes a directory of bpffs into use. It is made, and bpffs mounted, if
// they are not there. What a crash left half done in it is put in order.
//
// It fails when another Kernel uses the directory.
func New(bpffs string, log *slog.Logger) (*Kernel, error) {
	dir, err := Lock(bpffs, log)
	if err != nil {
		return nil, err
	}
	return Open(dir, log)
}

// Lock takes a directory of bpffs, which is made, and bpffs mounted, if they
// are not there. It is taken as long as any descriptor of the file is open that
// is returned; the file's name is the directory's.
//
// It fails when somebody else has the directory.
func Lock(bpffs string, log *slog.Logger) (*os.File, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	root, err := MountBpffs(bpffs, log)
	if err != nil {
		return nil, err
	}
	// O_RDONLY is enough for flock(2).
	dir, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("open bpffs directory: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another l3afd (stop it, or choose another -bpffs)", root)
		}
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	return dir, nil
}

// Open takes into use the directory of which dir is the lock, and closes dir in
// the end. What a crash left half done in it is put in order.
func Open(dir *os.File, log *slog.Logger) (*Kernel, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	k := &Kernel{root: dir.Name(), dir: dir, log: log, boot: strings.TrimSpace(string(boot)), narrowed: map[string]chain.Composition{}}
	k.switched.Store(1) // by who was here before
	k.idle = time.AfterFunc(time.Hour, debug.FreeOSMemory)
	k.idle.Stop()
	targets, err := k.targets()
	if err != nil {
		k.dir.Close()
		return nil, err
	}
	for _, t := range targets {
		if err := k.recover(t); err != nil {
			log.Warn("put a target in order", "target", t.String(), "error", err)
		}
	}
	if err := k.sweep(); err != nil {
		log.Warn("put shared maps in order", "error", err)
	}
	return k, nil
}

// Close gives the directory free for another Kernel. What runs runs on.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.idle.Stop()
	return k.dir.Close()
}

// Boot is the machine's boot id: ids of maps, programs and links are unique
// within one boot.
func (k *Kernel) Boot() string { return k.boot }

// loaded is called after programs were loaded. That takes tens of megabytes
// for a moment: the kernel's type information for CO-RE, the verifier's log.
func (k *Kernel) loaded() { k.idle.Reset(2 * time.Second) }
