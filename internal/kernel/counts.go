package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"l3af/internal/chain"
	"l3af/internal/host"
)

// Counts reads every pinned counter map of the target: the running chain's,
// and those of replaced chains that were not dropped yet. With final, the
// counts of replaced chains are: it waits until no CPU runs them any more.
func (k *Kernel) Counts(t host.Target, final bool) ([]host.Counts, error) {
	if err := checkTarget(t); err != nil {
		return nil, err
	}
	dir := filepath.Join(k.path(t), "counters")
	names, err := k.entries(dir)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	if final {
		running, err := k.runningID(t)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(names, func(name string) bool { return name != escape(running) }) {
			k.quiesce()
		}
	}
	var list []host.Counts
	for _, name := range names {
		id, ok := unescape(name)
		if !ok {
			k.log.Debug("not ours", "path", filepath.Join(dir, name))
			continue
		}
		c, err := readCounts(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped meanwhile
		}
		if err != nil && !notOurs(err) {
			return nil, fmt.Errorf("chain %s: %w", id, err)
		}
		if err != nil {
			// What holds no counters must not hide the others.
			k.log.Warn("read counters", "target", t.String(), "chain", id, "error", err)
			continue
		}
		c.ID = id
		list = append(list, c)
	}
	return list, nil
}

// runningID is the ID of the chain that runs at the target, "" for none.
func (k *Kernel) runningID(t host.Target) (id string, err error) {
	err = k.at(t, func(dev *device) error {
		p, err := k.openRunning(k.linkPath(t), t, dev)
		if err != nil || p == nil {
			return err
		}
		defer p.Close()
		name, err := programName(p.info.Program)
		if err == nil {
			id, _ = chainID(name)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // replaced while we looked
	}
	return id, err
}

func readCounts(path string) (host.Counts, error) {
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return host.Counts{}, err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return host.Counts{}, err
	}
	id, _ := info.ID()
	c, err := OpenCounters(m)
	if err != nil {
		return host.Counts{}, fmt.Errorf("%s: %w", path, err)
	}
	programs, err := c.Read()
	if err != nil {
		return host.Counts{}, err
	}
	return host.Counts{MapID: uint32(id), Programs: programs}, nil
}

// Counters are the counters of a chain, whose map must stay open.
type Counters struct {
	m      *ebpf.Map
	layout *btf.Struct
}

// OpenCounters finds out what a map of counters counts.
func OpenCounters(m *ebpf.Map) (*Counters, error) {
	if m.Type() != ebpf.PerCPUArray || m.MaxEntries() != 1 {
		return nil, errors.New("holds no counters")
	}
	handle, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("describe counters: %w", err)
	}
	defer handle.Close()
	spec, err := handle.Spec(nil)
	if err != nil {
		return nil, fmt.Errorf("describe counters: %w", err)
	}
	c := &Counters{m: m}
	if err := spec.TypeByName(chain.CountersType, &c.layout); err != nil {
		return nil, fmt.Errorf("describe counters: %w", err)
	}
	return c, nil
}

// Read reads them, the sum over all CPUs.
func (c *Counters) Read() ([]chain.Count, error) {
	all, err := c.m.LookupBytes(uint32(0))
	if err != nil {
		return nil, err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	perCPU := make([][]byte, cpus)
	for i := range perCPU {
		stride := len(all) / cpus
		perCPU[i] = all[i*stride:][:c.m.ValueSize()]
	}
	return chain.ReadCounts(c.layout, perCPU)
}

// DropCounts removes the counters of one replaced chain. Nothing there is no
// error.
func (k *Kernel) DropCounts(t host.Target, id string) error {
	if err := checkTarget(t); err != nil {
		return err
	}
	if id == "" {
		return errors.New("drop counters: no chain ID")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.Remove(k.counterPath(t, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop counters: %w", err)
	}
	k.pruneTarget(t)
	return nil
}

// quiesce returns when nothing runs a program any more that was replaced
// before. It waits at most once for any number of changes that are done.
func (k *Kernel) quiesce() {
	if now := k.switched.Load(); now != k.quiet.Load() {
		waitForPrograms()
		k.quiet.Store(now)
	}
}

// waitForPrograms returns when every program that was replaced before has
// ended on every CPU: programs run inside an RCU read-side critical section,
// and MEMBARRIER_CMD_GLOBAL is synchronize_rcu (kernel/sched/membarrier.c).
func waitForPrograms() {
	const global = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		// Refused where CPUs are isolated (nohz_full).
		time.Sleep(100 * time.Millisecond)
	}
}
