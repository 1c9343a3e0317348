package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
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
	if _, err := k.Attach(t.Context(), load(lo, l3af.Native)); !errors.Is(err, unix.EOPNOTSUPP) || !errors.As(err, new(*host.ModeError)) {
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
		!(errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) || errors.As(err, new(*host.ModeError)) ||
		strings.HasSuffix(strings.TrimSpace(err.Error()), ":") {
		t.Errorf("offload: %q", err)
	}
	if now := attached(t, k, v0); now != before {
		t.Errorf("before %+v, now %+v", before, now)
	}
	if _, err := k.Attach(t.Context(), load(v0, "warp")); err == nil {
		t.Error("an unknown mode is taken")
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
