package bind

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"l3af"
)

// Keys of monitored entries are typed as those of contents; ranges and lists
// of integer keys are taken apart.
func TestMonitors(t *testing.T) {
	pkg := bare(t, "all.bpf.o")
	for _, r := range []struct{ monitor, want string }{
		{`[{"map": "by_verdict", "key": 1}]`, "by_verdict 1 scalar 01000000"},
		{`[{"map": "by_verdict", "key": "VERDICT_DROP", "aggregator": "avg"}]`, "by_verdict VERDICT_DROP avg 01000000"},
		{`[{"map": "lru", "key": "0-2", "aggregator": "max-rate"}]`,
			"lru 0 max-rate 00000000\nlru 1 max-rate 01000000\nlru 2 max-rate 02000000\npresent lru 3"},
		{`[{"map": "lru", "key": [7, "0x10", " 1 - 2 "]}]`,
			"lru 7 scalar 07000000\nlru 0x10 scalar 10000000\nlru 1 scalar 01000000\nlru 2 scalar 02000000\npresent lru 4"},
		{`[{"map": "percpu_hash", "key": 5}, {"map": "percpu_hash", "key": 5, "aggregator": "avg"}]`,
			"percpu_hash 5 scalar 05000000\npercpu_hash 5 avg 05000000\npresent percpu_hash 1"},
		{`[{"map": "deny4", "key": "10.0.0.0/8"}]`, "deny4 10.0.0.0/8 scalar 080000000a000000\npresent deny4 1"},
		{`[{"map": "blind", "key": "0x01020304"}]`, fmt.Sprintf("blind 0x01020304 scalar %x\npresent blind 1", native(uint32(0x01020304)))},
		{`[{"map": "blind", "key": "6-7"}]`, "blind 6 scalar 06000000\nblind 7 scalar 07000000\npresent blind 2"},
		{`[{"map": "blind", "key": [1, 2, 3, 4]}]`, "blind [1,2,3,4] scalar 01020304\npresent blind 1"},
		{`[{"map": "lru", "key": "0-9"}]`, `monitor[0].key: the entry does not fit: the map "lru" holds 8 (max_entries)`},
		{`[{"map": "percpu_hash", "key": "0-3"}]`, "percpu_hash 0 scalar 00000000\npercpu_hash 1 scalar 01000000\npercpu_hash 2 scalar 02000000\npercpu_hash 3 scalar 03000000\npresent percpu_hash 4"},
		{`[{"map": "lru", "key": "2-2"}, {"map": "lru", "key": 2}]`, `monitor[1].key: 2 of scalar is there already`},
		{`[{"map": "lru", "key": "5-2"}]`, `monitor[0].key: the range "5-2" ends before it begins (write 2-5)`},
		{`[{"map": "lru", "key": "0-1024"}]`, `monitor[0].key: the range "0-1024" is too large: a program can have 1024 monitored entries`},
		{`[{"map": "lru", "key": ["0-1000", "2000-2024"]}]`, `monitor[0].key[1]: the range "2000-2024" is too large: a program can have 1024 monitored entries`},
		{`[{"map": "lru", "key": "99999999999999999999-99999999999999999999"}]`, `monitor[0].key: 99999999999999999999 is out of range: 0 to 4294967295`},
		{`[{"map": "by_verdict", "key": [0, "1-3"]}]`, "monitor[0].key: index 2 is out of range: 0 to 1\nmonitor[0].key: index 3 is out of range: 0 to 1"},
		{`[{"map": "lru", "key": -1}]`, `monitor[0].key: -1 is out of range: 0 to 4294967295`},
		{`[{"map": "deny4", "key": "1-2"}]`, `monitor[0].key: `},
		{`[{"map": "array", "key": 0}, {"map": "percpu", "key": 0}]`, ""}, // struct limit is 8 bytes
		{`[{"map": "lruu", "key": 0}]`, `monitor[0].map: package all has no map "lruu" (did you mean "lru"?)`},
		{`[{"map": ".bss", "key": 0}]`, `monitor[0].map: package all has no map ".bss"`},
		{`[{"map": "huge", "key": 0}]`, `monitor[0].map: "huge" has values of 1073741824 bytes: only those of 1 to 8 are numbers`},
		{`[{"map": "events", "key": 0}]`, `monitor[0].map: "events" is a map of type RingBuf, whose entries are no numbers`},
		{`[{"map": "readonly", "key": 0}]`, `monitor[0].map: "readonly" is a map that only programs write (BPF_F_RDONLY)`},
		{`[{"map": "not_used", "key": 0}]`, `monitor[0].map: program "all" does not use the map "not_used"`},
	} {
		p := l3af.Program{Name: "one"}
		decode(t, `{"monitor": `+r.monitor+`}`, &p)
		b, mistakes := Program(pkg, l3af.XDP, p, at)
		if len(mistakes) > 0 {
			if got := lines(mistakes); b != nil || !strings.Contains(strings.ReplaceAll(got, at+".", ""), r.want) || r.want == "" {
				t.Errorf("%s:\ngot  %s\nwant %s", r.monitor, got, r.want)
			}
			continue
		}
		var got []string
		for _, m := range b.Monitors {
			got = append(got, fmt.Sprintf("%s %s %s %x", m.Map, m.Text, m.Aggregator, m.Key))
		}
		for _, c := range b.Contents {
			if c.Full || len(c.Patches) > 0 {
				t.Errorf("%s: %+v", r.monitor, c)
			}
			got = append(got, fmt.Sprintf("present %s %d", c.Map, len(c.Present)))
		}
		if text := strings.Join(got, "\n"); text != r.want && r.want != "" {
			t.Errorf("%s:\ngot  %s\nwant %s", r.monitor, text, r.want)
		}
	}
	p := l3af.Program{Name: "one"}
	decode(t, `{"maps": {"lru": [{"key": 1, "value": 2}]}, "monitor": [{"map": "lru", "key": "1-2"}]}`, &p)
	b, mistakes := Program(pkg, l3af.XDP, p, at)
	if len(mistakes) > 0 || len(b.Contents) != 1 || !b.Contents[0].Full || len(b.Contents[0].Present) != 2 {
		t.Errorf("contents and monitor of one map: %+v, %v", b, mistakes)
	}
}

