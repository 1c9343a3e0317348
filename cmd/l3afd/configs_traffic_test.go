package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"l3af"
	"l3af/internal/testenv"
)

// ordered is what L3AF's API says of the order at v0, as "a b c".
func (u *upstream) ordered() string {
	u.Helper()
	var in struct {
		Programs struct {
			XDP []struct{ Name string } `json:"xdp_ingress"`
		} `json:"bpf_programs"`
	}
	u.get("/l3af/configs/v1/v0", &in)
	var list []string
	for _, p := range in.Programs.XDP {
		list = append(list, p.Name)
	}
	return strings.Join(list, " ")
}

// runs checks that the kernel runs these programs of v0, in this order.
func (u *upstream) runs(want string) {
	u.Helper()
	c := u.chain("v0", l3af.XDP)
	var list []string
	for _, p := range c.Programs {
		if p.State == "" {
			list = append(list, p.Name)
		}
	}
	if got := strings.Join(list, " "); got != want || c.State != l3af.Running {
		u.node.Errorf("%s runs %q, want %q: %s", c.State, got, want, c.Error)
	}
}

// Every change that upstream leaks, loses or loops packets on: none leaks a
// packet past the gate, none loses one, all programs go on counting.
func TestUpstreamTraffic(t *testing.T) {
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t)
	u.packCounting("1.0", "gate", "a", "b", "c", "d")
	u.packCounting("2.0", "gate", "a", "b", "c", "d")
	u.pack("slow", "1.0", "l3af_count.tar.gz", []string{"count.bpf.o"}, map[string]string{"start": "#!/bin/sh\nsleep 0.5\n"})
	u.start()
	u.killsLast()
	bad := newStream(t, "192.0.2.66", "192.0.2.1")
	goods := []*stream{newStream(t, "192.0.2.2", "192.0.2.1"), newStream(t, "192.0.2.2", "192.0.2.1"), newStream(t, "192.0.2.2", "192.0.2.1")}
	port := bad.in.LocalAddr().(*net.UDPAddr).Port
	args := func(ports ...int) []fields {
		list := []fields{}
		for _, p := range ports {
			list = append(list, fields{"key": p, "value": 1})
		}
		return []fields{{"name": "count_ports", "args": list}}
	}
	gate := func(seq int, more fields) fields {
		f := counting("gate", seq, fields{"map_args": args(port), "monitor_maps": []fields{{"name": "count_hits", "key": 0, "aggregator": "scalar"}}})
		for k, v := range more {
			f[k] = v
		}
		return f
	}
	p := func(name string, seq int) fields { return counting(name, seq, nil) }
	slow := func(args fields) fields { return counting("slow", 1, fields{"cmd_start": "start", "start_args": args}) }
	with := func(f fields, key string, v any) fields { f[key] = v; return f }
	for _, g := range goods {
		g.carries(10, true)
	}
	u.does("update", xdpList(gate(5, nil)))
	bad.carries(10, false)

	noRoom := dropped(t)
	began := time.Now()
	bad.flow(5)
	for _, g := range goods {
		g.flow(15)
	}
	var prior uint64
	counts := func(what string) {
		t.Helper()
		for _, p := range u.chain("v0", l3af.XDP).Programs {
			if p.Name == "gate" {
				if p.Packets < prior {
					t.Errorf("%s: the gate has counted %d, before %d", what, p.Packets, prior)
				}
				prior = p.Packets
			}
		}
	}
	for range rounds {
		for _, step := range []struct {
			what, verb, body, order string
			runs                    string // "" as order
		}{
			{"insert before", "add", xdpList(p("a", 1)), "a gate", ""},
			{"insert behind", "add", xdpList(p("c", 7)), "a gate c", ""},
			{"insert in the middle", "add", xdpList(p("b", 3)), "a b gate c", ""},
			{"delete the first", "delete", names("v0", "xdp_ingress", "a"), "b gate c", ""},
			{"delete in the middle", "delete", names("v0", "xdp_ingress", "b", "c"), "gate", ""},
			{"all at once", "update", xdpList(p("a", 1), p("b", 2), p("c", 3), gate(5, nil)), "a b c gate", ""},
			{"tail to front", "update", xdpList(p("a", 2), p("b", 3), p("c", 4), gate(1, nil)), "gate a b c", ""},
			{"head to tail", "update", xdpList(p("a", 2), p("b", 3), p("c", 4), gate(9, nil)), "a b c gate", ""},
			{"middle to middle", "update", xdpList(p("a", 1), p("b", 4), p("c", 3), gate(9, nil)), "a c b gate", ""},
			{"other versions", "update", xdpList(with(p("a", 1), "version", "2.0"), p("b", 4), p("c", 3), gate(9, fields{"version": "2.0"})), "a c b gate", ""},
			{"the old versions", "update", xdpList(p("a", 1), p("b", 4), p("c", 3), gate(9, nil)), "a c b gate", ""},
			{"disabled", "update", xdpList(p("a", 1), with(p("b", 4), "admin_status", "disabled"), p("c", 3), gate(9, nil)), "a c b gate", "a c gate"},
			{"enabled", "update", xdpList(p("a", 1), p("b", 4), p("c", 3), gate(9, nil)), "a c b gate", ""},
			{"more in a map", "update", xdpList(p("a", 1), p("b", 4), p("c", 3), gate(9, fields{"map_args": args(port, 9, 10)})), "a c b gate", ""},
			{"another entry", "update", xdpList(with(p("a", 1), "object_file", "./count.bpf.o"), p("b", 4), with(p("c", 3), "map_name", ""), gate(9, nil)), "a c b gate", ""},
			{"a slow agent", "add", xdpList(slow(nil)), "a slow c b gate", ""},
			{"its start_args", "update", xdpList(slow(fields{"x": "1"}), gate(9, nil)), "slow gate", ""},
			{"the gate alone", "update", xdpList(gate(9, nil)), "gate", ""},
		} {
			u.does(step.verb, step.body)
			if got := u.ordered(); got != step.order {
				t.Errorf("%s: order %q, want %q", step.what, got, step.order)
			}
			if step.runs == "" {
				step.runs = step.order
			}
			u.runs(step.runs)
			counts(step.what)
		}
		u.does("update", xdpList(p("a", 1), gate(2, nil), p("b", 3)))
		u.kill()
		u.start()
		u.settled()
		u.runs("a gate b")
		counts("kill")
		u.stop()
		u.start()
		u.settled()
		u.runs("a gate b")
		counts("stop")
		u.does("update", xdpList(gate(5, nil)))
	}
	u.does("update", xdpList(p("a", 1), gate(2, nil), p("b", 3)))
	for range rounds {
		pid := u.pid()
		if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		u.changes(pid)
		u.settled()
		u.runs("a gate b")
		counts("handover")
	}
	took := time.Since(began)
	bad.halt()
	sent := bad.sent.Load()
	for _, g := range goods {
		g.halt()
		sent += g.sent.Load()
	}
	t.Logf("%d packets in %v: %.0f a second", sent, took.Round(time.Millisecond), float64(sent)/took.Seconds())
	if got := bad.arrived(); got != 0 {
		t.Errorf("%d of %d packets leaked past the gate", got, bad.sent.Load())
	}
	lost := uint64(0)
	for _, g := range goods {
		lost += g.sent.Load() - g.arrived()
	}
	if noRoom = dropped(t) - noRoom; lost != noRoom {
		t.Errorf("%d packets lost, %d of them by the sending device", lost, noRoom)
	}
	u.does("update", `[{"host_name":"host","iface":"v0","bpf_programs":{"xdp_ingress":[]}}]`)
	u.endsLast()
}

