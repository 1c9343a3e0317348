package fake

import (
	"fmt"
	"maps"
	"slices"

	"l3af"
	"l3af/internal/host"
)

// AddNetns makes a network namespace, with lo.
func (k *Kernel) AddNetns(name string) {
	k.mu.Lock()
	k.netns[name] = map[string]int{}
	k.mu.Unlock()
	k.AddInterface(name, "lo")
}

// DeleteNetns takes a namespace away, and its interfaces.
func (k *Kernel) DeleteNetns(name string) {
	k.mu.Lock()
	names := slices.Collect(maps.Keys(k.netns[name]))
	k.mu.Unlock()
	for _, i := range names {
		k.DeleteInterface(name, i)
	}
	k.mu.Lock()
	delete(k.netns, name)
	k.mu.Unlock()
	k.tell(name)
}

// AddInterface makes an interface; one that is there stays.
func (k *Kernel) AddInterface(netns, name string) {
	k.mu.Lock()
	if k.netns[netns][name] == 0 {
		k.netns[netns][name] = int(k.newID())
	}
	k.mu.Unlock()
	k.tell(netns)
}

// DeleteInterface takes an interface away. Links on it stay, defunct.
func (k *Kernel) DeleteInterface(netns, name string) {
	k.mu.Lock()
	index := k.netns[netns][name]
	for _, s := range k.targets {
		if s.link != nil && s.link.netns == netns && s.link.index == index && index != 0 {
			s.link.index = 0
		}
	}
	delete(k.netns[netns], name)
	k.mu.Unlock()
	k.tell(netns)
}

// RenameInterface gives an interface another name. Links stay on it.
func (k *Kernel) RenameInterface(netns, from, to string) {
	k.mu.Lock()
	k.netns[netns][to] = k.netns[netns][from]
	delete(k.netns[netns], from)
	k.mu.Unlock()
	k.tell(netns)
}

// tell calls those who watch a namespace.
func (k *Kernel) tell(netns string) {
	k.mu.Lock()
	all := slices.Collect(maps.Values(k.watchers))
	k.mu.Unlock()
	for _, w := range all {
		if slices.Contains(w.netns(), netns) {
			w.changed()
		}
	}
}

// Reboot empties the machine of all that does not survive one.
func (k *Kernel) Reboot() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.boot++
	k.targets, k.shared, k.outside = map[host.Target]*target{}, map[string]*table{}, map[string]*table{}
}

// Traffic runs n packets through every program that is attached, and calls
// ran for each.
func (k *Kernel) Traffic(n uint64, ran func(t host.Target, program string)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for t, s := range k.targets {
		if s.link == nil || !k.runs(t, s.link) || s.link.program.counter == nil {
			continue
		}
		verdict := l3af.Pass
		if t.Hook.Kind != l3af.XDP {
			verdict = l3af.OK
		}
		for i := range s.link.program.counter.programs {
			p := &s.link.program.counter.programs[i]
			p.Packets += n
			p.Verdicts[verdict] += n
			ran(t, p.Name)
		}
	}
}

// Running gives the ID of the chain that runs at each target.
func (k *Kernel) Running() map[host.Target]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	running := map[host.Target]string{}
	for t, s := range k.targets {
		if s.link != nil && k.runs(t, s.link) {
			running[t] = s.link.program.chain
		}
	}
	return running
}

// Left lists everything that is pinned, sorted.
func (k *Kernel) Left() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var left []string
	for t, s := range k.targets {
		if s.link != nil {
			left = append(left, fmt.Sprintf("%s link %s", t, s.link.program.chain))
		}
		for name := range s.maps {
			left = append(left, fmt.Sprintf("%s map %s", t, name))
		}
		for id := range s.counters {
			left = append(left, fmt.Sprintf("%s counters %s", t, id))
		}
	}
	for t, s := range k.targets {
		for name := range s.uses {
			left = append(left, fmt.Sprintf("%s uses map %s", t, name))
		}
		for path := range s.outside {
			left = append(left, fmt.Sprintf("%s pins %s", t, path))
		}
		for id := range s.aside {
			left = append(left, fmt.Sprintf("%s maps aside for %s", t, id))
		}
	}
	for path := range k.outside {
		left = append(left, "pin "+path)
	}
	for name := range k.shared {
		left = append(left, "map "+name)
	}
	slices.Sort(left)
	return left
}

// Entries tells how many entries a pinned map has.
func (k *Kernel) Entries(t host.Target, member, name string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.targets[t]; s != nil && s.maps[mapName(member, name)] != nil {
		return len(s.maps[mapName(member, name)].entries)
	}
	return 0
}
