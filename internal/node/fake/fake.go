// Package fake is a kernel for tests of the node. It has namespaces,
// interfaces, links, pinned maps and counters that outlive a daemon, and can
// stop the daemon before and after every elementary change, as kill -9 does.
package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// Kernel models what the real one does for a node.
type Kernel struct {
	// Point, when set, is called before and after every elementary change, with
	// no lock held. A panic there is a crash of the daemon at that point.
	Point func(name string)
	// Before, when set, is called at the start of every method; its error is
	// the method's. For ReadBack of a target it is what Attached says of it.
	Before func(method string, t host.Target) error
	// Refuse tells why programs with a member of that name fail to load.
	Refuse map[string]error
	// OnlyGeneric names interfaces whose driver has no XDP.
	OnlyGeneric map[string]bool

	held atomic.Int32

	mu       sync.Mutex
	boot     int
	id       uint32 // the last id given: of programs, maps, links and interfaces
	netns    map[string]map[string]int
	targets  map[host.Target]*target
	shared   map[string]*table // of instances
	outside  map[string]*table // by path
	watchers map[int]watcher
}

type watcher struct {
	netns   func() []string
	changed func()
}

type target struct {
	link     *link
	maps     map[string]*table
	counters map[string]*counter
	uses     map[string]bool // names of shared maps
	// aside are the maps that start anew when the chain aside.id runs.
	aside map[string]map[string]*table
	// outside are the paths where the target has maps pinned as well, and
	// whether objects ask for them by their names.
	outside map[string]bool
}

type link struct {
	id      uint32
	netns   string
	index   int // of the interface; 0: it is gone
	mode    l3af.Mode
	program *program
}

type program struct {
	id       uint32
	chain    string
	segments int
	counter  *counter // held by the program, pinned or not
}

type counter struct {
	id       uint32
	programs []chain.Count
}

type table struct {
	id      uint32
	shape   string
	size    uint32            // of a value
	entries map[string]string // the values of all CPUs, one after another
	patches map[int]string
}

// New is a machine with lo and no other namespace.
func New() *Kernel {
	k := &Kernel{netns: map[string]map[string]int{"": {}}, targets: map[host.Target]*target{}, watchers: map[int]watcher{}, shared: map[string]*table{}, outside: map[string]*table{}}
	k.AddInterface("", "lo")
	return k
}

func (k *Kernel) at(point string) {
	if k.Point != nil {
		k.Point(point)
	}
}

// change makes one elementary change.
func (k *Kernel) change(name string, f func()) {
	k.at("before " + name)
	k.mu.Lock()
	f()
	k.mu.Unlock()
	k.at("after " + name)
}

func (k *Kernel) before(method string, t host.Target) error {
	if k.Before != nil {
		return k.Before(method, t)
	}
	return nil
}

func (k *Kernel) nextID() uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.newID()
}

// newID gives an ID that nothing had. k.mu is held.
func (k *Kernel) newID() uint32 {
	k.id++
	return k.id
}

// Interfaces implements node.Kernel.
func (k *Kernel) Interfaces(netns string) ([]host.Interface, error) {
	if err := k.before("Interfaces", host.Target{}); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	ns, ok := k.netns[netns]
	if !ok {
		return nil, fmt.Errorf("network namespace %s: %w", netns, os.ErrNotExist)
	}
	var list []host.Interface
	for name, index := range ns {
		list = append(list, host.Interface{Name: name, Index: index})
	}
	slices.SortFunc(list, func(a, b host.Interface) int { return a.Index - b.Index })
	return list, nil
}

// Attached implements node.Kernel.
func (k *Kernel) Attached() ([]host.Attached, error) {
	if err := k.before("Attached", host.Target{}); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []host.Attached
	for t, state := range k.targets {
		a := host.Attached{Target: t}
		if a.Err = k.before("ReadBack", t); a.Err != nil {
			list = append(list, a)
			continue
		}
		if l := state.link; l != nil && k.runs(t, l) {
			a.ID, a.Mode, a.ProgramID, a.LinkID, a.Segments = l.program.chain, l.mode, l.program.id, l.id, l.program.segments
		}
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b host.Attached) int { return strings.Compare(a.Target.String(), b.Target.String()) })
	return list, nil
}