// mapIDs are the kernel's ids of pinned maps.
func mapIDs(t *testing.T, pins ...string) []ebpf.MapID {
	t.Helper()
	var ids []ebpf.MapID
	for _, pin := range pins {
		m, err := ebpf.LoadPinnedMap(pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		ids = append(ids, id)
	}
	return ids
}

// What is refused changes nothing, and says why in upstream's words.
func TestUpstreamRefused(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t)
	u.packCounting("1.0", "a", "b")
	u.start()
	u.does("update", xdpList(counting("a", 1, nil)))
	was := u.settled()
	change := func(more fields) fields { return counting("b", 2, more) }
	for _, c := range []struct {
		verb, body string
		status     int
		says       string
	}{
		{"update", "", 400, "failed to unmarshal payload: unexpected end of JSON input"},
		{"update", "[]", 422, "the payload names no interface"},
		{"update", `[{"host_name":"host","iface":"v0","bpf_programs":{}}]`, 422, "no list of programs is there"},
		{"update", strings.Replace(xdpList(), `"host"`, `"other"`, 1), 422, "provided bpf programs do not belong to this host"},
		{"update", strings.Replace(xdpList(), "v0", "lo", 1), 422, "lo interface name not found in the host"},
		{"update", strings.Replace(xdpList(), "v0", "nope", 1), 404, "nope interface name not found in the host"},
		{"update", xdpList(change(fields{"version": "3.0"})), 404, "failed to download and start eBPF program b version 3.0 iface v0"},
		{"update", xdpList(change(fields{"version": "../a/1.0"})), 422, "cannot be one part of a path"},
		{"update", xdpList(change(fields{"object_file": "other.o"})), 404, "has no object"},
		{"update", xdpList(change(fields{"object_file": "README"})), 404, "has no object"},
		{"update", xdpList(change(fields{"object_file": ""})), 422, "object_file: is required: programs that their own userspace binary"},
		{"update", xdpList(change(fields{"entry_function_name": "_xdp_coun"})), 422, "xdp_ingress[0].entry_function_name: the object has no program"},
		{"update", xdpList(change(fields{"entry_function_name": "_tc_count"})), 422, "is a tc program, not xdp"},
		{"update", xdpList(change(fields{"map_name": "count_hits"})), 422, "count_hits"},
		{"update", xdpList(change(fields{"map_args": []fields{{"name": "count_prots", "args": []fields{}}}})), 422, "xdp_ingress[0].map_args.count_prots: "},
		{"update", xdpList(change(fields{"map_args": []fields{{"name": "count_ports", "args": []fields{{"key": 70000, "value": 1}}}}})), 422, "xdp_ingress[0].map_args.count_ports[0].key: "},
		{"update", xdpList(change(fields{"monitor_maps": []fields{{"name": "count_hits", "key": 9, "aggregator": "scalar"}}})), 422, "xdp_ingress[0].monitor_maps"},
		{"update", xdpList(change(fields{"monitor_maps": []fields{{"name": "count_hits", "key": 0, "aggregator": "sum"}}})), 422, "unknown aggregator"},
		{"add", xdpList(counting("a", 9, nil)), 409, `"a" is there already, and is another one`},
		{"add", xdpList(change(fields{"seq_id": "1"})), 400, "[0].bpf_programs.xdp_ingress[0].seq_id: must be a whole number"},
		{"delete", names("nope", "xdp_ingress", "a"), 404, "nope interface name not found in the host"},
	} {
		status, answer := u.call("POST", "/l3af/configs/v1/"+c.verb, c.body)
		if status != c.status || !strings.Contains(strings.ReplaceAll(answer, `\"`, `"`), c.says) {
			t.Errorf("%s %s: %d %s\nwant %d %q", c.verb, c.body, status, answer, c.status, c.says)
		}
	}
	// Who was refused is in the log.
	text, err := os.ReadFile(u.log.Name())
	if err != nil || !strings.Contains(string(text), `path=/l3af/configs/v1/update status=422 by="root (uid 0)"`) {
		t.Errorf("the log has nothing of it: %v", err)
	}
	now := u.settled()
	if now.Revision != was.Revision || now.Chains[0].ProgramID != was.Chains[0].ProgramID || u.ordered() != "a" {
		t.Errorf("something changed: %+v, was %+v", now, was)
	}
}

