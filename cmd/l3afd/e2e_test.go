package main

import (
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/testenv"
)

// full denies 192.0.2.66 and 2001:db8::66 and lets all else through.
const full = `
apiVersion: l3af/v1
chains:
- interface: v0
  netns: rx
  hook: xdp
  programs:
  - name: acl
    package: builtin:acl
    maps:
      deny: [{key: 192.0.2.66, value: 1}, {key: '2001:db8::66', value: 1}]
  - name: ratelimit
    package: builtin:ratelimit
    config: {rate: 1000000, burst: 1000000}
  - name: stats
    package: builtin:stats
`

// The whole of it through the built binaries: what is applied filters real
// packets; the kernel shows one link and one program, which a kill -9 of the
// daemon leaves as they are; what is taken away is gone.
func TestEndToEnd(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	n := newNode(t)
	n.start()
	good4, bad4 := newStream(t, "192.0.2.2", "192.0.2.1"), newStream(t, "192.0.2.66", "192.0.2.1")
	good6, bad6 := newStream(t, "2001:db8::2", "2001:db8::1"), newStream(t, "2001:db8::66", "2001:db8::1")
	for _, s := range []*stream{good4, bad4, good6, bad6} {
		s.carries(50, true)
	}
	n.apply(full)
	filters := func() {
		t.Helper()
		good4.carries(50, true)
		good6.carries(50, true)
		bad4.carries(50, false)
		bad6.carries(50, false)
	}
	filters()

	c := n.chain("v0", l3af.XDP)
	if c.State != l3af.Running || c.Mode != l3af.Native || c.Segments != 1 || len(c.Programs) != 3 {
		t.Errorf("chain is %+v", c)
	}
	if got := c.Programs[0].Verdicts[l3af.Drop]; got != 100 {
		t.Errorf("acl dropped %d packets, want 100", got)
	}
	if got := c.Programs[2].Packets; got < 100 || got != c.Programs[0].Verdicts[l3af.Pass] {
		t.Errorf("stats saw %d packets, acl let %d through; at least 100 were sent", got, c.Programs[0].Verdicts[l3af.Pass])
	}

	outside := func() {
		t.Helper()
		if id := ipLink(t); id != c.ProgramID {
			t.Errorf("ip link shows program %d, status %d", id, c.ProgramID)
		}
		p, l := bpftool(t, "prog"), bpftool(t, "link")
		if len(p) != 1 || p[0].ID != c.ProgramID || !strings.HasPrefix(p[0].Name, "l3af_"+c.ID) {
			t.Errorf("bpftool prog shows %+v, want one program %d l3af_%s", p, c.ProgramID, c.ID)
		}
		if len(l) != 1 || l[0].ID != c.LinkID || l[0].ProgID != c.ProgramID {
			t.Errorf("bpftool link shows %+v, want one link %d with program %d", l, c.LinkID, c.ProgramID)
		}
	}
	outside()
	n.kill()
	outside()
	filters()
	n.start()
	n.settled()
	outside()
	filters()
	if now := n.chain("v0", l3af.XDP); now.ProgramID != c.ProgramID || now.LinkID != c.LinkID {
		t.Errorf("after the restart program %d link %d, before %d, %d", now.ProgramID, now.LinkID, c.ProgramID, c.LinkID)
	}
	n.stop()
	outside()
	n.start()

	n.apply("apiVersion: l3af/v1")
	for _, s := range []*stream{good4, bad4, good6, bad6} {
		s.carries(50, true)
	}
	if p, l := bpftool(t, "prog"), bpftool(t, "link"); len(p) != 0 || len(l) != 0 {
		t.Errorf("left: programs %+v, links %+v", p, l)
	}
	if left := n.pins(); slices.ContainsFunc(left, func(p string) bool { return p != "hooks" && p != "probes" }) {
		t.Errorf("left: pins %q", left)
	}
	n.stop()
}

