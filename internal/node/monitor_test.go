package node

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"l3af"
)

// Monitored entries are there before the program joins the chain, and their
// values are told: the last one, the largest change in a second, the average.
func TestMonitor(t *testing.T) {
	r := newRig(t)
	defer func() { r.n.Close() }()
	r.n.monitors.keep = 4
	hook := HookOf("xdp/v0")
	state := func(monitor ...l3af.Monitor) *l3af.State {
		return &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{
			{Name: "a", Package: testObject(t, "tiny.bpf.o"), Entry: "tiny", Settings: l3af.Settings{Monitor: monitor,
				Maps: map[string][]l3af.MapEntry{"table": {{Key: json.Number("9"), Value: json.Number("5")}}}}}}}}}
	}
	r.each = func() {
		if r.k.Running()[hook] != "" && r.k.Entries(hook, "a", "table") != 4 {
			t.Errorf("the entries are not there at %q", r.seen[len(r.seen)-1])
		}
	}
	watched := []l3af.Monitor{{Map: "table", Key: "0-2"}, {Map: "table", Key: json.Number("2"), Aggregator: l3af.MaxRate},
		{Map: "table", Key: json.Number("2"), Aggregator: l3af.Average}}
	r.apply(state(watched...))
	told := func() string {
		var list []string
		for _, m := range r.status().Chains[0].Programs[0].Monitor {
			list = append(list, fmt.Sprintf("%s %s %s %g", m.Map, m.Key, m.Aggregator, m.Value))
		}
		return strings.Join(list, ", ")
	}
	if got := told(); got != "" {
		t.Errorf("before the first look: %s", got)
	}
	now := time.Unix(1000, 0)
	look := func(value uint64, after time.Duration) {
		r.k.SetEntry(hook, "a", "table", binary.NativeEndian.AppendUint32(nil, 2), binary.NativeEndian.AppendUint64(nil, value))
		now = now.Add(after)
		r.n.monitors.sample(r.n, now)
	}
	for _, test := range []struct {
		value uint64
		after time.Duration
		want  string
	}{
		{0, time.Second, "table 0 scalar 0, table 1 scalar 0, table 2 scalar 0, table 2 max-rate 0, table 2 avg 0"},
		{10, time.Second, "table 0 scalar 0, table 1 scalar 0, table 2 scalar 10, table 2 max-rate 10, table 2 avg 5"},
		{50, 2 * time.Second, "table 0 scalar 0, table 1 scalar 0, table 2 scalar 50, table 2 max-rate 20, table 2 avg 20"},
		{20, time.Second, "table 0 scalar 0, table 1 scalar 0, table 2 scalar 20, table 2 max-rate 30, table 2 avg 20"},
		{20, time.Second, "table 0 scalar 0, table 1 scalar 0, table 2 scalar 20, table 2 max-rate 30, table 2 avg 25"},
		{20, time.Second, "table 0 scalar 0, table 1 scalar 0, table 2 scalar 20, table 2 max-rate 30, table 2 avg 27.5"},
		{20, time.Second, "table 0 scalar 0, table 1 scalar 0, table 2 scalar 20, table 2 max-rate 0, table 2 avg 20"},
	} {
		look(test.value, test.after)
		if got := told(); got != test.want {
			t.Errorf("after %d: %s, want %s", test.value, got, test.want)
		}
	}
	// Contents that the document gives do not take the entries away.
	if steps := r.reconcile(); len(steps) > 0 {
		t.Errorf("not at rest: %+v", steps)
	}
	r.each = nil
	r.apply(state(watched[2]))
	if got := told(); got != "table 2 avg 20" {
		t.Errorf("watching less: %s", got)
	}
	r.k.DeleteInterface("", "v0")
	r.reconcile()
	r.n.monitors.sample(r.n, now)
	if len(r.n.monitors.series) > 0 || r.status().Chains[0].Programs[0].Monitor != nil {
		t.Errorf("an interface that is gone has %v", r.n.monitors.series)
	}
}