// The programs of a document and those of L3AF's API share a hook: neither
// disturbs the other.
func TestUpstreamBesideDocument(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t)
	u.packCounting("1.0", "a", "b")
	u.start()
	u.apply(strings.ReplaceAll(full, "  netns: rx\n", ""))
	u.does("add", xdpList(counting("a", 2, nil)))
	u.does("add", xdpList(counting("b", 1, nil)))
	u.runs("acl ratelimit stats b a")
	if got := u.ordered(); got != "b a" {
		t.Errorf("L3AF's programs are %q", got)
	}
	if status, answer := u.call("POST", "/l3af/configs/v1/delete", names("v0", "xdp_ingress", "acl")); status != 409 {
		t.Errorf("delete of the document's: %d %s", status, answer)
	}
	u.does("update", xdpList())
	u.runs("acl ratelimit stats")
	bad := newStream(t, "192.0.2.66", "192.0.2.1")
	bad.carries(10, false)
	// A document that leaves L3AF's programs out takes them away, as it says.
	u.does("add", xdpList(counting("a", 2, nil)))
	u.apply("apiVersion: l3af/v1")
	if got := u.ordered(); got != "" {
		t.Errorf("left: %q", got)
	}
}

// Both TC directions, probes of the host, and what a refused addition of one
// of them leaves.
func TestUpstreamDirections(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t)
	u.packCounting("1.0", "a", "b")
	u.pack("conns", "1.0", "l3af_conns.tar.gz", []string{"connection_limit.bpf.o"}, nil)
	u.start()
	tc := func(name string, seq int) fields {
		return counting(name, seq, fields{"entry_function_name": "_tc_count", "prog_type": "tc"})
	}
	probe := fields{"name": "conns", "artifact": "l3af_conns.tar.gz", "version": "1.0", "object_file": "connection_limit.bpf.o",
		"entry_function_name": "trace_inet_sock_set_state", "prog_type": "tracepoint", "admin_status": "enabled"}
	u.does("update", request(map[string][]fields{"tc_ingress": {tc("a", 1), tc("b", 2)}, "tc_egress": {tc("a", 1)}, "probes": {probe}}))
	st := u.settled()
	if len(st.Chains) != 2 || len(st.Probes) != 1 || st.Probes[0].State != l3af.Running {
		t.Fatalf("status %+v", st)
	}
	s := newStream(t, "192.0.2.2", "192.0.2.1")
	s.carries(20, true)
	if in := u.chain("v0", l3af.TCIngress); in.Programs[1].Packets < 20 {
		t.Errorf("b saw %d packets", in.Programs[1].Packets)
	}
	// Both directions of one package find their maps in one directory.
	if ids := mapIDs(t, filepath.Join(u.base(), "tc/globals/v0/a/1_0/count_hits"), filepath.Join(u.bpffs, "hooks/v0/tc-ingress/maps/a/count_hits"), filepath.Join(u.bpffs, "hooks/v0/tc-egress/maps/a/count_hits")); ids[0] != ids[1] || ids[0] != ids[2] {
		t.Errorf("the maps %v of one name are not one", ids)
	}
	if _, err := os.Stat("/lib/x86_64-linux-gnu/libc.so.6"); err == nil {
		exits := fields{"name": "exits", "artifact": "l3af_exits.tar.gz", "version": "1.0", "object_file": "exits.bpf.o", "entry_function_name": "exits",
			"prog_type": "uprobe", "monitor_maps": []fields{{"name": "exits_seen", "key": 0, "aggregator": "scalar"}}}
		u.pack("exits", "1.0", "l3af_exits.tar.gz", []string{"exits.bpf.o"}, nil)
		u.does("add", request(map[string][]fields{"probes": {exits}}))
		u.until("calls of libc are counted", func() error {
			// true(1) returns from main into exit(3); dash would call _exit(2).
			if err := exec.Command("true").Run(); err != nil {
				return err
			}
			_, metrics := u.call("GET", "/metrics", "")
			for line := range strings.Lines(metrics) {
				if rest, ok := strings.CutPrefix(line, `l3afd_BPFMonitorMap{ebpf_program="exits",host="host",interface_name="",ipv4_address="",map_name="exits_seen_0_scalar"} `); ok && strings.TrimSpace(rest) != "0" {
					return nil
				}
			}
			return errors.New("there are none")
		})
		u.does("delete", names("v0", "probes", "exits"))
	}
	// A probe is the host's: once, whoever names it.
	if status, answer := u.call("POST", "/l3af/configs/v1/add", request(map[string][]fields{"probes": {probe}})); status != 200 {
		t.Errorf("the same probe again: %d %s", status, answer)
	}
	if st := u.settled(); len(st.Probes) != 1 {
		t.Errorf("probes %+v", st.Probes)
	}
	u.does("delete", names("v0", "probes", "conns"))
	// Without an entry function the only probe of the object is meant.
	delete(probe, "entry_function_name")
	u.does("add", request(map[string][]fields{"probes": {probe}}))
	if st := u.settled(); len(st.Probes) != 1 || st.Probes[0].Attach != "tracepoint/sock/inet_sock_set_state" {
		t.Errorf("probes %+v", st.Probes)
	}
	none := fields{"name": "a", "artifact": "l3af_count.tar.gz", "version": "1.0", "object_file": "count.bpf.o", "prog_type": "tracepoint"}
	if status, answer := u.call("POST", "/l3af/configs/v1/add", request(map[string][]fields{"probes": {none}})); status != 422 || !strings.Contains(answer, "probes[0]") {
		t.Errorf("a probe of an object without any: %d %s", status, answer)
	}
	u.does("delete", names("v0", "probes", "conns"))
	u.does("delete", names("v0", "tc_ingress", "a", "b"))
	if st := u.settled(); len(st.Probes) != 0 || len(st.Chains) != 1 {
		t.Errorf("left: %+v", st)
	}
}

