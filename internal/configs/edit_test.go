package configs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/bind"
)

// testHost has the interfaces eth0, eth1, enp0s3 and lo, and every package but none.
func testHost() *Host {
	return &Host{
		Name: "host", Repo: "file:///repo", Codename: "bookworm", PinBase: "/sys/fs/bpf", LogDir: "/var/log/l3af",
		Interfaces: func() (map[string]bool, error) {
			return map[string]bool{"lo": true, "eth0": false, "eth1": false, "enp0s3": false}, nil
		},
		Look: func(_ context.Context, ref, object string, _ bool) ([]bind.Entry, error) {
			switch {
			case strings.Contains(ref, "/none/"):
				return nil, fmt.Errorf("open package %s: %w", ref, fs.ErrNotExist)
			case strings.Contains(ref, "/away/"):
				return nil, errors.New("connection refused")
			case object == "connection_limit.bpf.o":
				return []bind.Entry{{Name: "_xdp_limit_conn"}, {Name: "trace_inet_sock_set_state", Event: "tracepoint/sock/inet_sock_set_state"}}, nil
			}
			return []bind.Entry{{Name: "prog"}}, nil
		},
	}
}

func prog(name string, seq int) Program {
	return Program{Name: name, SeqID: seq, Artifact: name + ".tar.gz", Version: "1.0", ObjectFile: "o.bpf.o", EntryFunctionName: "prog", AdminStatus: "enabled"}
}

// progs makes programs of "a1 b2": names of one letter and their seq_ids.
func progs(list string) []Program {
	all := []Program{}
	for _, w := range strings.Fields(list) {
		all = append(all, prog(w[:1], int(w[1]-'0')))
	}
	return all
}

func xdp(iface, list string) Interface {
	return Interface{HostName: "host", Iface: iface, Programs: &Programs{XDPIngress: progs(list)}}
}

// listed tells a state as "xdp/eth0:a,b probes:p", without companions.
func listed(s *l3af.State) string {
	var all []string
	for _, c := range s.Chains {
		var names []string
		for _, p := range c.Programs {
			names = append(names, p.Name)
		}
		all = append(all, string(c.Hook)+"/"+c.Interface+":"+strings.Join(names, ","))
	}
	slices.Sort(all)
	if len(s.Probes) > 0 {
		var names []string
		for _, p := range s.Probes {
			names = append(names, p.Name)
		}
		all = append(all, "probes:"+strings.Join(names, ","))
	}
	return strings.Join(all, " ")
}

func state(t *testing.T, chains string) *l3af.State {
	t.Helper()
	s := &l3af.State{APIVersion: l3af.APIVersion}
	for _, c := range strings.Fields(chains) {
		at, names, _ := strings.Cut(c, ":")
		hook, iface, _ := strings.Cut(at, "/")
		chain := l3af.Chain{Interface: iface, Hook: l3af.HookKind(hook)}
		for n := range strings.SplitSeq(names, ",") {
			chain.Programs = append(chain.Programs, l3af.Program{Name: n, Package: "builtin:stats"})
		}
		s.Chains = append(s.Chains, chain)
	}
	return s
}