// runs reports whether a link is where its target says.
func (k *Kernel) runs(t host.Target, l *link) bool {
	return t.Probe != "" || l.index != 0 && k.netns[t.Hook.Netns][t.Hook.Interface] == l.index
}

func (k *Kernel) target(t host.Target) *target {
	if k.targets[t] == nil {
		k.targets[t] = &target{maps: map[string]*table{}, counters: map[string]*counter{}, uses: map[string]bool{}, aside: map[string]map[string]*table{}, outside: map[string]bool{}}
	}
	return k.targets[t]
}

// gone removes a target of which nothing is left.
func (k *Kernel) gone(t host.Target) {
	if s := k.targets[t]; s != nil && s.link == nil && len(s.maps) == 0 && len(s.counters) == 0 && len(s.uses)+len(s.aside)+len(s.outside) == 0 {
		delete(k.targets, t)
	}
}

// MakeMaps implements node.Kernel.
func (k *Kernel) MakeMaps(load host.Load) error {
	t := load.Target
	if err := k.before("MakeMaps", t); err != nil {
		return err
	}
	if _, err := k.index(t); err != nil {
		return err
	}
	k.recover(t)
	later := map[string]bool{} // maps that come with the switch
	for _, m := range load.Chain.Maps {
		name, _ := nameOf(m)
		k.mu.Lock()
		old := k.place(t, name)[name]
		k.gone(t)
		k.mu.Unlock()
		if m.Member == "" || !m.Pinned || m.Tied() || old != nil && old.shape != shapeOf(m) && slices.Contains(load.Reset, m.Member) {
			later[name] = true
			continue
		}
		if err := k.pinMap(load, m); err != nil {
			return err
		}
	}
	_, err := k.write(t, load.Chain.ID, slices.DeleteFunc(slices.Clone(load.Contents), func(c host.Contents) bool {
		name, _ := nameOf(chain.Map{Member: c.Member, Name: c.Map, Instance: c.Instance})
		return later[name]
	}))
	return err
}

// Tidy implements node.Kernel.
func (k *Kernel) Tidy(t host.Target, keep *chain.Chain) error {
	if err := k.before("Tidy", t); err != nil {
		return err
	}
	stays := map[string]bool{}
	if keep != nil {
		for _, m := range keep.Maps {
			stays[mapName(m.Member, m.Name)] = m.Pinned && m.Instance == ""
		}
	}
	k.recover(t)
	if keep == nil {
		k.leaveOutside(t, nil)
	}
	k.leave(t, keep)
	k.mu.Lock()
	s := k.targets[t]
	if s == nil {
		k.mu.Unlock()
		return nil
	}
	names, ids := slices.Sorted(maps.Keys(s.maps)), slices.Sorted(maps.Keys(s.counters))
	k.mu.Unlock()
	for _, name := range names {
		if !stays[name] {
			k.change("remove map "+name, func() {
				delete(s.maps, name)
				k.gone(t)
			})
		}
	}
	for _, id := range ids {
		if keep == nil {
			k.change("remove counters "+id, func() {
				delete(s.counters, id)
				k.gone(t)
			})
		}
	}
	if keep == nil && s.link != nil {
		return errors.New("has a link")
	}
	return nil
}

// Watch implements node.Kernel.
func (k *Kernel) Watch(ctx context.Context, netns func() []string, changed func()) error {
	if err := k.before("Watch", host.Target{}); err != nil {
		return err
	}
	k.mu.Lock()
	id := int(k.newID())
	k.watchers[id] = watcher{netns, changed}
	k.mu.Unlock()
	changed()
	<-ctx.Done()
	k.mu.Lock()
	delete(k.watchers, id)
	k.mu.Unlock()
	return nil
}

// Boot implements node.Kernel.
func (k *Kernel) Boot() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprintf("boot-%d", k.boot)
}
