package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/testenv"
)

// What L3AF's root programs, its loader or its map writer fail on runs: sections
// tcx and xdp.frags, .bss, per-CPU maps, whole arrays, more than 33 programs; and
// what cannot be is refused.
func TestUpstreamObjects(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t, "-monitor-samples", "3")
	u.packCounting("1.0", "a")
	u.pack("seen", "1.0", "seen.tar.gz", []string{"sections.bpf.o"}, nil)
	u.start()
	seen := func(entry, kind string, more fields) fields {
		f := fields{"name": "seen", "seq_id": 2, "artifact": "seen.tar.gz", "version": "1.0", "object_file": "sections.bpf.o", "entry_function_name": entry, "prog_type": kind}
		for k, v := range more {
			f[k] = v
		}
		return f
	}
	monitors := func(name string) (list []fields) {
		for _, a := range []string{"scalar", "avg", "max-rate"} {
			list = append(list, fields{"name": name, "key": 0, "aggregator": a})
		}
		return list
	}
	xdp := seen("see_frags", "xdp", fields{"monitor_maps": monitors("seen_percpu")})
	in, out := seen("see_ingress", "tc", nil), seen("see_egress", "tc", nil)
	s := newStream(t, "192.0.2.2", "192.0.2.1")
	s.carries(10, true)
	u.does("update", request(map[string][]fields{"xdp_ingress": {counting("a", 1, nil), xdp}, "tc_ingress": {in}, "tc_egress": {out}}))
	u.settled()
	s.carries(20, true)
	for _, c := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
		for _, p := range u.chain("v0", c).Programs {
			if p.Packets < 20 {
				t.Errorf("%s: %s saw %d packets", c, p.Name, p.Packets)
			}
		}
	}
	u.until("what the CPUs counted is added up, and averaged", func() error {
		_, metrics := u.call("GET", "/metrics", "")
		for _, a := range []string{"scalar", "avg", "max-rate"} {
			var n float64
			for line := range strings.Lines(metrics) {
				if rest, ok := strings.CutPrefix(line, `l3afd_BPFMonitorMap{ebpf_program="seen",host="host",interface_name="v0",ipv4_address="192.0.2.1",map_name="seen_percpu_0_`+a+`"} `); ok {
					fmt.Sscan(rest, &n)
				}
			}
			if n == 0 || a == "scalar" && n < 20 {
				return fmt.Errorf("%s is %f", a, n)
			}
		}
		return nil
	})

	was := u.settled()
	wide := func(key string, v any) string { return xdpList(seen("see_frags", "xdp", fields{key: v})) }
	for body, says := range map[string]string{
		wide("monitor_maps", monitors("seen_wide")[:1]):                                                                           "monitor_maps[0].map: \"seen_wide\" has values of 24 bytes",
		wide("map_args", []fields{{"name": "seen_wide", "args": []fields{{"key": 0, "value": 1}}}}):                               "map_args.seen_wide[0].value: ",
		xdpList(counting("a", 1, fields{"map_args": []fields{{"name": "count_hits", "args": []fields{{"key": 4, "value": 1}}}}})): "index 4 is out of range: 0 to 3",
	} {
		if status, answer := u.call("POST", "/l3af/configs/v1/update", body); status != 422 || !strings.Contains(strings.ReplaceAll(answer, `\"`, `"`), says) {
			t.Errorf("%s: %d %s, want %q", body, status, answer, says)
		}
	}
	if now := u.settled(); now.Revision != was.Revision {
		t.Errorf("something changed: %+v", now)
	}

	u.does("update", xdpList(counting("a", 1, fields{"map_args": []fields{{"name": "count_hits", "args": []fields{{"key": 2, "value": 9}}}}})))
	m, err := ebpf.LoadPinnedMap(filepath.Join(u.base(), "v0/a/1_0/count_hits"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i, want := range []uint64{0, 0, 9, 0} {
		var n uint64
		if err := m.Lookup(uint32(i), &n); err != nil || i > 0 && n != want {
			t.Errorf("entry %d is %d, %v, want %d", i, n, err, want)
		}
	}

	var many []fields
	for i := range 40 {
		name := fmt.Sprintf("p%d", i)
		u.packCounting("1.0", name)
		many = append(many, counting(name, i, nil))
	}
	u.does("update", xdpList(many...))
	s.carries(20, true)
	for _, p := range u.chain("v0", l3af.XDP).Programs {
		if p.Packets < 20 {
			t.Errorf("%s saw %d packets", p.Name, p.Packets)
		}
	}
	u.does("update", xdpList())
}

// Every field that says what runs takes effect when it changes, and a wrong one
// leaves what there was.
func TestUpstreamFields(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t)
	other := newRepo(t)
	agents := map[string]string{"one": "#!/bin/sh\nexec sleep 1001\n", "two": "#!/bin/sh\nexec sleep 1002\n", "fails": "#!/bin/sh\necho it may not be >&2\nexit 4\n",
		"told": "#!/bin/sh\necho \"$@\" > " + filepath.Join(u.node.dir, "told") + "\n"}
	for _, file := range []string{"l3af_count.tar.gz", "l3af_other.tar.gz"} {
		u.pack("p", "1.0", file, []string{"count.bpf.o", "sections.bpf.o"}, agents)
	}
	other.pack("p", "1.0", "l3af_count.tar.gz", []string{"count.bpf.o"}, map[string]string{"one": "#!/bin/sh\nexec sleep 1004\n"})
	u.start()
	now := fields{"cmd_start": "one", "user_program_daemon": true, "update_args": fields{"n": "1"}}
	change := func(key string, v any) string {
		next := fields{}
		for k, have := range now {
			next[k] = have
		}
		next[key] = v
		return xdpList(counting("p", 1, next))
	}
	state := func() (l3af.Program, l3af.ProgramStatus) {
		t.Helper()
		r, err := u.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r.State.Chains[0].Programs[0], u.chain("v0", l3af.XDP).Programs[0]
	}
	command := func(pid int) string {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return strings.TrimRight(strings.ReplaceAll(string(text), "\x00", " "), " ")
	}
	limit := func(pid int, name string) string {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, name); ok {
				return strings.Fields(rest)[0]
			}
		}
		return ""
	}
	u.does("update", xdpList(counting("p", 1, now)))
	for _, c := range []struct {
		key  string
		v    any
		want string
		is   func(l3af.Program, l3af.ProgramStatus) string
	}{
		{"artifact", "l3af_other.tar.gz", "l3af_other.tar.gz", func(p l3af.Program, _ l3af.ProgramStatus) string { return filepath.Base(p.Package) }},
		{"cmd_start", "two", "sleep 1002", func(_ l3af.Program, s l3af.ProgramStatus) string { return command(s.Agent.PID) }},
		{"cpu", 77, "77", func(_ l3af.Program, s l3af.ProgramStatus) string { return limit(s.Agent.PID, "Max cpu time") }},
		{"memory", 60_000_000, "60000000", func(_ l3af.Program, s l3af.ProgramStatus) string { return limit(s.Agent.PID, "Max address space") }},
		{"map_name", "", "", func(p l3af.Program, _ l3af.ProgramStatus) string { return p.Next }},
		{"object_file", "sections.bpf.o", "", nil}, // has no such entry
		{"entry_function_name", "see_frags", "", nil},
		{"cmd_update", "fails", "", nil},
		{"ebpf_package_repo_url", other.url(), "", nil}, // has no two
		{"cmd_start", "one", "sleep 1001", func(_ l3af.Program, s l3af.ProgramStatus) string { return command(s.Agent.PID) }},
		{"artifact", "l3af_count.tar.gz", "l3af_count.tar.gz", func(p l3af.Program, _ l3af.ProgramStatus) string { return filepath.Base(p.Package) }},
		{"ebpf_package_repo_url", other.url(), "sleep 1004", func(_ l3af.Program, s l3af.ProgramStatus) string { return command(s.Agent.PID) }},
	} {
		before, _ := state()
		body := change(c.key, c.v)
		if c.is == nil {
			if status, answer := u.call("POST", "/l3af/configs/v1/update", body); status != 422 && status != 404 {
				t.Errorf("%s %v: %d %s", c.key, c.v, status, answer)
			}
			if after, s := state(); !reflect.DeepEqual(after, before) || s.Agent == nil || s.Agent.State != l3af.Running {
				t.Errorf("%s %v: there is %+v, was %+v", c.key, c.v, after, before)
			}
			continue
		}
		u.does("update", body)
		now[c.key] = c.v
		u.until(c.key, func() error {
			p, s := state()
			if s.Agent == nil {
				return fmt.Errorf("no agent: %+v", s)
			}
			if got := c.is(p, s); got != c.want {
				return fmt.Errorf("it is %q, want %q", got, c.want)
			}
			return nil
		})
	}
	// An update needs nothing that was started.
	u.does("update", xdpList(counting("p", 1, fields{"cmd_update": "told", "update_args": fields{"n": "7"}})))
	if text, err := os.ReadFile(filepath.Join(u.node.dir, "told")); err != nil || string(text) != "--iface=v0 --direction=xdpingress --cmd=update --version=1_0 --n=7\n" {
		t.Errorf("told %q, %v", text, err)
	}
	u.does("update", xdpList())
}