// What each verb makes of what is there. Programs in upper case are of others.
func TestEdit(t *testing.T) {
	h := testHost()
	update := func(list ...Interface) func(*l3af.State) (*Edit, error) {
		return func(s *l3af.State) (*Edit, error) { return h.Update(t.Context(), s, list) }
	}
	add := func(list ...Interface) func(*l3af.State) (*Edit, error) {
		return func(s *l3af.State) (*Edit, error) { return h.Add(t.Context(), s, list) }
	}
	del := func(list ...InterfaceNames) func(*l3af.State) (*Edit, error) {
		return func(s *l3af.State) (*Edit, error) { return h.Delete(t.Context(), s, list) }
	}
	names := func(iface string, list ...string) InterfaceNames {
		return InterfaceNames{HostName: "host", Iface: iface, Programs: &Names{XDPIngress: list}}
	}
	with := func(in Interface, change func(*Interface)) Interface { change(&in); return in }
	type step struct {
		do    func(*l3af.State) (*Edit, error)
		want  string // the state, or "" and an error
		err   string // part of it
		as    Reason
		notes string
	}
	for name, c := range map[string]struct {
		from  string
		steps []step
	}{
		"update is the whole state": {steps: []step{
			{do: update(xdp("eth0", "b2 a1"), xdp("eth1", "c1")), want: "xdp/eth0:a,b xdp/eth1:c"},
			{do: update(xdp("eth0", "b2")), want: "xdp/eth0:b"},
			{do: update(xdp("eth0", "b2 a3")), want: "xdp/eth0:b,a"},
			{do: update(xdp("eth0", "b3 a2 c1")), want: "xdp/eth0:c,a,b"},
			{do: update(xdp("eth1", "a1"), xdp("eth0", "")), want: "xdp/eth1:a"},
			{do: update(xdp("eth1", "")), want: ""},
		}},
		"what has no effect": {steps: []step{
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) {
				p := &in.Programs.XDPIngress[0]
				p.CmdStart, p.CmdStatus, p.CmdStop, p.CmdUpdate, p.CPU, p.Memory = "start", "status", "stop", "update", 1, 1<<20
			})), want: "xdp/eth0:a", notes: "[0].bpf_programs.xdp_ingress[0]: cmd_stop, cmd_status, cpu, memory have no effect: they are for daemons (user_program_daemon)"},
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) {
				p := &in.Programs.XDPIngress[0]
				p.RulesFile, p.Rules, p.StartArgs, p.UserProgramDaemon = "rules", "deny all", map[string]string{"a": "1"}, true
			})), want: "xdp/eth0:a", notes: "[0].bpf_programs.xdp_ingress[0]: start_args, rules, user_program_daemon have no effect without a cmd_start"},
		}},
		"directions": {steps: []step{
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) {
				in.Programs.TCIngress, in.Programs.TCEgress, in.Programs.Probes = progs("a1 b2"), progs("a2 b1"), progs("p0")
			})), want: "tc-egress/eth0:b,a tc-ingress/eth0:a,b xdp/eth0:a probes:p"},
			{do: add(with(xdp("eth1", ""), func(in *Interface) { in.Programs.Probes = progs("p0 q0") })),
				want: "tc-egress/eth0:b,a tc-ingress/eth0:a,b xdp/eth0:a probes:p,q"},
			{do: del(InterfaceNames{HostName: "host", Iface: "eth0", Programs: &Names{TCIngress: []string{"a"}, Probes: []string{"p"}}}),
				want: "tc-egress/eth0:b,a tc-ingress/eth0:b xdp/eth0:a probes:q"},
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) { in.Programs.Probes = progs("p0") })), want: "xdp/eth0:a probes:p"},
		}},
		"add never touches others": {steps: []step{
			{do: add(xdp("eth0", "b5")), want: "xdp/eth0:b"},
			{do: add(xdp("eth1", "x1")), want: "xdp/eth0:b xdp/eth1:x"},
			{do: add(xdp("eth0", "d9 a1")), want: "xdp/eth0:a,b,d xdp/eth1:x"},
			{do: add(xdp("eth0", "c5")), want: "xdp/eth0:a,b,c,d xdp/eth1:x", notes: "[0].bpf_programs.xdp_ingress[0] has the seq_id 5 of b, and runs behind it"},
			{do: add(xdp("eth0", "c5")), want: "xdp/eth0:a,b,c,d xdp/eth1:x"},
			{do: add(xdp("eth0", "c6")), err: `failed to AddEbpfPrograms : failed to Add BPF program on iface eth0 with error: [0].bpf_programs.xdp_ingress[0]: "c" is there already, and is another one`, as: Conflict},
			{do: add(), want: "xdp/eth0:a,b,c,d xdp/eth1:x"},
		}},
		"delete": {steps: []step{
			{do: update(xdp("eth0", "a1 b2 c3")), want: "xdp/eth0:a,b,c"},
			{do: del(names("eth0", "b", "z")), want: "xdp/eth0:a,c", notes: "xdp_ingress z of eth0 is not there: nothing to delete"},
			{do: del(names("eth0", "b")), want: "xdp/eth0:a,c", notes: "xdp_ingress b of eth0 is not there: nothing to delete"},
			{do: del(names("eth0", "c", "a")), want: ""},
		}},
		"programs of others": {from: "xdp/eth0:A,B xdp/eth1:A", steps: []step{
			{do: add(xdp("eth0", "a2")), want: "xdp/eth0:A,B,a xdp/eth1:A"},
			{do: add(xdp("eth0", "b1")), want: "xdp/eth0:A,B,b,a xdp/eth1:A"},
			{do: update(xdp("eth1", "c1")), want: "xdp/eth0:A,B xdp/eth1:A,c"},
			{do: add(xdp("eth1", "A1")), err: "xdp/eth1 runs a program of this name that did not come through this API", as: Conflict},
			{do: update(xdp("eth1", "A1")), err: "did not come through this API", as: Conflict},
			{do: del(names("eth0", "A")), err: `xdp/eth0: "A" did not come through this API`, as: Conflict},
		}},
		"refused": {from: "xdp/eth0:A", steps: []step{
			{do: update(), err: "failed to deploy ebpf programs: the payload names no interface", as: Invalid},
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) { in.HostName = "other" })),
				err: "failed to deploy ebpf programs: failed to deploy BPF program on iface eth0 with error: provided bpf programs do not belong to this host", as: Invalid},
			{do: update(xdp("eth0", "a1"), xdp("eth9", "a1")), err: "eth9 interface name not found in the host", as: Unknown},
			{do: add(xdp("lo", "a1")), err: "lo interface name not found in the host: it is a loopback", as: Invalid},
			{do: del(names("eth9", "a")), err: "failed to DeleteEbpfPrograms : failed to Remove eBPF program on iface eth9 with error: eth9 interface name not found", as: Unknown},
			{do: update(Interface{HostName: "host", Iface: "eth0"}), err: "iface name or bpf programs are empty", as: Invalid},
			{do: update(with(xdp("eth0", ""), func(in *Interface) { in.Programs = &Programs{} })), err: "no list of programs is there", as: Invalid},
			{do: update(xdp("eth0", "a1"), xdp("eth0", "b1")), err: "the interface is in the payload twice, at [0] and at [1]", as: Invalid},
			{do: update(xdp("eth0", "a1 a2")), err: "[0].bpf_programs.xdp_ingress[1]: [0].bpf_programs.xdp_ingress[0] is another program of the same name", as: Invalid},
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) { in.Programs.XDPIngress[0].ObjectFile = "" })), err: "object_file: is required: programs that their own userspace binary", as: Invalid},
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) {
				in.Programs.XDPIngress[0].AdminStatus, in.Programs.XDPIngress[0].ProgType = "up", "tc"
			})), err: "[0].bpf_programs.xdp_ingress[0].admin_status: must be enabled or disabled, not \"up\"\n[0].bpf_programs.xdp_ingress[0].prog_type: is \"tc\" in xdp_ingress", as: Invalid},
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) { in.Programs.XDPIngress[0].Version = "../../etc" })), err: "xdp_ingress[0].artifact: version of the package: \"../../etc\" cannot be one part of a path", as: Invalid},
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) { in.Programs.XDPIngress[0].Name = "none" })), err: "failed to download and start eBPF program none version 1.0 iface eth0", as: Unknown},
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) { in.Programs.XDPIngress[0].Name = "away" })), err: "connection refused", as: Unavailable},
			{do: update(with(xdp("eth0", "a1"), func(in *Interface) { in.Programs.XDPIngress[0].CmdStart = "../sh" })),
				err: "failed to deploy ebpf programs: [0].bpf_programs.xdp_ingress[0].cmd_start[0]: \"../sh\" is not a path inside the package", as: Invalid},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			now := state(t, c.from)
			for i, s := range c.steps {
				before, _ := json.Marshal(now)
				e, err := s.do(now)
				if after, _ := json.Marshal(now); string(before) != string(after) {
					t.Fatalf("step %d: the state that was there has changed", i)
				}
				if s.err != "" {
					var wrong *Error
					if !errors.As(err, &wrong) || !strings.Contains(err.Error(), s.err) || wrong.Reason != s.as {
						t.Errorf("step %d: error %v (%+v), want %q as %d", i, err, wrong, s.err, s.as)
					}
					continue
				}
				if err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if got := listed(e.State); got != s.want {
					t.Fatalf("step %d: got %q, want %q", i, got, s.want)
				}
				if got := strings.Join(e.Notes, "\n"); got != s.notes {
					t.Errorf("step %d: notes %q, want %q", i, got, s.notes)
				}
				now = e.State
			}
		})
	}
}