// Values are integers of up to 8 bytes; those of all CPUs are added up.
func TestMonitorNumber(t *testing.T) {
	for _, r := range []struct {
		m      Monitor
		values [][]byte
		want   float64
	}{
		{Monitor{}, [][]byte{{255}}, 255},
		{Monitor{Signed: true}, [][]byte{{255}}, -1},
		{Monitor{}, [][]byte{native(uint16(258))}, 258},
		{Monitor{Network: true}, [][]byte{{1, 2}}, 258},
		{Monitor{Network: true, Signed: true}, [][]byte{{0xff, 0xfe}}, -2},
		{Monitor{}, [][]byte{native(^uint64(0))}, 1<<64 - 1},
		{Monitor{Signed: true}, [][]byte{native(int64(-1 << 63))}, -1 << 63},
		{Monitor{}, [][]byte{native(^uint64(0)), native(^uint64(0))}, 1<<65 - 2},
		{Monitor{Signed: true}, [][]byte{native(int32(-3)), native(int32(10)), native(int32(0))}, 7},
		{Monitor{}, [][]byte{{1, 0, 0}}, 1},
	} {
		before := fmt.Sprint(r.values)
		if got := r.m.Number(r.values); got != r.want && !(bigEndian && len(r.values[0]) == 3) {
			t.Errorf("%+v of %v is %v, want %v", r.m, r.values, got, r.want)
		}
		if fmt.Sprint(r.values) != before {
			t.Errorf("%s became %v", before, r.values)
		}
	}
}

func native(v any) []byte {
	b, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}

// Whatever a range says, it names no more keys than it may, each once.
func FuzzMonitorKey(f *testing.F) {
	pkg := bare(f, "all.bpf.o")
	for _, s := range []string{"0-3", "3-0", "7", "-1", "0-99999999999999999999", " 1 - 2 ", "0x1-0x2", "--"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		p := l3af.Program{Name: "one", Settings: l3af.Settings{Monitor: []l3af.Monitor{{Map: "percpu_lru", Key: key}}}}
		b, mistakes := Program(pkg, l3af.XDP, p, at)
		if (b == nil) != (len(mistakes) > 0) {
			t.Fatalf("%q: %v, %v", key, b, mistakes)
		}
		if b == nil {
			return
		}
		seen := map[string]bool{}
		for _, m := range b.Monitors {
			if seen[string(m.Key)] || len(m.Key) != 4 {
				t.Errorf("%q: key %x", key, m.Key)
			}
			seen[string(m.Key)] = true
		}
		if len(seen) == 0 || len(seen) > 64 {
			t.Errorf("%q: %d keys", key, len(seen))
		}
	})
}
