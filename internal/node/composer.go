package node

import (
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/bind"
	"l3af/internal/chain"
)

// opener opens the package a reference stands for. It is called from several
// goroutines.
type opener func(ref string) (*artifact.Package, error)

// composer makes the chains of a state: each package is opened once, each
// object parsed once, and equal chains are composed once, however many hooks
// name them. It may be used from several goroutines.
type composer struct {
	opener   opener
	objects  bind.Objects
	packages sync.Map // by reference: func() (*artifact.Package, error)
	chains   sync.Map // by what decides them: func() (*composed, error)
	room     room
}

func newComposer(open opener) *composer {
	return &composer{opener: open, room: make(room, maxHeld)}
}

// maxHeld is how many whole chains a composer keeps until they are loaded: one
// of ten programs takes megabytes. The others are composed again.
const maxHeld = 16

// room has an element for each whole chain that is kept.
type room chan struct{}

// open opens a package.
func (c *composer) open(ref string) (*artifact.Package, error) {
	open, _ := c.packages.LoadOrStore(ref, sync.OnceValues(func() (*artifact.Package, error) { return c.opener(ref) }))
	return open.(func() (*artifact.Package, error))()
}

// program binds a program of a chain to its package.
func (c *composer) program(kind l3af.HookKind, p l3af.Program, path string) (*artifact.Package, *bind.Bound, []l3af.Mistake) {
	pkg, err := c.open(p.Package)
	if err != nil {
		return nil, nil, []l3af.Mistake{{Path: path + ".package", Message: err.Error()}}
	}
	bound, mistakes := c.objects.Program(pkg, kind, p, path)
	return pkg, bound, mistakes
}

// probe binds a probe to its package.
func (c *composer) probe(p l3af.Probe, path string) (*artifact.Package, *bind.Bound, []l3af.Mistake) {
	pkg, err := c.open(p.Package)
	if err != nil {
		return nil, nil, []l3af.Mistake{{Path: path + ".package", Message: err.Error()}}
	}
	bound, mistakes := c.objects.Probe(pkg, p, path)
	return pkg, bound, mistakes
}

// bound is a program of the document with its package.
type bound struct {
	l3af.Program
	digest string
	chain.Member
}

// chain composes programs that are bound, unless the same ones were before.
func (c *composer) chain(kind l3af.HookKind, programs []bound) (*composed, error) {
	// All that may decide what binding makes of a program.
	type decides struct {
		Digest  string
		Program l3af.Program
	}
	key := make([]decides, len(programs))
	members := make([]chain.Member, len(programs))
	for i, p := range programs {
		members[i] = p.Member
		key[i] = decides{p.digest, p.Program}
		of := &key[i].Program
		of.Package, of.Maps, of.Monitor, of.OnMapChange = "", nil, nil, ""
		of.Agent, of.Annotations = nil, nil
		if of.PinPath != "" {
			of.PinPath = "set" // wherever
		}
	}
	text, err := json.Marshal(key)
	if err != nil {
		return nil, err
	}
	make, _ := c.chains.LoadOrStore(string(kind)+string(text), sync.OnceValues(func() (*composed, error) {
		return c.keep(func() (*chain.Chain, error) { return chain.Compose(kind, members) })
	}))
	return make.(func() (*composed, error))()
}

// keep composes a chain, and keeps the whole of it while there is room.
func (c *composer) keep(compose func() (*chain.Chain, error)) (*composed, error) {
	full, err := compose()
	if err != nil {
		return nil, err
	}
	made := &composed{light: full.Light(), room: c.room, compose: compose}
	for _, m := range full.Maps {
		if m.Instance != "" {
			made.shared = append(made.shared, m)
		}
	}
	made.hold(full)
	return made, nil
}

// composed is a chain, of however many hooks.
type composed struct {
	light *chain.Chain // all but the program and the types
	room  room
	loads atomic.Int32 // that are still to come: see loaded

	mu      sync.Mutex
	shared  []chain.Map                  // the maps of instances, with their types; nil once released
	whole   *chain.Chain                 // nil: not kept
	compose func() (*chain.Chain, error) // makes whole again; nil once released
}

// hold keeps the whole chain if there is room. c.mu is held, or c is new.
func (c *composed) hold(whole *chain.Chain) {
	select {
	case c.room <- struct{}{}:
		c.whole = whole
	default:
	}
}

// drop lets go of the whole chain. c.mu is held.
func (c *composed) drop() {
	if c.whole != nil {
		c.whole = nil
		<-c.room
	}
}

// full is the whole chain. again composes it from its packages once more, where
// what it was made of is released.
func (c *composed) full(again func() (*composed, error)) (*chain.Chain, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.whole != nil {
		return c.whole, nil
	}
	if c.compose == nil {
		other, err := again()
		if err != nil {
			return nil, err
		}
		if other.light.ID != c.light.ID {
			return nil, fmt.Errorf("composed again it is chain %s, not %s", other.light.ID, c.light.ID)
		}
		other.mu.Lock() // others may have it as well
		c.room, c.compose = other.room, other.compose
		c.whole, other.whole = other.whole, nil
		other.mu.Unlock()
		if c.whole != nil {
			return c.whole, nil
		}
	}
	whole, err := c.compose()
	if err == nil {
		c.hold(whole)
	}
	return whole, err
}

// loaded says that one of the loads that were to come is done. After the last
// the whole chain is not kept any more.
func (c *composed) loaded() {
	if c.loads.Add(-1) == 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.drop()
	}
}

// release lets go of all the chain was made of.
func (c *composed) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
	c.compose, c.shared = nil, nil
}

// parallel calls f with 0 up to n-1, as many at a time as there are processors.
// A panic of f is the caller's.
func parallel(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	panics := make(chan any, n)
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					panics <- p
				}
			}()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
	select {
	case p := <-panics:
		panic(p)
	default:
	}
}