// The payload of upstream's guide in the words of the state.
func TestTranslate(t *testing.T) {
	text, err := os.ReadFile("testdata/payload.json")
	if err != nil {
		t.Fatal(err)
	}
	payload, _, err := ReadInterfaces(text)
	if err != nil {
		t.Fatal(err)
	}
	h := testHost()
	h.Name = "l3af-local-test"
	e, err := h.Update(t.Context(), new(l3af.State), payload)
	if err != nil {
		t.Fatal(err)
	}
	bare := func(s *l3af.Settings) {
		if isOurs(*s) && since(*s).IsZero() {
			t.Error("no time")
		}
		s.Annotations = nil
	}
	var got []l3af.Program
	for _, c := range e.State.Chains {
		for _, p := range c.Programs {
			bare(&p.Settings)
			got = append(got, p)
		}
	}
	entries := func(kv ...string) (all []l3af.MapEntry) {
		for i := 0; i < len(kv); i += 2 {
			all = append(all, l3af.MapEntry{Key: json.Number(kv[i]), Value: json.Number(kv[i+1])})
		}
		return all
	}
	tc := func(dir string) l3af.Program {
		return l3af.Program{Name: "ipfix-flow-exporter", Package: "file:///repo/ipfix-flow-exporter/latest/bookworm/l3af_bpf_ipfix.tar.gz",
			Object: "bpf_ipfix_" + dir + ".bpf.o", Entry: "_" + dir + "_flow_monitoring", Next: "ipfix_" + dir + "_jmp_table",
			Settings: l3af.Settings{
				OnMapChange: l3af.ResetMapChange,
				PinPath:     "/sys/fs/bpf/tc/globals/enp0s3/ipfix-flow-exporter/latest",
				Agent: &l3af.Agent{Daemon: true, Start: []string{"bpf_ipfix_" + dir, "--iface=enp0s3", "--direction=" + dir, "--version=latest", "--log-dir=/var/log/l3af",
					"--collector_ip=127.0.0.1", "--collector_port=49280", "--verbose=2"}},
			}}
	}
	want := []l3af.Program{
		{Name: "ratelimiting", Package: "file:///repo/ratelimiting/latest/bookworm/l3af_ratelimiting.tar.gz", Object: "ratelimiting.bpf.o",
			Entry: "_xdp_ratelimiting", Next: "xdp_rl_ingress_next_prog", Settings: l3af.Settings{
				OnMapChange: l3af.ResetMapChange, PinPath: "/sys/fs/bpf/enp0s3/ratelimiting/latest",
				Maps:    map[string][]l3af.MapEntry{"rl_ports_map": entries("8080", "1", "8081", "1"), "rl_config_map": entries("0", "2")},
				Monitor: []l3af.Monitor{{Map: "rl_drop_count_map", Key: json.Number("0"), Aggregator: l3af.Scalar}, {Map: "rl_recv_count_map", Key: json.Number("0"), Aggregator: l3af.MaxRate}},
			}},
		{Name: "connection-limit", Package: "file:///repo/connection-limit/latest/bookworm/l3af_connection_limit.tar.gz", Object: "connection_limit.bpf.o",
			Entry: "_xdp_limit_conn", Next: "xdp_cl_ingress_next_prog", Settings: l3af.Settings{
				OnMapChange: l3af.ResetMapChange, Instance: "connection-limit.enp0s3.xdpingress", PinPath: "/sys/fs/bpf/enp0s3/connection-limit/latest",
				Maps: map[string][]l3af.MapEntry{"cl_tcp_conns": entries("8080", "1", "8081", "1"), "cl_max_conn": entries("0", "2")},
				Monitor: []l3af.Monitor{{Map: "cl_recv_count_map", Key: json.Number("0"), Aggregator: l3af.Scalar},
					{Map: "cl_drop_count_map", Key: json.Number("0"), Aggregator: l3af.Scalar}, {Map: "cl_conn_count", Key: json.Number("0"), Aggregator: l3af.Scalar}},
				Agent: &l3af.Agent{Start: []string{"connection_limit", "--iface=enp0s3", "--direction=xdpingress", "--version=latest", "--log-dir=/var/log/l3af"}},
			}},
		tc("ingress"), tc("egress"),
	}
	for i := range want {
		if i >= len(got) || !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("program %d:\n%+v\nwant\n%+v", i, got[i], want[i])
		}
	}
	if p := e.State.Probes; len(p) != 1 || p[0].Name != "connection-limit.enp0s3.xdpingress.trace_inet_sock_set_state" && !strings.HasPrefix(p[0].Name, "connection-limit.enp0s3.xdpingress.trace") ||
		p[0].Attach != "tracepoint/sock/inet_sock_set_state" || p[0].Instance != want[1].Instance || p[0].PinPath != want[1].PinPath {
		t.Errorf("probes: %+v", p)
	}
	if got := All(roundTrip(t, e.State), h.Name); !reflect.DeepEqual(got, payload) {
		t.Errorf("comes back as %+v\nwas %+v", got, payload)
	}
	// Other commands, rules, versions with dots, and arguments that upstream writes badly.
	p := prog("a", 1)
	p.Version, p.CmdStart, p.CmdStop, p.CmdStatus, p.CmdUpdate, p.UserProgramDaemon = "1.2.3", "./bin/d", "stop.sh", "status.sh", "update.sh", true
	p.StartArgs, p.StopArgs, p.StatusArgs, p.UpdateArgs = map[string]string{"b": "2", "a": "1"}, map[string]string{"s": ""}, map[string]string{"q": "r s"}, map[string]string{"u": "v"}
	p.RulesFile, p.Rules, p.CPU, p.Memory, p.RepoURL, p.AdminStatus = "rules.txt", "deny all", 3, 4096, "https://other/repo", "disabled"
	e, err = testHost().Add(t.Context(), new(l3af.State), []Interface{{HostName: "host", Iface: "eth0", Programs: &Programs{TCEgress: []Program{p}}}})
	if err != nil {
		t.Fatal(err)
	}
	about := []string{"--iface=eth0", "--direction=egress"}
	agent := &l3af.Agent{
		Start:  slices.Concat([]string{"bin/d"}, about, []string{"--version=1_2_3", "--log-dir=/var/log/l3af", "--rules-file=egress/rules.txt", "--a=1", "--b=2"}),
		Update: slices.Concat([]string{"update.sh"}, about, []string{"--cmd=update", "--version=1_2_3", "--log-dir=/var/log/l3af", "--u=v"}),
		Stop:   slices.Concat([]string{"stop.sh"}, about, []string{"--s="}), Status: []string{"status.sh", "--q=r s"},
		Daemon: true, CPU: 3, Memory: 4096, Files: map[string]string{"egress/rules.txt": "deny all"},
	}
	q := e.State.Chains[0].Programs[0]
	if !reflect.DeepEqual(q.Agent, agent) || q.Package != "https://other/repo/a/1.2.3/bookworm/a.tar.gz" || !q.Disabled || q.PinPath != "/sys/fs/bpf/tc/globals/eth0/a/1_2_3" {
		t.Errorf("got %+v with agent %+v\nwant agent %+v", q, q.Agent, agent)
	}
	// An update alone is one, without anything that is started.
	p.CmdStart = ""
	e, err = testHost().Add(t.Context(), new(l3af.State), []Interface{{HostName: "host", Iface: "eth0", Programs: &Programs{TCEgress: []Program{p}}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := e.State.Chains[0].Programs[0].Agent; !reflect.DeepEqual(got, &l3af.Agent{Update: agent.Update}) {
		t.Errorf("got %+v", got)
	}
}

func roundTrip(t *testing.T, s *l3af.State) *l3af.State {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	again := new(l3af.State)
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatal(err)
	}
	return again
}

// fill sets every field to something.
func fill(v reflect.Value, r *rand.Rand) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d<&>", r.IntN(1000)))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(r.IntN(1000)))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Map:
		if n := r.IntN(4); n > 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for range n - 1 {
				v.SetMapIndex(reflect.ValueOf(fmt.Sprintf("k%d", r.IntN(100))), reflect.ValueOf(fmt.Sprintf("v%d", r.IntN(100))))
			}
		}
	case reflect.Slice:
		if n := r.IntN(4); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n-1))
			for i := range n - 1 {
				fill(v.Index(i), r)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), r)
		}
	}
}

