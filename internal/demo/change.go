package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"l3af"
	"l3af/programs"
)

// The programs of the demo's chain.
const (
	acl       = "acl"
	ratelimit = "ratelimit"
	stats     = "stats"
)

// The limits of packets per second and burst.
const (
	slowRate, slowBurst = 500, 100
	fastRate, fastBurst = 1_000_000, 1_000_000
)

const (
	deniedPrefix4 = "203.0.113.0/24"
	deniedPrefix6 = "2001:db8:bad::/48"
)

// wanted is what the demo asks l3afd for.
type wanted struct {
	order       []string
	rate, burst int
	more        []string // denied prefixes besides the two
	stats       string   // the package of stats, when it is not the built-in one
}

func (w wanted) state(netns string) *l3af.State {
	chain := l3af.Chain{Interface: device, Netns: netns, Hook: l3af.XDP}
	for _, name := range w.order {
		p := l3af.Program{Name: name, Package: "builtin:" + name}
		switch name {
		case acl:
			p.Config = map[string]any{"default_verdict": "pass"}
			var deny []l3af.MapEntry
			for _, prefix := range append([]string{deniedPrefix4, deniedPrefix6}, w.more...) {
				deny = append(deny, l3af.MapEntry{Key: prefix, Value: json.Number("1")})
			}
			p.Maps = map[string][]l3af.MapEntry{"deny": deny}
		case ratelimit:
			p.Config = map[string]any{"rate": num(w.rate), "burst": num(w.burst)}
		case stats:
			if w.stats != "" {
				p.Package = w.stats
			}
		}
		chain.Programs = append(chain.Programs, p)
	}
	return &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{chain}}
}

func num(n int) json.Number { return json.Number(strconv.Itoa(n)) }

// apply makes l3afd run what is wanted, all of it.
func (s *show) apply(ctx context.Context, w wanted) (*l3af.Applied, error) {
	applied, err := s.client.Apply(ctx, w.state(s.m.Receiver), -1)
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	for _, f := range applied.Failed {
		return nil, fmt.Errorf("apply: %s: %s", f.Target, f.Error)
	}
	return applied, nil
}

// The changes, each of what is wanted now. Removing and inserting take turns.
var changes = []struct {
	name string
	make func(w *wanted, turn int, upgrade string)
}{
	{"reordered", func(w *wanted, _ int, _ string) {
		w.order = append(slices.Clone(w.order[1:]), w.order[0])
	}},
	{"limit changed", func(w *wanted, turn int, _ string) {
		w.rate = fastRate + turn
	}},
	{"program removed", func(w *wanted, _ int, _ string) {
		w.order = slices.DeleteFunc(slices.Clone(w.order), func(name string) bool { return name == stats })
	}},
	{"deny list changed", func(w *wanted, turn int, _ string) {
		w.more = []string{fmt.Sprintf("198.51.100.%d/32", 100+turn%100)}
	}},
	{"program inserted", func(w *wanted, turn int, _ string) {
		w.order = slices.Insert(slices.Clone(w.order), turn%(len(w.order)+1), stats)
	}},
	{"program upgraded", func(w *wanted, _ int, upgrade string) {
		if w.stats == "" {
			w.stats = upgrade
		} else {
			w.stats = ""
		}
	}},
}

// change changes the chain again and again under numbered traffic that every
// program lets through, and traffic that acl denies, and counts what came.
func (s *show) change(ctx context.Context, length time.Duration) error {
	upgrade, err := s.unpack(stats)
	if err != nil {
		return err
	}
	w := wanted{order: []string{acl, ratelimit, stats}, rate: fastRate, burst: fastBurst}
	if _, err := s.apply(ctx, w); err != nil {
		return err
	}
	flows := []*flow{
		{name: "allowed", from: steady4, to: to4, rate: 15_000},
		{name: "allowed", from: steady6, to: to6, rate: 5_000},
		{name: "denied", from: denied4, to: to4, rate: 1_000},
		{name: "denied", from: denied6, to: to6, rate: 1_000},
	}
	s.screen.say("Now the chain is changed again and again, under 20,000 numbered packets a second:")

	made := make([]int, len(changes))
	ids := map[string]bool{}
	var done atomic.Uint64 // changes
	changing, stop := context.WithCancel(ctx)
	defer stop()
	changed := make(chan error, 1)
	go func() {
		changed <- func() error {
			for turn := 0; changing.Err() == nil; turn++ {
				i := turn % len(changes)
				changes[i].make(&w, turn, upgrade)
				if _, err := s.apply(ctx, w); err != nil {
					return fmt.Errorf("change %d (%s): %w", turn+1, changes[i].name, err)
				}
				made[i]++
				done.Add(1)
				st, err := s.client.Status(ctx)
				if err != nil {
					return err
				}
				c, err := running(st)
				if err != nil {
					return err
				}
				ids[c.ID] = true
			}
			return nil
		}()
	}()
	every := 250 * time.Millisecond
	if !s.Terminal {
		every = length * 2 / 7
	}
	overflow, err := s.traffic(ctx, flows, length, every, func() error {
		sent, arrived, _, _ := tally(flows)
		s.screen.draw(fmt.Sprintf("  %s changes, %s packets sent, %s received", count(done.Load()), count(sent), count(min(sent, arrived))))
		return nil
	})
	stop()
	if cerr := <-changed; err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}

	sent, arrived, duplicated, leaked := tally(flows)
	total := done.Load()
	// Packets for which there was no room never saw the chain, or had passed it.
	lost := sent - arrived - min(overflow, sent-arrived)
	var kinds []string
	for i, n := range made {
		kinds = append(kinds, fmt.Sprintf("%d × %s", n, changes[i].name))
	}
	rows := [][]string{
		{"packets sent", count(sent)},
		{"received", count(arrived)},
		{"lost by the change", count(lost)},
		{"duplicated", count(duplicated)},
		{"denied, but let through", count(leaked)},
	}
	if overflow > 0 {
		rows = append(rows, []string{"dropped by full queues", count(overflow)})
	}
	s.screen.draw(columns(rows))
	if s.Terminal {
		s.screen.say("")
	}
	s.screen.say("%d changes, %d different chains: %s.", total, len(ids), strings.Join(kinds, ", "))
	switch {
	case lost > 0:
		return fmt.Errorf("%d packets were lost by the change", lost)
	case leaked > 0:
		return fmt.Errorf("%d packets that acl denies were let through", leaked)
	case duplicated > 0:
		return fmt.Errorf("%d packets came twice", duplicated)
	case sent == 0 || total == 0:
		return fmt.Errorf("nothing was shown: %d packets, %d changes", sent, total)
	}
	return nil
}

// tally adds the flows up; leaked is what came of the denied ones.
func tally(flows []*flow) (sent, arrived, duplicated, leaked uint64) {
	for _, f := range flows {
		s, a, d := f.counts()
		if f.name == "denied" {
			leaked += a
			continue
		}
		sent, arrived, duplicated = sent+s, arrived+a, duplicated+d
	}
	return sent, arrived, duplicated, leaked
}

// unpack writes a built-in package to the demo's folder, as another version.
func (s *show) unpack(name string) (string, error) {
	dir := filepath.Join(s.m.Dir, name)
	from, err := fs.Sub(programs.FS, name)
	if err == nil {
		err = os.CopyFS(dir, from)
	}
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	return dir, nil
}
