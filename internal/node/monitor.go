package node

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"l3af"
	"l3af/internal/bind"
	"l3af/internal/host"
)

// defaultSamples is how many samples max-rate and avg look back.
const defaultSamples = 20

// sampled is one entry of one target.
type sampled struct {
	target host.Target
	member string
	name   string // of the map
	key    string // in the kernel's layout
}

func sampledOf(t host.Target, m *bind.Monitor) sampled {
	return sampled{t, m.Member, m.Map, string(m.Key)}
}

// series are the last samples of an entry, oldest first.
type series []sample

type sample struct {
	at    time.Time
	value float64
}

// of gives the number that an aggregator makes of the samples; false where
// there are too few.
func (s series) of(a l3af.Aggregator) (float64, bool) {
	if len(s) == 0 {
		return 0, false
	}
	switch a {
	case l3af.MaxRate:
		most := 0.0
		for i := 1; i < len(s); i++ {
			if seconds := s[i].at.Sub(s[i-1].at).Seconds(); seconds > 0 {
				most = max(most, math.Abs(s[i].value-s[i-1].value)/seconds)
			}
		}
		return most, true
	case l3af.Average:
		sum := 0.0
		for _, one := range s {
			sum += one.value
		}
		return sum / float64(len(s)), true
	}
	return s[len(s)-1].value, true
}

// monitors samples the entries that the document watches.
type monitors struct {
	keep int // samples of each entry

	mu      sync.Mutex
	watched map[host.Target]*made
	series  map[sampled]series
}

// watch replaces what is sampled. Entries that stay keep their samples.
func (w *monitors) watch(all map[host.Target]*made) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watched = all
	known := map[sampled]bool{}
	for t, m := range all {
		for i := range m.monitors {
			known[sampledOf(t, &m.monitors[i])] = true
		}
	}
	for s := range w.series {
		if !known[s] {
			delete(w.series, s)
		}
	}
}

// run samples once a second until ctx ends.
func (w *monitors) run(ctx context.Context, n *Node) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			w.sample(n, now)
		}
	}
}

// sample looks at every entry once. One that is not there for the moment has
// no sample.
func (w *monitors) sample(n *Node, now time.Time) {
	w.mu.Lock()
	watched := w.watched
	w.mu.Unlock()
	for t, m := range watched {
		keys := make([]host.MapKey, len(m.monitors))
		for i := range m.monitors {
			keys[i] = m.monitors[i].MapKey
		}
		values, err := n.kernel.Read(t, m.light, keys)
		if err != nil {
			n.log.Debug("read monitored entries", "target", t.String(), "error", err)
			continue
		}
		w.mu.Lock()
		done := map[sampled]bool{} // one entry may be watched in several ways
		for i := range m.monitors {
			at := sampledOf(t, &m.monitors[i])
			if values[i] == nil || done[at] || w.watched[t] == nil {
				continue
			}
			done[at] = true
			s := append(w.series[at], sample{now, m.monitors[i].Number(values[i])})
			w.series[at] = slices.Delete(s, 0, max(0, len(s)-w.keep))
		}
		w.mu.Unlock()
	}
}

// status is what a program of a target is told to have; nil where its document
// watches nothing.
func (w *monitors) status(t host.Target, m *made, member string) (list []l3af.MonitorStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range m.monitors {
		one := &m.monitors[i]
		if one.Member != member {
			continue
		}
		if value, ok := w.series[sampledOf(t, one)].of(one.Aggregator); ok {
			list = append(list, l3af.MonitorStatus{Map: one.Map, Key: one.Text, Aggregator: one.Aggregator, Value: value})
		}
	}
	return list
}