// Mistakes of the state are told at their places in the payload, and speak of
// other programs by theirs.
func TestExplain(t *testing.T) {
	e, err := testHost().Update(t.Context(), state(t, ""), []Interface{{HostName: "host", Iface: "eth0", Programs: &Programs{TCIngress: progs("a1"), TCEgress: progs("a1")}}})
	if err != nil {
		t.Fatal(err)
	}
	got := e.Explain(&l3af.InvalidError{Mistakes: []l3af.Mistake{{Path: "chains[1].programs[0].maps.m", Message: "is not what chains[0].programs[0] wants, nor chains[7].programs[0]"}}})
	want := "failed to deploy ebpf programs: [0].bpf_programs.tc_egress[0].map_args.m: is not what [0].bpf_programs.tc_ingress[0] wants, nor chains[7].programs[0]"
	if got.Error() != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// All 31 fields come back as they were sent, whatever they are.
func TestAsSent(t *testing.T) {
	h := testHost()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		in := Interface{HostName: "host", Iface: "eth0", IPv4Address: "10.0.0.1", Programs: &Programs{}}
		for _, d := range directions {
			for i := range r.IntN(3) {
				var p Program
				fill(reflect.ValueOf(&p).Elem(), r)
				p.Name, p.SeqID, p.Artifact, p.Version, p.RepoURL = fmt.Sprintf("p%d", i), i, "a.zip", "2.0", ""
				p.AdminStatus, p.ProgType = []string{"enabled", "Disabled", ""}[r.IntN(3)], ""
				p.ObjectFile, p.EntryFunctionName, p.MapName = "./o.bpf.o", "entry", "next"
				p.CmdStart, p.CmdStop, p.CmdStatus, p.CmdUpdate = []string{"start", ""}[r.IntN(2)], "./stop", "status", "update"
				for j := range p.MapArgs {
					p.MapArgs[j].Name = fmt.Sprint("m", j)
				}
				for j := range p.MonitorMaps {
					p.MonitorMaps[j].Aggregator = "avg"
				}
				p.RulesFile = "r.txt"
				*in.Programs.list(d) = append(*in.Programs.list(d), p)
			}
		}
		if reflect.DeepEqual(*in.Programs, Programs{}) {
			continue
		}
		e, err := h.Update(t.Context(), new(l3af.State), []Interface{in})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		want, _ := json.MarshalIndent([]Interface{in}, "", "  ")
		got, _ := json.MarshalIndent(All(roundTrip(t, e.State), "host"), "", "  ")
		if len(e.State.Chains)+len(e.State.Probes) > 0 && string(got) != string(want) {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, got, want)
		}
		if n := strings.Count(string(got), "\"entry_function_name\""); n != strings.Count(string(got), "\"id\"") {
			t.Errorf("seed %d: %d programs have not all fields", seed, n)
		}
	}
	if n := reflect.TypeFor[Program]().NumField(); n != 31 || n != len(programKeys) {
		t.Errorf("a program has %d fields, of which %d are read, want 31", n, len(programKeys))
	}
}

