package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

const (
	xdpDrop, xdpPass       = 1, 2
	tcUnspec, tcOK, tcShot = -1, 0, 2
)

// Each kind of hook drops what the map denies and nothing else; a change keeps
// the link and what is in the maps, and outside eyes see one program with the
// chain's name.
func TestHooksFilterPackets(t *testing.T) {
	for _, c := range []struct {
		kind     l3af.HookKind
		ns       string // where the hook is
		iface    string
		from, to string // direction that it sees
		addr     string
		pass     int32
		mode     l3af.Mode
	}{
		{l3af.XDP, "", "v0", "far", "", "10.9.0.1", xdpPass, l3af.Native},
		{l3af.XDP, "far", "v1", "", "far", "10.9.0.2", xdpPass, l3af.Generic},
		{l3af.TCIngress, "", "v0", "far", "", "10.9.0.1", tcUnspec, ""},
		{l3af.TCEgress, "", "v0", "", "far", "10.9.0.2", tcUnspec, ""},
		{l3af.TCIngress, "/run/netns/far", "v1", "", "far", "10.9.0.2", tcUnspec, ""},
		{l3af.TCEgress, "far", "v1", "far", "", "10.9.0.1", tcUnspec, ""},
	} {
		t.Run(fmt.Sprintf("%s in %q", c.kind, c.ns), func(t *testing.T) {
			testenv.Clean(t)
			pair(t)
			k := open(t)
			target := hook(c.kind, c.ns, c.iface)
			load := host.Load{Target: target, Mode: c.mode, Chain: gate(t, c.kind, c.pass, c.pass), Contents: []host.Contents{deny("g1", 9)}}
			if res := attach(t, k, load); res != (host.Result{Mode: c.mode}) {
				t.Errorf("attached as %+v", res)
			}
			a := attached(t, k, target)
			if a.ID != load.Chain.ID || a.Mode != c.mode || a.ProgramID == 0 || a.LinkID == 0 {
				t.Errorf("read back %+v, chain %s", a, load.Chain.ID)
			}
			checkOutside(t, a)
			if !arrives(t, c.from, c.to, c.addr, 7) {
				t.Error("an allowed packet does not arrive")
			}
			if arrives(t, c.from, c.to, c.addr, 9) {
				t.Error("a denied packet arrives")
			}

			// The first program denies by itself now; g1 and its map stay.
			before := seen(t, k, target, "g1")
			if before == 0 {
				t.Error("the second program saw nothing")
			}
			next := host.Load{Target: target, Mode: c.mode, Chain: gate(t, c.kind, c.pass, c.pass, c.pass), Contents: []host.Contents{deny("g2", 11)}}
			if res := attach(t, k, next); res.Mode != c.mode {
				t.Errorf("replaced as %+v", res)
			}
			b := attached(t, k, target)
			if b.ID != next.Chain.ID || b.LinkID != a.LinkID || b.ProgramID == a.ProgramID {
				t.Errorf("replaced %+v by %+v", a, b)
			}
			if now := seen(t, k, target, "g1"); now < before {
				t.Errorf("g1 had seen %d packets, now %d", before, now)
			}
			for port, want := range map[int]bool{7: true, 9: false, 11: false} {
				if got := arrives(t, c.from, c.to, c.addr, port); got != want {
					t.Errorf("packet to port %d arrives: %t", port, got)
				}
			}
			checkOutside(t, b)

			// A new Kernel sees the same.
			k = restart(t, k)
			if again := attached(t, k, target); again != b {
				t.Errorf("after a restart %+v, before %+v", again, b)
			}

			if err := k.Detach(target); err != nil {
				t.Fatal(err)
			}
			if err := k.Detach(target); err != nil {
				t.Errorf("detached twice: %v", err)
			}
			if !arrives(t, c.from, c.to, c.addr, 9) {
				t.Error("after Detach a packet does not arrive")
			}
			if a := attached(t, k, target); a != (host.Attached{Target: target}) {
				t.Errorf("after Detach %+v", a)
			}
			if err := k.Tidy(target, nil); err != nil {
				t.Fatal(err)
			}
			if left := tree(t, k.root); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// checkOutside compares with what ip and bpftool say.
func checkOutside(t *testing.T, a host.Attached) {
	t.Helper()
	h := a.Target.Hook
	if h.Kind == l3af.XDP {
		mode, id, name := seenByIP(t, strings.TrimPrefix(h.Netns, namedNetns+"/"), h.Interface)
		if want := map[l3af.Mode]int{l3af.Native: 1, l3af.Generic: 2}[a.Mode]; mode != want || id != a.ProgramID {
			t.Errorf("ip link shows program %d (%s) in mode %d, read back %+v", id, name, mode, a)
		}
	}
	var p struct{ Name string }
	tool(t, "", &p, "bpftool", "-j", "prog", "show", "id", fmt.Sprint(a.ProgramID))
	if !strings.HasPrefix(p.Name, chain.NamePrefix+a.ID) {
		t.Errorf("bpftool shows the program %q, read back %+v", p.Name, a)
	}
	var links []struct {
		ID     uint32
		ProgID uint32 `json:"prog_id"`
	}
	tool(t, "", &links, "bpftool", "-j", "link", "show")
	links = slices.DeleteFunc(links, func(l struct {
		ID     uint32
		ProgID uint32 `json:"prog_id"`
	}) bool {
		return l.ProgID != a.ProgramID
	})
	if len(links) != 1 || links[0].ID != a.LinkID {
		t.Errorf("bpftool shows the links %+v, read back %+v", links, a)
	}
}

// Native where the driver can, else generic, and the result says why.
func TestXDPModes(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	k := open(t)
	v0, lo := hook(l3af.XDP, "", "v0"), hook(l3af.XDP, "", "lo")
	c := gate(t, l3af.XDP, xdpPass)
	load := func(t host.Target, m l3af.Mode) host.Load { return host.Load{Target: t, Mode: m, Chain: c} }

	if res := attach(t, k, load(v0, "")); res != (host.Result{Mode: l3af.Native}) {
		t.Errorf("auto on veth: %+v", res)
	}
	res := attach(t, k, load(lo, l3af.Auto))
	if res.Mode != l3af.Generic || !strings.Contains(res.Note, "attach in native mode") || !strings.Contains(res.Note, "the loopback interface has no native XDP") {
		t.Errorf("auto on lo: %+v", res)
	}
	// Again: generic stays, by an update of the same link.
	before := attached(t, k, lo)
	if res := attach(t, k, load(lo, l3af.Auto)); res.Mode != l3af.Generic || res.Note == "" {
		t.Errorf("auto on lo again: %+v", res)
	}
	if now := attached(t, k, lo); now.LinkID != before.LinkID {
		t.Errorf("the link %d became %d", before.LinkID, now.LinkID)
	}

	// What the driver cannot do is refused, and what ran runs on: in the old
	// mode with the old program, though the link had to go.
	before = attached(t, k, lo)
	if _, err := k.Attach(t.Context(), load(lo, l3af.Native)); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("native on lo: %v", err)
	}
	now := attached(t, k, lo)
	if now.ProgramID != before.ProgramID || now.Mode != l3af.Generic || now.ID != c.ID {
		t.Errorf("before %+v, now %+v", before, now)
	}

	// From mode to mode.
	for _, mode := range []l3af.Mode{l3af.Generic, l3af.Native, l3af.Generic} {
		if res := attach(t, k, load(v0, mode)); res != (host.Result{Mode: mode}) {
			t.Errorf("to %s: %+v", mode, res)
		}
		a := attached(t, k, v0)
		if a.Mode != mode || a.ID != c.ID {
			t.Errorf("to %s: %+v", mode, a)
		}
		checkOutside(t, a)
	}

	before = attached(t, k, v0)
	_, err := k.Attach(t.Context(), load(v0, l3af.Offload))
	if err == nil || !strings.Contains(err.Error(), "offload: the kernel refuses the program for v0 (the driver veth") ||
		!(errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		t.Errorf("offload: %v", err)
	}
	if now := attached(t, k, v0); now != before {
		t.Errorf("before %+v, now %+v", before, now)
	}
	if _, err := k.Attach(t.Context(), load(v0, "warp")); err == nil {
		t.Error("an unknown mode is taken")
	}
}

// A chain that cannot be loaded changes nothing.
func TestRejectedProgram(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	k := open(t)
	target := hook(l3af.XDP, "", "v0")
	good := gate(t, l3af.XDP, xdpPass)
	attach(t, k, host.Load{Target: target, Chain: good, Contents: []host.Contents{deny("g0", 9)}})
	before, pins, objects := attached(t, k, target), tree(t, k.root), testenv.List(t)

	var members []chain.Member
	for _, entry := range []string{"gate", "careless"} {
		members = append(members, chain.Member{Name: "g" + fmt.Sprint(len(members)), Spec: object(t), Entry: entry})
	}
	bad, err := chain.Compose(l3af.XDP, members)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 { // a log longer than the first buffer
		bad.Program.Instructions = slices.Insert(bad.Program.Instructions, 1, asm.Mov.Imm(asm.R0, int32(i)))
	}
	load := host.Load{Target: target, Chain: bad, Contents: []host.Contents{deny("g0", 10)}}
	for name, f := range map[string]func() error{
		"Attach":   func() error { _, err := k.Attach(t.Context(), load); return err },
		"TestLoad": func() error { return k.TestLoad(load) },
		"Attach on a hook where nothing runs": func() error {
			_, err := k.Attach(t.Context(), host.Load{Target: hook(l3af.XDP, "far", "v1"), Chain: bad})
			return err
		},
	} {
		err := f()
		rejected := (*ebpf.VerifierError)(nil)
		if !errors.As(err, &rejected) {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.HasPrefix(err.Error(), "load: ") || len(rejected.Log) < 200 {
			t.Errorf("%s: %d lines: %.100s", name, len(rejected.Log), err)
		}
		for _, line := range rejected.Log {
			if !strings.Contains(err.Error(), line) {
				t.Fatalf("%s: the error lacks the line %q", name, line)
			}
		}
		if now := attached(t, k, target); now != before {
			t.Errorf("%s: before %+v, now %+v", name, before, now)
		}
		if now := tree(t, k.root); !slices.Equal(now, pins) {
			t.Errorf("%s: pins were %v, are %v", name, pins, now)
		}
		if got := dump(t, pinnedMap(t, k, target, "g0", "deny")); len(got) != 1 || got[string(port(9))] == "" {
			t.Errorf("%s: the contents became %x", name, got)
		}
	}
	if now := testenv.List(t); len(now.Links) != len(objects.Links) {
		t.Errorf("%d links became %d", len(objects.Links), len(now.Links))
	}
}

// TestLoad verifies, says what Attach would, and leaves nothing.
func TestTestLoad(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	for _, load := range []host.Load{
		{Target: hook(l3af.XDP, "", "not-there"), Chain: gate(t, l3af.XDP, xdpPass, xdpDrop), Contents: []host.Contents{deny("g0", 9)}},
		{Target: hook(l3af.TCEgress, "not-there", "v0"), Chain: gate(t, l3af.TCEgress, tcUnspec)},
		{Target: host.Target{Probe: "e"}, Chain: probe(t, "raw_tracepoint/sched_process_exec", "raw_execs")},
	} {
		if err := k.TestLoad(load); err != nil {
			t.Errorf("%s: %v", load.Target, err)
		}
	}
	if left := tree(t, k.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	load := host.Load{Target: hook(l3af.XDP, "", "lo"), Chain: gate(t, l3af.XDP, xdpPass), Contents: []host.Contents{{Member: "g0", Map: "deny", Full: true, Entries: []host.Entry{{Key: []byte{1}}}}}}
	if err := k.TestLoad(load); err == nil || !strings.Contains(err.Error(), "map g0/deny: entry 0: the key has 1 bytes") {
		t.Errorf("bad contents: %v", err)
	}
}

// A pinned map of another shape is an error that names the difference.
func TestMapShapeMismatch(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	attach(t, k, host.Load{Target: target, Chain: gate(t, l3af.XDP, xdpPass)})
	before, pins := attached(t, k, target), tree(t, k.root)

	spec := object(t)
	spec.Maps["deny"].MaxEntries = 17
	c, err := chain.Compose(l3af.XDP, []chain.Member{{Name: "new", Spec: object(t), Entry: "gate"}, {Name: "g0", Spec: spec, Entry: "gate"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"Attach":   func() error { _, err := k.Attach(t.Context(), host.Load{Target: target, Chain: c}); return err },
		"TestLoad": func() error { return k.TestLoad(host.Load{Target: target, Chain: c}) },
		"Write":    func() error { _, err := k.Write(target, c, []host.Contents{deny("g0", 1)}); return err },
	} {
		if err := f(); !errors.Is(err, ebpf.ErrMapIncompatible) || !strings.Contains(err.Error(), "map g0/deny: the pinned map has another shape: MaxEntries: 16 changed to 17") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := attached(t, k, target); now != before {
		t.Errorf("before %+v, now %+v", before, now)
	}
	if now := tree(t, k.root); !slices.Equal(now, pins) {
		t.Errorf("pins were %v, are %v", pins, now)
	}
}

// Write changes contents and patches of what runs, and nothing the second time.
func TestWrite(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	k := open(t)
	target := hook(l3af.XDP, "far", "v1")
	c := gate(t, l3af.XDP, xdpPass)
	contents := []host.Contents{deny("g0", 9, 10), {Member: "g0", Map: ".data", Patches: []host.Patch{{Offset: 4, Data: u32(77)}}}}
	if n, err := k.Write(target, c, contents); !errors.Is(err, fs.ErrNotExist) || n != 0 {
		t.Errorf("where nothing runs: %d, %v", n, err)
	}
	attach(t, k, host.Load{Target: target, Chain: c})
	data := func() []byte {
		b, err := pinnedMap(t, k, target, "g0", ".data").LookupBytes(uint32(0))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	initial := data()
	if !slices.Contains([]string{string(append(u32(7), u32(9)...)), string(append(u32(9), u32(7)...))}, string(initial)) {
		t.Errorf("initial data %x", initial)
	}
	before := attached(t, k, target)
	for _, want := range []int{3, 0} {
		if n, err := k.Write(target, c, contents); n != want || err != nil {
			t.Errorf("changed %d, want %d: %v", n, want, err)
		}
	}
	if got, want := data(), append(slices.Clone(initial[:4]), u32(77)...); !bytes.Equal(got, want) {
		t.Errorf("data %x, want %x", got, want)
	}
	if arrives(t, "", "far", "10.9.0.2", 9) {
		t.Error("a denied packet arrives")
	}
	if n, err := k.Write(target, c, []host.Contents{deny("g0")}); n != 2 || err != nil {
		t.Errorf("changed %d, want 2: %v", n, err)
	}
	if !arrives(t, "", "far", "10.9.0.2", 9) {
		t.Error("an allowed packet does not arrive")
	}
	if now := attached(t, k, target); now != before {
		t.Errorf("before %+v, now %+v", before, now)
	}
	for _, bad := range [][]host.Contents{
		{deny("nobody", 1)},
		{deny("g0", 1), deny("g0", 2)},
		{{Member: "g0", Map: ".rodata", Patches: []host.Patch{{Data: u32(1)}}}},
		{{Member: "", Map: chain.CountersName, Full: true}},
	} {
		if n, err := k.Write(target, c, bad); n != 0 || err == nil {
			t.Errorf("%+v: changed %d, %v", bad, n, err)
		}
	}
}

// An interface that goes and comes back is another; what is pinned for the old
// one is dead, and an attach puts the chain on the new one.
func TestInterfaceMadeAnew(t *testing.T) {
	for _, kind := range l3af.HookKinds() {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			k := open(t)
			target := hook(kind, "", "v0")
			pass := map[bool]int32{true: xdpPass, false: tcUnspec}[kind == l3af.XDP]
			load := host.Load{Target: target, Chain: gate(t, kind, pass), Contents: []host.Contents{deny("g0", 9)}}
			if _, err := k.Attach(t.Context(), load); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("on no interface: %v", err)
			}
			if left := tree(t, k.root); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			pair(t)
			attach(t, k, load)
			if err := pinnedMap(t, k, target, "g0", "deny").Put(port(10), u32(1)); err != nil {
				t.Fatal(err)
			}
			first := attached(t, k, target)
			testenv.DeleteLink(t, "", "v0")
			if a := attached(t, k, target); a != (host.Attached{Target: target}) {
				t.Errorf("without interface: %+v", a)
			}
			testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
			if a := attached(t, k, target); a != (host.Attached{Target: target}) {
				t.Errorf("on an interface that nothing was attached to: %+v", a)
			}
			load.Contents = nil
			attach(t, k, load)
			a := attached(t, k, target)
			if a.ID != load.Chain.ID || a.LinkID == first.LinkID {
				t.Errorf("read back %+v, first %+v", a, first)
			}
			if got := dump(t, pinnedMap(t, k, target, "g0", "deny")); len(got) != 2 {
				t.Errorf("the map's contents did not survive: %x", got)
			}
		})
	}
}

// A renamed interface runs on until its new name's chain takes over the link;
// the old name runs nothing then.
func TestInterfaceRenamed(t *testing.T) {
	for _, kind := range l3af.HookKinds() {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			pair(t)
			k := open(t)
			old, now := hook(kind, "", "v0"), hook(kind, "", "w0")
			pass := map[bool]int32{true: xdpPass, false: tcUnspec}[kind == l3af.XDP]
			attach(t, k, host.Load{Target: old, Chain: gate(t, kind, pass)})
			first := attached(t, k, old)
			rename(t, "v0", "w0")
			if a := attached(t, k, old); a != (host.Attached{Target: old}) {
				t.Errorf("under the old name: %+v", a)
			}
			c := gate(t, kind, pass, pass)
			attach(t, k, host.Load{Target: now, Chain: c})
			a := attached(t, k, now)
			if a.ID != c.ID || a.LinkID != first.LinkID {
				t.Errorf("under the new name %+v, before %+v", a, first)
			}
			if b := attached(t, k, old); b != (host.Attached{Target: old}) {
				t.Errorf("under the old name: %+v", b)
			}

			// Another interface gets the old name: two chains, each on its own.
			testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Name: "v9"})
			attach(t, k, host.Load{Target: old, Chain: c})
			b := attached(t, k, old)
			if b.ID != c.ID || b.LinkID == a.LinkID || attached(t, k, now) != a {
				t.Errorf("old name %+v, new name %+v", b, attached(t, k, now))
			}
			// And the names change places: neither runs what its name says.
			rename(t, "v0", "tmp")
			rename(t, "w0", "v0")
			rename(t, "tmp", "w0")
			for _, target := range []host.Target{old, now} {
				if a := attached(t, k, target); a.ID != "" {
					t.Errorf("%+v", a)
				}
			}
			testenv.DeleteLink(t, "", "v0")
			testenv.DeleteLink(t, "", "w0")
		})
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	l, err := netlink.LinkByName(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetDown(l) },
		func() error { return netlink.LinkSetName(l, to) },
		func() error { return netlink.LinkSetUp(l) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// An interface that moved to another namespace is not the hook's any more,
// whatever its index is there.
func TestInterfaceMoved(t *testing.T) {
	testenv.Clean(t)
	testenv.Netns(t, "near")
	pair(t)
	k := open(t)
	target := hook(l3af.XDP, "near", "m0")
	testenv.Veth(t, testenv.End{Netns: "near", Name: "m0"}, testenv.End{Netns: "near", Name: "m1"})
	c := gate(t, l3af.XDP, xdpPass)
	attach(t, k, host.Load{Target: target, Chain: c})
	index := testenv.Interface(t, "near", "m0").Index
	testenv.In(t, "near", func() {
		l, err := netlink.LinkByName("m0")
		if err != nil {
			t.Fatal(err)
		}
		h, err := netns.GetFromName("far")
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if err := netlink.LinkSetNsFd(l, int(h)); err != nil {
			t.Fatal(err)
		}
		// Another one with the same name and index takes its place.
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = "m0", index
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "m2"}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { testenv.DeleteLink(t, "far", "m0") })
	if got := testenv.Interface(t, "near", "m0").Index; got != index {
		t.Fatalf("index %d, want %d", got, index)
	}
	if a := attached(t, k, target); a.ID != "" {
		t.Errorf("it runs elsewhere: %+v", a)
	}
	attach(t, k, host.Load{Target: target, Chain: c})
	a := attached(t, k, target)
	if a.ID != c.ID {
		t.Errorf("read back %+v", a)
	}
	checkOutside(t, a)
	// A namespace that is gone is no error but nothing runs there.
	if err := netns.DeleteNamed("near"); err != nil {
		t.Fatal(err)
	}
	if a := attached(t, k, target); a != (host.Attached{Target: target}) {
		t.Errorf("without namespace: %+v", a)
	}
	if _, err := k.Attach(t.Context(), host.Load{Target: target, Chain: c}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("attach without namespace: %v", err)
	}
	if _, err := k.Interfaces("near"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("interfaces without namespace: %v", err)
	}
}

// Somebody else's XDP program is not touched, and the error says whose it is.
func TestForeignProgram(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	k := open(t)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "stranger", Type: ebpf.XDP, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	target := hook(l3af.XDP, "", "v0")
	c := gate(t, l3af.XDP, xdpPass)
	for mode, flags := range map[l3af.Mode]link.XDPAttachFlags{l3af.Native: link.XDPDriverMode, l3af.Generic: link.XDPGenericMode} {
		l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: testenv.Interface(t, "", "v0").Index, Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []l3af.Mode{l3af.Auto, l3af.Native, l3af.Generic} {
			_, err = k.Attach(t.Context(), host.Load{Target: target, Mode: want, Chain: c})
			if say := fmt.Sprintf("program %d (stranger) of somebody else runs on v0 in %s mode", id, mode); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), say) {
				t.Errorf("%s: %v, want %q", want, err, say)
			}
		}
		if left := tree(t, k.root); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if err := l.Detach(); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	// On TCX there is place for both.
	l, err := link.AttachTCX(link.TCXOptions{Interface: testenv.Interface(t, "", "v0").Index, Attach: ebpf.AttachTCXIngress, Program: func() *ebpf.Program {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "stranger", Type: ebpf.SchedCLS, License: "MIT",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, tcUnspec), asm.Return()}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	in := hook(l3af.TCIngress, "", "v0")
	attach(t, k, host.Load{Target: in, Chain: gate(t, l3af.TCIngress, tcUnspec), Contents: []host.Contents{deny("g0", 9)}})
	if arrives(t, "far", "", "10.9.0.1", 9) || !arrives(t, "far", "", "10.9.0.1", 7) {
		t.Error("beside another TCX program the chain does not filter")
	}
}

// One interface under two names of its namespace is refused, not fought over.
func TestSameInterfaceTwice(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	k := open(t)
	for _, kind := range l3af.HookKinds() {
		c := gate(t, kind, xdpPass)
		attach(t, k, host.Load{Target: hook(kind, "far", "v1"), Chain: c})
		before := attached(t, k, hook(kind, "far", "v1"))
		_, err := k.Attach(t.Context(), host.Load{Target: hook(kind, "/run/netns/far", "v1"), Chain: c})
		if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), hook(kind, "far", "v1").String()+" is the same interface") {
			t.Errorf("%s: %v", kind, err)
		}
		if now := attached(t, k, hook(kind, "far", "v1")); now != before {
			t.Errorf("%s: before %+v, now %+v", kind, before, now)
		}
	}
}

// What a crash leaves at any point of an attach is put in order by the next
// start, and by the next attach.
func TestCrashLeftovers(t *testing.T) {
	type state struct {
		k      *Kernel
		target host.Target
		old    *chain.Chain
	}
	// fresh attaches a chain of its own at iface and pins it where a new link
	// waits to take the old one's place.
	fresh := func(t *testing.T, s state, iface string) *chain.Chain {
		c := gate(t, l3af.TCIngress, tcUnspec, tcUnspec, tcUnspec)
		other := hook(l3af.TCIngress, "", iface)
		aside := filepath.Join(s.k.root, "aside")
		if err := os.Rename(s.k.linkPath(s.target), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		attach(t, s.k, host.Load{Target: other, Chain: c})
		if err := os.Rename(s.k.linkPath(other), filepath.Join(s.k.path(s.target), newLinkPin)); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(aside, s.k.linkPath(s.target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if other != s.target {
			if err := s.k.Tidy(other, nil); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	for name, crash := range map[string]func(t *testing.T, s state) (runs *chain.Chain){
		"maps pinned, no link": func(t *testing.T, s state) *chain.Chain {
			if err := s.k.Detach(s.target); err != nil {
				t.Fatal(err)
			}
			return nil
		},
		"a new link beside a dead one": func(t *testing.T, s state) *chain.Chain {
			rename(t, "v0", "tmp")
			rename(t, "w0", "v0")
			return fresh(t, s, "v0")
		},
		"a new link without an old one": func(t *testing.T, s state) *chain.Chain {
			if err := s.k.Detach(s.target); err != nil {
				t.Fatal(err)
			}
			return fresh(t, s, "v0")
		},
		"a new link beside one that runs": func(t *testing.T, s state) *chain.Chain {
			fresh(t, s, "w0")
			return s.old
		},
		"a detached link": func(t *testing.T, s state) *chain.Chain {
			l, err := link.LoadPinnedLink(s.k.linkPath(s.target), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := l.Detach(); err != nil {
				t.Fatal(err)
			}
			return nil
		},
		"a foreign pin in place of the link": func(t *testing.T, s state) *chain.Chain {
			if err := s.k.Detach(s.target); err != nil {
				t.Fatal(err)
			}
			if err := pinnedMap(t, s.k, s.target, "g0", "deny").Pin(s.k.linkPath(s.target)); err != nil {
				t.Fatal(err)
			}
			return nil
		},
	} {
		for _, start := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, start %t", name, start), func(t *testing.T) {
				testenv.Clean(t)
				pair(t)
				testenv.Veth(t, testenv.End{Name: "w0"}, testenv.End{Name: "w1"})
				t.Cleanup(func() { testenv.DeleteLink(t, "", "tmp"); testenv.DeleteLink(t, "", "v0") })
				s := state{k: open(t), target: hook(l3af.TCIngress, "", "v0"), old: gate(t, l3af.TCIngress, tcUnspec)}
				attach(t, s.k, host.Load{Target: s.target, Chain: s.old})
				runs := crash(t, s)
				if start {
					s.k = restart(t, s.k)
					a := attached(t, s.k, s.target)
					if runs == nil && a.ID != "" || runs != nil && a.ID != runs.ID {
						t.Errorf("after the start: %+v", a)
					}
				}
				next := gate(t, l3af.TCIngress, tcUnspec, tcUnspec)
				attach(t, s.k, host.Load{Target: s.target, Chain: next})
				a := attached(t, s.k, s.target)
				if a.ID != next.ID {
					t.Errorf("after the attach: %+v", a)
				}
				dev, err := findDevice("v0")
				if err != nil {
					t.Fatal(err)
				}
				// The kernel detaches what was unpinned some time later.
				eventually(t, func() bool {
					ids, err := tcxLinks(l3af.TCIngress, dev)
					return err == nil && len(ids) == 1 && uint32(ids[0]) == a.LinkID
				})
				if err := s.k.Tidy(s.target, next); err != nil {
					t.Fatal(err)
				}
				for _, p := range tree(t, s.k.path(s.target)) {
					if strings.Contains(p, newLinkPin) || strings.Contains(p, "g2") {
						t.Errorf("left: %s", p)
					}
				}
			})
		}
	}
}

// Tidy keeps what the chain has and the counters; the rest goes.
func TestTidy(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	long, short := gate(t, l3af.XDP, xdpPass, xdpPass), gate(t, l3af.XDP, xdpPass)
	attach(t, k, host.Load{Target: target, Chain: long})
	attach(t, k, host.Load{Target: target, Chain: short})
	if err := k.Tidy(target, short); err != nil {
		t.Fatal(err)
	}
	dir := "hooks/lo/xdp"
	want := []string{"hooks", "hooks/lo", dir, dir + "/counters", dir + "/counters/" + long.ID, dir + "/counters/" + short.ID,
		dir + "/link", dir + "/maps", dir + "/maps/g0", dir + "/maps/g0/%2Ebss", dir + "/maps/g0/%2Edata", dir + "/maps/g0/deny"}
	got := tree(t, k.root)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	if a := attached(t, k, target); a.ID != short.ID {
		t.Errorf("read back %+v", a)
	}
}

// A context that ended stops an attach before anything changes.
func TestAttachContext(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Attach(ctx, host.Load{Target: hook(l3af.XDP, "", "lo"), Chain: gate(t, l3af.XDP, xdpPass)}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left := tree(t, k.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// While a chain is replaced again and again, every packet passes through the
// old one or the new one.
func TestReplaceUnderTraffic(t *testing.T) {
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			pair(t)
			k := open(t)
			pass := map[bool]int32{true: xdpPass, false: tcUnspec}[kind == l3af.XDP]
			target := hook(kind, "", "v0")
			chains := []*chain.Chain{gate(t, kind, pass), gate(t, kind, pass, pass)}
			load := func(i int) host.Load {
				return host.Load{Target: target, Chain: chains[i%2], Contents: []host.Contents{deny("g0", 9)}}
			}
			attach(t, k, load(0))
			if arrives(t, "far", "", "10.9.0.1", 9) {
				t.Fatal("a denied packet arrives")
			}
			var denied, client *net.UDPConn
			var err error
			if denied, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(10, 9, 0, 1), Port: 9}); err != nil {
				t.Fatal(err)
			}
			defer denied.Close()
			testenv.In(t, "far", func() {
				if client, err = net.ListenUDP("udp", nil); err != nil {
					t.Fatal(err)
				}
			})
			defer client.Close()
			before := seen(t, k, target, "g0")
			stop, sent := make(chan struct{}), make(chan uint64)
			go func() {
				n := uint64(0)
				for {
					select {
					case <-stop:
						sent <- n
						return
					default:
					}
					if _, err := client.WriteTo([]byte("l3af"), &net.UDPAddr{IP: net.IPv4(10, 9, 0, 1), Port: 9}); err == nil {
						n++
					}
				}
			}()
			for i := range 20 {
				attach(t, k, load(i+1))
			}
			close(stop)
			n := <-sent
			// A queue before the hook may have lost some, not all.
			eventually(t, func() bool { return seen(t, k, target, "g0") > before })
			denied.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, _, err := denied.ReadFrom(make([]byte, 16)); err == nil {
				t.Errorf("one of %d denied packets came through", n)
			}
		})
	}
}
