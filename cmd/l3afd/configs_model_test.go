package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l3af"
	"l3af/internal/configs"
	"l3af/internal/testenv"
)

var modelTime = flag.Duration("configs.time", 15*time.Second, "how long the model of L3AF's API is walked")

// place is a list of L3AF's API.
type place struct{ iface, list string }

var places = []place{{"v0", "xdp_ingress"}, {"v0", "tc_ingress"}, {"v0", "tc_egress"}, {"w0", "xdp_ingress"}, {"w0", "tc_egress"}}

// model is what there should be: programs by place and name.
type model map[place]map[string]fields

func (m model) clone() model {
	c := model{}
	for at, programs := range m {
		c[at] = map[string]fields{}
		for name, f := range programs {
			c[at][name] = f
		}
	}
	return c
}

// sorted are the programs of a place in their order.
func (m model) sorted(at place) []fields {
	list := []fields{}
	for _, f := range m[at] {
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b fields) int { return a["seq_id"].(int) - b["seq_id"].(int) })
	return list
}

// payload is all of it as an update.
func (m model) payload() string {
	var list []any
	for _, iface := range []string{"v0", "w0"} {
		lists := map[string]any{}
		for _, at := range places {
			if at.iface == iface {
				lists[at.list] = m.sorted(at)
			}
		}
		list = append(list, map[string]any{"host_name": "host", "iface": iface, "bpf_programs": lists})
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// one is a payload of one list of an interface.
func one(at place, programs any) string {
	text, err := json.Marshal([]any{map[string]any{"host_name": "host", "iface": at.iface, "bpf_programs": map[string]any{at.list: programs}}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// program makes one of a client's programs, whose seq_id nobody else has.
func program(r *rand.Rand, at place, client, n int) fields {
	more := fields{"version": []string{"1.0", "2.0"}[r.IntN(2)]}
	if at.list != "xdp_ingress" {
		more["entry_function_name"], more["prog_type"] = "_tc_count", "tc"
	}
	if r.IntN(3) == 0 {
		// Both directions of tc share the map, and so must agree.
		port := 1 + client + 10*n
		if more["version"] == "2.0" {
			port += 100
		}
		more["map_args"] = []fields{{"name": "count_ports", "args": []fields{{"key": port, "value": 1}}}}
	}
	if r.IntN(4) == 0 {
		more["admin_status"] = "disabled"
	}
	if r.IntN(3) == 0 {
		more["monitor_maps"] = []fields{{"name": "count_hits", "key": r.IntN(4), "aggregator": []string{"scalar", "max-rate", "avg"}[r.IntN(3)]}}
	}
	return counting(fmt.Sprintf("c%dp%d", client, n), 10+client+10*r.IntN(90)+1000*n, more)
}

// Random calls of eight clients at once, right and wrong ones: after each round
// the state, what comes back and what the kernel runs are what the model says,
// and at no moment does a packet pass the gate or is one lost.
func TestUpstreamModel(t *testing.T) {
	const clients, each = 8, 3
	testenv.Clean(t)
	wire(t)
	testenv.Veth(t, testenv.End{Netns: "rx", Name: "w0"}, testenv.End{Netns: "tx", Name: "w0"})
	u := newUpstream(t)
	u.packCounting("1.0", "gate")
	for c := range clients {
		for n := range each {
			u.packCounting("1.0", fmt.Sprintf("c%dp%d", c, n))
			u.packCounting("2.0", fmt.Sprintf("c%dp%d", c, n))
		}
	}
	u.start()
	bad, good := newStream(t, "192.0.2.66", "192.0.2.1"), newStream(t, "192.0.2.2", "192.0.2.1")
	port := bad.in.LocalAddr().(*net.UDPAddr).Port
	m := model{}
	for _, at := range places {
		m[at] = map[string]fields{}
	}
	m[places[0]]["gate"] = counting("gate", 5000, fields{"map_args": []fields{{"name": "count_ports", "args": []fields{{"key": port, "value": 1}}}}})
	u.does("update", m.payload())
	noRoom := dropped(t)
	bad.flow(2)
	good.flow(4)

	long := *modelTime
	if testing.Short() {
		long = min(long, 3*time.Second)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	calls, refused, kills, rounds := 0, 0, 0, 0
	var count sync.Mutex
	for end := time.Now().Add(long); time.Now().Before(end) && !t.Failed(); rounds++ {
		switch r.IntN(12) {
		case 0: // everything at once, in another order and other versions
			next := m.clone()
			for _, at := range places {
				for c := range clients {
					for n := range each {
						p := program(r, at, c, n)
						switch r.IntN(6) {
						case 0, 1:
							next[at][p["name"].(string)] = p
						case 2:
							delete(next[at], p["name"].(string))
						}
					}
				}
			}
			next[places[0]]["gate"]["seq_id"] = 7 + r.IntN(2)*9000
			u.does("update", next.payload())
			m = next
			calls++
		case 1:
			kills++
			if r.IntN(2) == 0 {
				u.kill()
			} else {
				u.stop()
			}
			u.start()
		default: // each client for itself
			next := m.clone()
			var wg sync.WaitGroup
			for c := range clients {
				call := u.random(rand.New(rand.NewPCG(r.Uint64(), 0)), m, c, r.IntN(each))
				call.change(next)
				wg.Go(func() {
					status, answer := u.call("POST", "/l3af/configs/v1/"+call.verb, call.body)
					count.Lock()
					defer count.Unlock()
					if calls++; call.wrong {
						refused++
					}
					if (status == 200) == call.wrong || status >= 500 || status == 200 && answer != "" {
						t.Errorf("%s %s: %d %s", call.verb, call.body, status, answer)
					}
				})
			}
			wg.Wait()
			m = next
		}
		u.is(m)
	}
	bad.halt()
	good.halt()
	t.Logf("seed %d: %d rounds, %d calls, %d of them wrong, %d restarts, %d packets", seed, rounds, calls, refused, kills, bad.sent.Load()+good.sent.Load())
	if got := bad.arrived(); got != 0 {
		t.Errorf("%d of %d packets leaked past the gate", got, bad.sent.Load())
	}
	if lost, noRoom := good.sent.Load()-good.arrived(), dropped(t)-noRoom; lost > noRoom {
		t.Errorf("%d packets lost, %d by the sending device", lost, noRoom)
	}
	u.does("update", `[{"host_name":"host","iface":"v0","bpf_programs":{"xdp_ingress":[]}}]`)
}

// modelCall is one call and what it makes of the model.
type modelCall struct {
	verb, body string
	wrong      bool
	change     func(model)
}

// random is a call that a client makes: about its own programs, so that it
// does not matter who is first.
func (u *upstream) random(r *rand.Rand, now model, client, n int) modelCall {
	at := places[r.IntN(len(places))]
	p := program(r, at, client, n)
	name := p["name"].(string)
	have, there := now[at][name]
	nothing := func(model) {}
	switch r.IntN(8) {
	case 0, 1, 2:
		if there { // the same again, or another one of its name
			if r.IntN(2) == 0 {
				return modelCall{"add", one(at, []fields{have}), false, nothing}
			}
			p["cfg_version"] = 77
			return modelCall{"add", one(at, []fields{p}), true, nothing}
		}
		return modelCall{"add", one(at, []fields{p}), false, func(m model) { m[at][name] = p }}
	case 3, 4:
		return modelCall{"delete", one(at, []string{name, "nobody"}), false, func(m model) { delete(m[at], name) }}
	case 5: // half of it right
		q := counting(fmt.Sprintf("c%dq", client), 3, fields{"version": "9.9"})
		p["name"] = fmt.Sprintf("c%dp%d", client, n)
		return modelCall{"add", one(at, []fields{p, q}), true, nothing}
	case 6:
		p["name"] = "new"
		p["map_args"] = []fields{{"name": "nothing", "args": []fields{}}}
		return modelCall{"add", one(at, []fields{p}), true, nothing}
	}
	wrong := []struct{ verb, body string }{
		{"update", "[]"}, {"update", "{"}, {"add", ""}, {"delete", `[{"host_name":"host","iface":"none","bpf_programs":{"xdp_ingress":["a"]}}]`},
		{"update", strings.Replace(now.payload(), `"host"`, `"other"`, 1)},
		{"update", strings.Replace(now.payload(), `"object_file":"count.bpf.o"`, `"object_file":""`, 1)},
		{"add", one(place{"lo", "xdp_ingress"}, []fields{p})},
		{"update", strings.Replace(now.payload(), `"enabled"`, `"enabledd"`, 1)},
	}[r.IntN(8)]
	if !strings.Contains(wrong.body, "enabledd") && wrong.verb == "update" && wrong.body == now.payload() {
		wrong.body = "[]" // nothing was there to spoil
	}
	return modelCall{wrong.verb, wrong.body, true, nothing}
}

// is checks that the node runs what the model says.
func (u *upstream) is(m model) {
	u.Helper()
	var got []configs.Interface
	u.get("/l3af/configs/v1", &got)
	st := u.settledOr(l3af.Disabled)
	for _, at := range places {
		var want, runs, has, kernel []string
		for _, f := range m.sorted(at) {
			p := fmt.Sprint(f["name"], " ", f["version"], " ", f["seq_id"], " ", f["admin_status"])
			want = append(want, p)
			if f["admin_status"] != "disabled" {
				runs = append(runs, f["name"].(string))
			}
		}
		for _, in := range got {
			lists := map[string][]configs.Program{"xdp_ingress": in.Programs.XDPIngress, "tc_ingress": in.Programs.TCIngress, "tc_egress": in.Programs.TCEgress}
			for _, p := range lists[at.list] {
				if in.Iface == at.iface {
					has = append(has, fmt.Sprint(p.Name, " ", p.Version, " ", p.SeqID, " ", p.AdminStatus))
				}
			}
		}
		kind := map[string]l3af.HookKind{"xdp_ingress": l3af.XDP, "tc_ingress": l3af.TCIngress, "tc_egress": l3af.TCEgress}[at.list]
		for _, c := range st.Chains {
			for _, p := range c.Programs {
				if c.Interface == at.iface && c.Hook == kind && p.State == "" {
					if kernel = append(kernel, p.Name); p.Linkage == "" || c.ProgramID == 0 {
						u.node.Errorf("%v: %s does not run: %+v", at, p.Name, c)
					}
				}
			}
		}
		if !slices.Equal(has, want) || !slices.Equal(kernel, runs) {
			u.node.Errorf("%v: GET says\n%q\nwant\n%q\nthe kernel runs %q, want %q", at, has, want, kernel, runs)
		}
	}
}