// What was changed on another way is told as it is now.
func TestCurrent(t *testing.T) {
	h := testHost()
	p := prog("a", 1)
	p.CmdStart, p.UserProgramDaemon, p.StartArgs = "d", true, map[string]string{"x": "1"}
	p.MapArgs = []MapArg{{"m", []KeyValue{{1, 2}}}}
	e, err := h.Update(t.Context(), new(l3af.State), []Interface{{HostName: "host", Iface: "eth0", Programs: &Programs{XDPIngress: []Program{p, prog("b", 2)}}}})
	if err != nil {
		t.Fatal(err)
	}
	s := roundTrip(t, e.State)
	c := &s.Chains[0]
	c.Programs[0], c.Programs[1] = c.Programs[1], c.Programs[0]
	a := &c.Programs[1]
	a.Package, a.Entry, a.Disabled = strings.Replace(a.Package, "/1.0/", "/2.0/", 1), "other", true
	a.Maps = map[string][]l3af.MapEntry{"m": {{Key: json.Number("3"), Value: json.Number("4")}}, "words": {{Key: "a", Value: "b"}}}
	a.Monitor = []l3af.Monitor{{Map: "m", Key: json.Number("3"), Aggregator: l3af.Average}}
	a.Agent.Start = []string{"d2", "--iface=eth0", "--x=2"}
	got := One(s, "host", "eth0").Programs.XDPIngress
	want := p
	want.SeqID, want.Version, want.EntryFunctionName, want.AdminStatus, want.CmdStart = 2, "2.0", "other", "disabled", "d2"
	want.MapArgs, want.MonitorMaps, want.StartArgs = []MapArg{{"m", []KeyValue{{3, 4}}}}, []MonitorMap{{"m", 3, "avg"}}, map[string]string{"x": "2"}
	b := prog("b", 1)
	if !reflect.DeepEqual(got, []Program{b, want}) {
		t.Errorf("got %+v\nwant %+v", got, []Program{b, want})
	}
}

// Maps are pinned where upstream's agents look, in names that bpffs takes.
func TestPinPath(t *testing.T) {
	h := &Host{PinBase: "/sys/fs/bpf"}
	for _, r := range []struct {
		iface, name, version string
		kind                 l3af.HookKind
		want                 string
	}{
		{"eth0", "connection-limit", "latest", l3af.XDP, "/sys/fs/bpf/eth0/connection-limit/latest"},
		{"eth0", "ipfix-flow-exporter", "1.2.3", l3af.TCEgress, "/sys/fs/bpf/tc/globals/eth0/ipfix-flow-exporter/1_2_3"},
		{"eth0.100", "a.b", "1.0", l3af.XDP, "/sys/fs/bpf/eth0_100/a_b/1_0"},
	} {
		if got := h.pinPath(r.iface, directionOf(r.kind), Program{Name: r.name, Version: r.version}); got != r.want {
			t.Errorf("%s %s %s: %s, want %s", r.iface, r.name, r.version, got, r.want)
		}
	}
}