// status -o json has the keys that the contract names, no others by mistake.
func TestStatusJSON(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	n := newNode(t)
	n.start()
	n.apply(full)
	out, err := n.l3af("", "status", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	want := func(where string, object any, keys string) map[string]any {
		t.Helper()
		o, _ := object.(map[string]any)
		for _, k := range strings.Fields(keys) {
			if _, ok := o[k]; !ok {
				t.Errorf("%s has no %s: %v", where, k, o)
			}
		}
		return o
	}
	first := func(list any) any {
		t.Helper()
		l, _ := list.([]any)
		if len(l) != 1 && len(l) != 3 {
			t.Fatalf("list is %v", list)
		}
		return l[0]
	}
	s := want("status", got, "revision chains probes errors")
	c := want("chain", first(s["chains"]), "interface hook mode state id program_id link_id segments programs")
	want("program", first(c["programs"]), "name linkage packets verdicts")
	if c["hook"] != "xdp" || c["state"] != "running" || c["interface"] != "v0" || s["revision"] != 1.0 {
		t.Errorf("status is %s", out)
	}
}

// Counts of a program grow and never shrink, whatever happens to its chain
// and to the daemon, and they miss no packet.
func TestCountsSurvive(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	n := newNode(t)
	n.start()
	good, bad := newStream(t, "192.0.2.2", "192.0.2.1"), newStream(t, "192.0.2.66", "192.0.2.1")
	reordered := strings.Replace(full, "  - name: acl", "  - {name: first, package: 'builtin:stats'}\n  - name: acl", 1)
	var dropped, passed, passing uint64
	for i, document := range []string{full, reordered, full, full} {
		n.apply(document)
		for _, end := range []func(){func() {}, n.kill, n.stop} {
			end()
			if n.cmd == nil {
				n.start()
			}
			good.carries(20, true)
			bad.carries(30, false)
			passing += 20
			dropped += 30
			for _, p := range n.chain("v0", l3af.XDP).Programs {
				if p.Name != "acl" {
					continue
				}
				if got := p.Verdicts[l3af.Drop]; got != dropped {
					t.Fatalf("state %d: acl has dropped %d packets, want %d", i, got, dropped)
				}
				// ARP passes as well.
				if got := p.Verdicts[l3af.Pass]; got < passed || got < passing {
					t.Fatalf("state %d: acl has let %d packets through, want %d or more, %d before", i, got, passing, passed)
				} else {
					passed = got
				}
			}
		}
	}
}

// A second daemon on the state or bpffs directory of a running one changes
// nothing and says who has it.
func TestSecondDaemon(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	n := newNode(t)
	n.start()
	n.apply(full)
	before, pins := bpftool(t, "prog"), n.pins()
	for _, args := range [][]string{
		n.flags(),
		{"-socket", filepath.Join(n.dir, "other.sock"), "-state-dir", filepath.Join(n.dir, "state"), "-bpffs", filepath.Join(n.dir, "other")},
		{"-socket", filepath.Join(n.dir, "other.sock"), "-state-dir", filepath.Join(n.dir, "other"), "-bpffs", n.bpffs},
	} {
		out, err := exec.Command(executable(t, "l3afd"), args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "in use by another l3afd") {
			t.Errorf("l3afd %q: %v\n%s", args, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(n.dir, "other.sock")); err == nil {
		t.Error("the second daemon made a socket")
	}
	if after := bpftool(t, "prog"); !slices.Equal(before, after) {
		t.Errorf("programs were %+v, are %+v", before, after)
	}
	if after := n.pins(); !slices.Equal(pins, after) {
		t.Errorf("pins were %q, are %q", pins, after)
	}
	n.settled()
}

// Damage to the state on disk: the daemon starts, says so, keeps the datapath
// and what it found, and the next apply works.
func TestDamagedState(t *testing.T) {
	for _, damage := range []struct {
		name string
		do   func(file string) error
	}{
		{"garbage", func(f string) error { return os.WriteFile(f, []byte("\x00\xffgarbage"), 0o600) }},
		{"empty", func(f string) error { return os.Truncate(f, 0) }},
		{"cut", func(f string) error { return os.Truncate(f, 100) }},
	} {
		t.Run(damage.name, func(t *testing.T) {
			testenv.Clean(t)
			wire(t)
			n := newNode(t)
			n.start()
			n.apply(full)
			c := n.chain("v0", l3af.XDP)
			n.kill()
			files, err := filepath.Glob(filepath.Join(n.dir, "state", "revisions", "*"))
			if err != nil || len(files) != 1 {
				t.Fatalf("revisions are %q, %v", files, err)
			}
			if err := damage.do(files[0]); err != nil {
				t.Fatal(err)
			}
			damaged, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			n.start()
			st, err := n.Status(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if len(st.Errors) == 0 || !strings.Contains(strings.Join(st.Errors, " "), filepath.Base(files[0])) {
				t.Errorf("status does not name the damaged file: %q", st.Errors)
			}
			if id := ipLink(t); id != c.ProgramID {
				t.Errorf("the interface has program %d, had %d", id, c.ProgramID)
			}
			good, bad := newStream(t, "192.0.2.2", "192.0.2.1"), newStream(t, "192.0.2.66", "192.0.2.1")
			good.carries(20, true)
			bad.carries(20, false)

			n.apply(full)
			n.settled()
			kept := false
			all, err := filepath.Glob(filepath.Join(n.dir, "state", "revisions", "*"))
			for _, f := range all {
				text, err := os.ReadFile(f)
				kept = kept || err == nil && string(text) == string(damaged)
			}
			if !kept {
				t.Errorf("the damaged file is gone: %q, %v", all, err)
			}
		})
	}
}

// The idle daemon is small, after it has loaded a chain as well as after it
// found one at its start.
func TestIdleMemory(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	n := newNode(t)
	n.start()
	n.apply(full)
	n.settled()
	const most = 30 << 20
	for _, when := range []string{"after an apply", "after a restart"} {
		var size int
		n.until("the daemon is small "+when, func() error {
			size = rss(t, n.cmd.Process.Pid)
			if size >= most {
				return fmt.Errorf("%d KiB resident, want less than %d", size>>10, most>>10)
			}
			return nil
		})
		t.Logf("%s: %d KiB resident", when, size>>10)
		n.kill()
		n.start()
		n.settled()
	}
}

// The binaries need no shared library.
func TestStatic(t *testing.T) {
	for _, name := range []string{"l3af", "l3afd"} {
		f, err := elf.Open(executable(t, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s is linked dynamically", name)
			}
		}
	}
}

// rss is the resident memory of a process in bytes.
func rss(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// object is a program or link as Debian's bpftool shows it.
type object struct {
	ID     uint32 `json:"id"`
	Name   string `json:"name"`
	Type   any    `json:"type"` // a number for what Debian's bpftool does not know, as TCX links
	ProgID uint32 `json:"prog_id"`
}

// bpftool lists the programs or links that were not there when the first test
// began.
func bpftool(t testing.TB, kind string) []object {
	t.Helper()
	out, err := exec.Command(testenv.Tool(t, "bpftool"), "--json", kind, "show").Output()
	if err != nil {
		t.Fatalf("bpftool: %v", err)
	}
	var all []object
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatalf("bpftool: %v\n%s", err, out)
	}
	// Of the machine's own, outside of the tests.
	return slices.DeleteFunc(all, func(o object) bool {
		return kind == "prog" && !strings.HasPrefix(o.Name, "l3af") || kind == "link" && o.Type == "cgroup"
	})
}

// ipLink is the XDP program of v0 in rx as ip shows it.
func ipLink(t testing.TB) uint32 {
	t.Helper()
	out, err := exec.Command(testenv.Tool(t, "ip"), "-n", "rx", "-j", "link", "show", "v0").Output()
	if err != nil {
		t.Fatalf("ip: %v", err)
	}
	var links []struct {
		XDP struct {
			Prog struct {
				ID uint32 `json:"id"`
			} `json:"prog"`
		} `json:"xdp"`
	}
	if err := json.Unmarshal(out, &links); err != nil || len(links) != 1 {
		t.Fatalf("ip: %v\n%s", err, out)
	}
	return links[0].XDP.Prog.ID
}
