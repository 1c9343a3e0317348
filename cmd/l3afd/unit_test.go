package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"l3af"
	"l3af/internal/ini"
	"l3af/internal/testenv"
)

// unit is what the unit for systemd says, by key.
func unit(t testing.TB) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../dist/l3afd.service")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := ini.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		all[e.Key] = e.Value
	}
	return all
}

// systemd knows every word of the unit.
func TestUnitVerifies(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	text, err := os.ReadFile("../../dist/l3afd.service")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "l3afd.service")
	// It wants a program where it says that one is.
	text = bytes.Replace(text, []byte("/usr/local/sbin/l3afd"), []byte(executable(t, "l3afd")), 1)
	if err := os.WriteFile(copied, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", copied).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%s, %v", out, err)
	}
}

// The rights that the unit leaves the daemon are enough for all that it does:
// chains in network namespaces of others too, probes, agents, packages of other
// users, low ports, machine code, a handover.
func TestUnitRights(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	caps, ok := unit(t)["CapabilityBoundingSet"]
	if !ok {
		t.Fatal("the unit has no CapabilityBoundingSet")
	}
	set := "-all"
	for c := range strings.FieldsSeq(caps) {
		set += "," + "+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	// What the machine of the test has not, the daemon cannot get.
	if out, err := exec.Command("setpriv", "--bounding-set="+set, "true").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", set, err, out)
	}
	h := newHeir(t, "-listen", "127.0.0.1:443", "-log-file", filepath.Join(t.TempDir(), "log"))
	h.put("exec setpriv --no-new-privs --bounding-set=" + set + ` REAL "$@"`)
	h.start()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "Cap") {
			t.Log(strings.TrimSpace(line))
		}
	}

	// A process of another user has a namespace of its own.
	theirs := exec.Command("sleep", "1000")
	testenv.In(t, "rx", func() {
		theirs.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if err := theirs.Start(); err != nil {
			t.Fatal(err)
		}
	})
	defer func() {
		_ = theirs.Process.Kill()
		_ = theirs.Wait()
	}()
	pack := agentPackage(h.node)
	foreign := t.TempDir()
	object, err := os.ReadFile("../../programs/stats/stats.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.WriteFile(filepath.Join(foreign, "stats.bpf.o"), object, 0o600), os.Chown(filepath.Join(foreign, "stats.bpf.o"), 65534, 65534),
		os.Chown(foreign, 65534, 65534), os.Chmod(foreign, 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	execs, err := filepath.Abs("../../examples/execs")
	if err != nil {
		t.Fatal(err)
	}
	document := full + "  - {name: collected, package: " + pack + ", agent: {start: [collect], daemon: true}}\n" +
		fmt.Sprintf("- interface: v0\n  netns: /proc/%d/ns/net\n  hook: tc-ingress\n  programs: [{name: foreign, package: %s/stats.bpf.o}]\n", theirs.Process.Pid, foreign) +
		"probes:\n- {name: execs, package: " + execs + ", entry: execs}\n"
	if _, err := os.Stat("/lib/x86_64-linux-gnu/libc.so.6"); err == nil {
		exits, err := filepath.Abs("testdata/repo/exits.bpf.o")
		if err != nil {
			t.Fatal(err)
		}
		document += "- {name: exits, package: " + exits + "}\n"
	}
	h.apply(document)
	st := h.settled()
	for _, c := range st.Chains {
		for _, p := range c.Programs {
			if p.Name == "collected" && (p.Agent == nil || p.Agent.State != l3af.Running) {
				t.Errorf("agent %+v", p.Agent)
			}
		}
	}
	for _, p := range st.Probes {
		if p.State != l3af.Running {
			t.Errorf("probe %+v", p)
		}
	}
	code, err := h.DumpChain(t.Context(), l3af.Hook{Netns: "rx", Interface: "v0", Kind: l3af.XDP}, true)
	if err != nil || len(code.Jited) == 0 || code.Jited[0].Code == nil {
		t.Errorf("machine code: %+v, %v", code, err)
	}
	pid := h.pid()
	h.signal(pid, syscall.SIGHUP)
	pid = h.changes(pid)
	h.settled()
	h.apply("apiVersion: l3af/v1")
	h.signal(pid, syscall.SIGTERM)
	h.until("it ends", func() error {
		if h.lives(pid) {
			return errors.New("it lives")
		}
		return nil
	})
}
