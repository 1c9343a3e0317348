package bind

import (
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/testenv"
	"l3af/internal/value"
)

// What people write into maps of every type is what the kernel gives back.
func TestContentsInKernel(t *testing.T) {
	testenv.Clean(t)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	cpus := ebpf.MustPossibleCPU()
	var each []string
	for i := range cpus {
		each = append(each, fmt.Sprintf(`{"rate": %d, "burst": 7}`, i))
	}
	perCPU := "[" + strings.Join(each, ", ") + "]"
	same := strings.TrimSuffix(strings.Repeat(`5, `, cpus), ", ")
	for _, r := range []struct {
		name    string
		entries string // as people write them
		want    string // as Decode gives them; per-CPU values are lists
	}{
		{"hash", `[{"key": {"addr": "2001:db8::1", "port": 443}, "value": {"rate": 5, "burst": "0x10"}}]`,
			`[{"key": {"addr": "2001:db8::1", "port": 443, "pad": 0}, "value": {"rate": 5, "burst": 16}}]`},
		{"lru", `[{"key": 1, "value": 18446744073709551615}]`, ``},
		{"array", `[{"key": 2, "value": {"rate": 5}}]`,
			`[{"key": 0, "value": {"rate": 0, "burst": 0}}, {"key": 1, "value": {"rate": 0, "burst": 0}}, {"key": 2, "value": {"rate": 5, "burst": 0}}, {"key": 3, "value": {"rate": 0, "burst": 0}}]`},
		{"by_verdict", `[{"key": "drop", "value": 9}, {"key": "VERDICT_PASS", "value": 8}]`,
			`[{"key": "VERDICT_PASS", "value": 8}, {"key": "VERDICT_DROP", "value": 9}]`},
		{"percpu", `[{"key": 0, "value": ` + perCPU + `}, {"key": 1, "value": {"rate": 3}}]`,
			`[{"key": 0, "value": ` + perCPU + `}, {"key": 1, "value": [` + strings.TrimSuffix(strings.Repeat(`{"rate": 3, "burst": 0}, `, cpus), ", ") + `]}]`},
		{"percpu_list", `[{"key": 4, "value": [1, 2, 3]}]`, `[{"key": 4, "value": [` + strings.TrimSuffix(strings.Repeat(`"0x010203", `, cpus), ", ") + `]}]`},
		{"percpu_hash", `[{"key": 4, "value": 5}]`, `[{"key": 4, "value": [` + same + `]}]`},
		{"percpu_lru", `[{"key": 4, "value": [` + same + `]}]`, ``},
		{"deny4", `[{"key": "10.0.0.0/8", "value": true}, {"key": "192.0.2.1", "value": true}]`,
			`[{"key": "10.0.0.0/8", "value": true}, {"key": "192.0.2.1/32", "value": true}]`},
		{"deny", `[{"key": "0.0.0.0/0", "value": 1}, {"key": "2001:db8::/32", "value": 2}, {"key": "10.0.0.0/8", "value": 3}]`, ``},
		{"ports", fmt.Sprintf(`[{"key": 3, "value": %d}]`, lo.Index), ``},
		{"ports_hash", fmt.Sprintf(`[{"key": 300, "value": {"ifindex": %d}}]`, lo.Index), ``},
		{"cpus", `[{"key": 0, "value": 192}]`, ``},
		{"blind", `[{"key": "10.0.0.1", "value": -1}]`, `[{"key": 16777226, "value": 18446744073709551615}]`},
		{"blind_deny", `[{"key": "10.0.0.0/8", "value": 1}]`, ``},
	} {
		t.Run(r.name, func(t *testing.T) {
			p := l3af.Program{Name: "one"}
			decode(t, fmt.Sprintf(`{"maps": {%q: %s}}`, r.name, r.entries), &p)
			b, mistakes := Program(bare(t, "all.bpf.o"), l3af.XDP, p, at)
			if mistakes != nil {
				t.Fatal(lines(mistakes))
			}
			if len(b.Contents) != 1 || !b.Contents[0].Full || b.Contents[0].Map != r.name || b.Contents[0].Member != "one" {
				t.Fatalf("contents = %+v", b.Contents)
			}
			spec := b.Member.Spec.Maps[r.name]
			m, err := ebpf.NewMap(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			for _, e := range b.Contents[0].Entries {
				if err := put(m, e, cpus); err != nil {
					t.Fatalf("put %x: %v", e.Key, err)
				}
			}
			got := dump(t, m, spec)
			for _, e := range b.Contents[0].Entries {
				want := e.Values
				if perCPUType(spec.Type) && len(want) == 1 {
					for len(want) < cpus {
						want = append(want, want[0])
					}
				}
				// A program's id follows what people set; there is none.
				if have := got[string(e.Key)]; !reflect.DeepEqual(have, want) {
					t.Errorf("key %x: the kernel has %x, want %x", e.Key, have, want)
				}
			}
			if r.want == "" {
				return
			}
			var want []l3af.MapEntry
			decode(t, r.want, &want)
			if len(got) != len(want) {
				t.Errorf("the kernel has %d entries, want %d", len(got), len(want))
			}
			for key, values := range got {
				entry := l3af.MapEntry{Key: readable(t, spec, true, []byte(key))}
				var list []any
				for _, v := range values {
					list = append(list, readable(t, spec, false, v))
				}
				if entry.Value = any(list); !perCPUType(spec.Type) {
					entry.Value = list[0]
				}
				found := false
				for _, w := range want {
					found = found || reflect.DeepEqual(entry, w)
				}
				if !found {
					t.Errorf("the kernel has %v, not in %v", entry, want)
				}
			}
		})
	}
}

func perCPUType(t ebpf.MapType) bool {
	return t == ebpf.PerCPUArray || t == ebpf.PerCPUHash || t == ebpf.LRUCPUHash
}

func put(m *ebpf.Map, e host.Entry, cpus int) error {
	if !perCPUType(m.Type()) {
		return m.Put(e.Key, e.Values[0])
	}
	values := e.Values
	for len(values) < cpus {
		values = append(values, e.Values[0])
	}
	return m.Put(e.Key, values)
}

// dump reads all entries, values as they are on each CPU.
func dump(t *testing.T, m *ebpf.Map, spec *ebpf.MapSpec) map[string][][]byte {
	t.Helper()
	out := map[string][][]byte{}
	var key []byte
	it := m.Iterate()
	if perCPUType(m.Type()) {
		var values [][]byte
		for it.Next(&key, &values) {
			out[string(key)] = values
			values = nil
		}
	} else {
		var v []byte
		for it.Next(&key, &v) {
			out[string(key)] = [][]byte{append([]byte(nil), v...)}
		}
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func readable(t *testing.T, spec *ebpf.MapSpec, key bool, b []byte) any {
	t.Helper()
	o, typ := value.Options{}, spec.Value
	if key {
		o.LPM, typ = spec.Type == ebpf.LPMTrie, spec.Key
	}
	if typ == nil {
		return value.DecodeBytes(b, o)
	}
	v, err := value.Decode(typ, b, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