// The programs of an interface that is gone wait for it, are told, and can be
// deleted.
func TestUpstreamInterfaceGone(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t)
	u.packCounting("1.0", "a", "b")
	u.start()
	u.does("update", xdpList(counting("a", 1, nil), counting("b", 2, nil)))
	rename := func(from, to string) {
		t.Helper()
		testenv.In(t, "rx", func() {
			l, err := netlink.LinkByName(from)
			if err == nil {
				err = netlink.LinkSetName(l, to)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	running := func(want string) {
		t.Helper()
		u.until("the metric is "+want, func() error {
			_, metrics := u.call("GET", "/metrics", "")
			if !strings.Contains(metrics, `l3afd_BPFRunning{direction="xdpingress",ebpf_program="a",host="host",interface_name="v0",ipv4_address="192.0.2.1",version="1.0"} `+want+"\n") {
				return errors.New("it is not")
			}
			return nil
		})
	}
	running("1")
	rename("v0", "gone")
	running("0")
	if got := u.ordered(); got != "a b" {
		t.Errorf("GET gives %q", got)
	}
	u.does("delete", names("v0", "xdp_ingress", "b"))
	rename("gone", "v0")
	running("1")
	u.settled()
	u.runs("a")
	rename("v0", "gone")
	running("0")
	u.does("delete", names("v0", "xdp_ingress", "a"))
	if st := u.settled(); len(st.Chains) > 0 {
		t.Errorf("left: %+v", st.Chains)
	}
	if status, answer := u.call("POST", "/l3af/configs/v1/add", xdpList(counting("a", 1, nil))); status != 404 {
		t.Errorf("an interface that nobody has: %d %s", status, answer)
	}
	rename("gone", "v0")
}

// A new version keeps what the maps hold, in its own directory; a package that
// changes under its version comes with the next update, and not before.
func TestUpstreamVersions(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t)
	u.packCounting("1.0", "a", "b")
	u.packCounting("2.0.1", "a")
	u.start()
	u.does("update", xdpList(counting("a", 1, nil)))
	first := mapIDs(t, filepath.Join(u.base(), "v0/a/1_0/count_hits"))
	u.does("update", xdpList(counting("a", 1, fields{"version": "2.0.1"})))
	if now := mapIDs(t, filepath.Join(u.base(), "v0/a/2_0_1/count_hits")); now[0] != first[0] {
		t.Errorf("the new version has map %d, the old one had %d", now[0], first[0])
	}
	if _, err := os.Stat(filepath.Join(u.base(), "v0/a/1_0")); err == nil {
		t.Error("the old version's directory is left")
	}
	packages := func() string {
		t.Helper()
		r, err := u.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for ref, digest := range r.Packages {
			if strings.Contains(ref, "/a/") {
				return digest
			}
		}
		t.Fatalf("packages %v", r.Packages)
		return ""
	}
	was := packages()
	u.pack("a", "2.0.1", "l3af_count.tar.gz", []string{"count.bpf.o"}, map[string]string{"README": "another one"})
	u.does("add", xdpList(counting("b", 2, nil)))
	if now := packages(); now != was {
		t.Error("adding a program brought another package of a")
	}
	both := xdpList(counting("a", 1, fields{"version": "2.0.1"}), counting("b", 2, nil))
	u.does("update", both)
	if now := packages(); now == was {
		t.Error("the update did not look at the repository")
	}
	// Without its repository the host can still be changed.
	if err := os.RemoveAll(u.dir()); err != nil {
		t.Fatal(err)
	}
	u.does("delete", names("v0", "xdp_ingress", "b"))
	if status, answer := u.call("POST", "/l3af/configs/v1/update", both); status != 404 {
		t.Errorf("update without the repository: %d %s", status, answer)
	}
	u.runs("a")
	u.does("update", xdpList())
}
