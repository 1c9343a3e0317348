package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/testenv"
)

// agent is the pid of the agent that keeps running for a program of v0.
func (u *upstream) agent(name string) int {
	u.Helper()
	for _, p := range u.chain("v0", l3af.XDP).Programs {
		if p.Name == name && p.Agent != nil && p.Agent.State == l3af.Running {
			return p.Agent.PID
		}
	}
	u.node.Fatalf("%s has no agent: %+v", name, u.chain("v0", l3af.XDP))
	return 0
}

// Agents get upstream's arguments and find their maps, before their program
// joins the chain; one that fails keeps it out, and no slow one opens a gap.
func TestUpstreamAgents(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	u := newUpstream(t)
	dir := t.TempDir()
	u.more = append(u.more, "-agent-log-dir", dir)
	u.packCounting("1.0", "gate")
	// Each says what it was called with.
	said := func(name string) []string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(dir, name))
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	say := func(name string) string {
		return fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' \"$@\" >> %s/%s\n", dir, name)
	}
	pins := filepath.Join(u.base(), "v0", "p", "1_0")
	u.pack("p", "1.0", "l3af_count.tar.gz", []string{"count.bpf.o"}, map[string]string{
		"start":  say("started") + "[ -e " + pins + "/count_hits ] && [ -e " + pins + "/count_ports ] || exit 3\nsleep 1\n",
		"daemon": say("started") + "exec sleep 1000\n", "stop": say("stopped"), "update": say("updated"), "fails": "#!/bin/sh\nexit 5\n",
		"rules": say("started") + "for a in \"$@\"; do case $a in --rules-file=*) cat \"${a#*=}\" > " + dir + "/rules;; esac; done\n",
	})
	u.start()
	bad, good := newStream(t, "192.0.2.66", "192.0.2.1"), newStream(t, "192.0.2.2", "192.0.2.1")
	good.carries(10, true)
	gate := counting("gate", 5, fields{"map_args": []fields{{"name": "count_ports", "args": []fields{{"key": bad.in.LocalAddr().(*net.UDPAddr).Port, "value": 1}}}}})
	u.does("update", xdpList(gate))
	noRoom := dropped(t)
	bad.flow(4)
	good.flow(4)
	p := func(more fields) fields { return counting("p", 1, more) }
	wants := func(name string, want ...string) {
		t.Helper()
		if got := said(name); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s with %q, want %q", name, got, want)
		}
	}
	about := []string{"--iface=v0", "--direction=xdpingress"}
	with := func(more ...string) []string { return append(append([]string{}, about...), more...) }

	u.does("add", xdpList(p(fields{"cmd_start": "start", "start_args": fields{"b": "2", "a": "x y"}})))
	wants("started", with("--version=1_0", "--log-dir="+dir, "--a=x y", "--b=2")...)
	u.runs("p gate")
	for _, c := range []struct {
		more fields
		says string
	}{
		{fields{"cmd_start": "fails"}, "exit status 5"},
		{fields{"cmd_start": "nothing"}, "nothing"},
		{fields{"cmd_start": "README"}, "README"},
		{fields{"cmd_start": "/bin/sh"}, "xdp_ingress[0].cmd_start[0]: \"/bin/sh\" is not a path inside the package"},
		{fields{"cmd_start": "daemon", "start_args": fields{"a": 1}}, "start_args.a: must be a string"},
	} {
		status, answer := u.call("POST", "/l3af/configs/v1/update", xdpList(p(c.more), gate))
		if answer = strings.ReplaceAll(answer, `\"`, `"`); status != 422 && status != 400 || !strings.Contains(answer, c.says) {
			t.Errorf("%v: %d %s, want %q", c.more, status, answer, c.says)
		}
		u.runs("p gate")
		var was struct {
			Programs struct {
				XDP []struct {
					Start string `json:"cmd_start"`
				} `json:"xdp_ingress"`
			} `json:"bpf_programs"`
		}
		if u.get("/l3af/configs/v1/v0", &was); was.Programs.XDP[0].Start != "start" {
			t.Errorf("%v: cmd_start is %q", c.more, was.Programs.XDP[0].Start)
		}
	}
	os.Remove(filepath.Join(dir, "started")) // what was taken back has started anew

	daemon := fields{"cmd_start": "daemon", "user_program_daemon": true, "cmd_stop": "stop", "stop_args": fields{"why": "end"}, "cmd_update": "update", "update_args": fields{"n": "1"}}
	u.does("update", xdpList(p(daemon), gate))
	wants("started", with("--version=1_0", "--log-dir="+dir)...)
	wants("updated", with("--cmd=update", "--version=1_0", "--log-dir="+dir, "--n=1")...)
	pid := u.agent("p")
	daemon["update_args"] = fields{"n": "2"}
	u.does("update", xdpList(p(daemon), gate))
	wants("updated", with("--cmd=update", "--version=1_0", "--log-dir="+dir, "--n=2")...)
	if now := u.agent("p"); now != pid {
		t.Errorf("update_args started another agent: %d, was %d", now, pid)
	}
	u.kill()
	u.start()
	u.settled()
	if now := u.agent("p"); now != pid {
		t.Errorf("the agent did not survive: %d, was %d", now, pid)
	}
	u.does("update", xdpList(p(fields{"cmd_start": "rules", "rules_file": "r.txt", "rules": "deny all"}), gate))
	wants("stopped", with("--why=end")...)
	if got := said("rules"); got[0] != "deny all" {
		t.Errorf("rules are %q", got)
	}
	// Nobody may have reaped it: its parent was killed.
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(text) > 0 {
		t.Errorf("the agent %d runs on: %q", pid, text)
	}
	u.does("delete", names("v0", "xdp_ingress", "p"))
	bad.halt()
	good.halt()
	if got := bad.arrived(); got != 0 {
		t.Errorf("%d of %d packets leaked past the gate", got, bad.sent.Load())
	}
	if lost, noRoom := good.sent.Load()-good.arrived(), dropped(t)-noRoom; lost > noRoom {
		t.Errorf("%d packets lost", lost)
	}
	u.does("update", xdpList())
}
