package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// open makes a Kernel in a bpffs of its own.
func open(t *testing.T) *Kernel {
	t.Helper()
	return openAt(t, filepath.Join(testenv.Bpffs(t), "l3af"))
}

func openAt(t *testing.T, dir string) *Kernel {
	t.Helper()
	k, err := New(dir, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		targets, err := k.targets()
		if err != nil {
			t.Error(err)
		}
		for _, target := range targets {
			if err := k.Tidy(target, nil); err != nil {
				t.Error(err)
			}
		}
		k.Close()
		if left := tree(t, dir); len(left) > 0 {
			t.Errorf("pins left: %v", left)
		}
	})
	return k
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// sendOne sends one UDP packet to nobody.
func sendOne(t *testing.T, ns, addr string, port int) {
	t.Helper()
	testenv.In(t, ns, func() {
		c, err := net.ListenUDP("udp", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.WriteTo([]byte("l3af"), &net.UDPAddr{IP: net.ParseIP(addr), Port: port})
		if err != nil && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
	})
}

// restart is what a daemon's death and next start are to the pins.
func restart(t *testing.T, k *Kernel) *Kernel {
	t.Helper()
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	return openAt(t, k.root)
}

// tree lists what is below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != dir {
			list = append(list, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return list
}

func object(t testing.TB) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec("testdata/gate.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// gate composes a chain of gate programs, one per verdict; the members are
// named g0, g1, ….
func gate(t testing.TB, kind l3af.HookKind, verdicts ...int32) *chain.Chain {
	t.Helper()
	var members []chain.Member
	for i, v := range verdicts {
		spec := object(t)
		if err := spec.Variables["verdict"].Set(v); err != nil {
			t.Fatal(err)
		}
		entry := "gate"
		if kind != l3af.XDP {
			entry = "gate_tc"
		}
		members = append(members, chain.Member{Name: "g" + string(rune('0'+i)), Spec: spec, Entry: entry})
	}
	c, err := chain.Compose(kind, members)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func probe(t testing.TB, attach, entry string) *chain.Chain {
	t.Helper()
	c, err := chain.Single(attach, chain.Member{Name: "e", Spec: object(t), Entry: entry})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func hook(kind l3af.HookKind, ns, iface string) host.Target {
	return host.Target{Hook: l3af.Hook{Netns: ns, Interface: iface, Kind: kind}}
}

func attach(t *testing.T, k *Kernel, load host.Load) host.Result {
	t.Helper()
	res, err := k.Attach(context.Background(), load)
	if err != nil {
		t.Fatalf("attach %s: %v", load.Target, err)
	}
	return res
}

// attached reads one target back.
func attached(t *testing.T, k *Kernel, target host.Target) host.Attached {
	t.Helper()
	list, err := k.Attached()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(a host.Attached) bool { return a.Target == target })
	if i < 0 {
		return host.Attached{}
	}
	return list[i]
}

func port(p uint16) []byte { return binary.NativeEndian.AppendUint16(nil, p) }

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// deny wants ports in the map deny of a member.
func deny(member string, ports ...uint16) host.Contents {
	c := host.Contents{Member: member, Map: "deny", Full: true}
	for _, p := range ports {
		c.Entries = append(c.Entries, host.Entry{Key: port(p), Values: [][]byte{u32(1)}})
	}
	return c
}

// pinnedMap opens a map of a member.
func pinnedMap(t *testing.T, k *Kernel, target host.Target, member, name string) *ebpf.Map {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(k.mapPath(target, "", &chain.Map{Member: member, Name: name}), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// seen reads how many packets or events a member's program saw.
func seen(t *testing.T, k *Kernel, target host.Target, member string) uint64 {
	t.Helper()
	v, err := pinnedMap(t, k, target, member, ".bss").LookupBytes(uint32(0))
	if err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(v)
}

// pair makes the veth pair v0 (10.9.0.1) in the test's own namespace and v1
// (10.9.0.2) in the namespace far.
func pair(t *testing.T) {
	t.Helper()
	testenv.Netns(t, "far")
	testenv.Veth(t, testenv.End{Netns: "", Name: "v0", Addrs: []string{"10.9.0.1/24"}},
		testenv.End{Netns: "far", Name: "v1", Addrs: []string{"10.9.0.2/24"}})
}

// control is a port that no test denies.
const control = 7

// arrives reports whether a UDP packet from one namespace to a port of an
// address in another does. Packets to the control port, sent behind it, tell
// when it would have.
func arrives(t *testing.T, from, to, addr string, port int) bool {
	t.Helper()
	listen := func(port int) (server *net.UDPConn) {
		testenv.In(t, to, func() {
			var err error
			if server, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(addr), Port: port}); err != nil {
				t.Fatal(err)
			}
		})
		return server
	}
	// received waits for a packet, and takes those waiting behind it.
	received := func(c *net.UDPConn, wait time.Duration) bool {
		n := 0
		for ; ; n++ {
			c.SetReadDeadline(time.Now().Add(wait))
			if _, _, err := c.ReadFrom(make([]byte, 16)); err != nil {
				return n > 0
			}
			wait = time.Millisecond
		}
	}
	reference := listen(control)
	defer reference.Close()
	server := reference
	if port != control {
		server = listen(port)
		defer server.Close()
	}
	// For the first second or so a new interface may lose what it is given; on
	// a machine that does other things, much longer.
	for answered, tries := 0, 0; answered < 2; tries++ {
		if tries == 600 {
			t.Errorf("packets to the control port do not arrive")
			return false
		}
		sendOne(t, from, addr, port)
		if port != control {
			sendOne(t, from, addr, control)
		}
		if !received(reference, 100*time.Millisecond) {
			continue
		}
		if port == control || received(server, 10*time.Millisecond) {
			return true
		}
		answered++
	}
	return false
}

// tool runs an outside tool in a namespace and decodes its JSON.
func tool(t *testing.T, ns string, out any, args ...string) {
	t.Helper()
	path := testenv.Tool(t, args[0])
	testenv.In(t, ns, func() {
		cmd := exec.Command(path, args[1:]...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		b, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, stderr.Bytes())
		}
		if err := json.Unmarshal(b, out); err != nil {
			t.Fatalf("%v: %v: %s", args, err, b)
		}
	})
}

// seenByIP is what `ip link` says about XDP on an interface: the mode
// (1 native, 2 generic) and the program's id and name.
func seenByIP(t *testing.T, ns, iface string) (mode int, id uint32, name string) {
	t.Helper()
	var links []struct {
		XDP struct {
			Mode int
			Prog struct {
				ID   uint32
				Name string
			}
		}
	}
	tool(t, ns, &links, "ip", "-j", "-details", "link", "show", "dev", iface)
	if len(links) != 1 {
		t.Fatalf("ip link shows %d interfaces", len(links))
	}
	x := links[0].XDP
	return x.Mode, x.Prog.ID, x.Prog.Name
}

func TestNewMountsAndLocks(t *testing.T) {
	testenv.Clean(t)
	dir := filepath.Join(t.TempDir(), "a", "b")
	var log bytes.Buffer
	k, err := New(dir, textLog(&log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if on, err := mounted(dir, unix.BPF_FS_MAGIC); err != nil || !on {
		t.Fatalf("%s is not on bpffs: %v", dir, err)
	}
	if !strings.Contains(log.String(), "level=INFO msg=\"mounted bpffs\" path="+dir) {
		t.Errorf("the log does not say so: %s", log.String())
	}
	if k.Boot() == "" || strings.TrimSpace(k.Boot()) != k.Boot() {
		t.Errorf("boot id %q", k.Boot())
	}

	if _, err := New(dir, nil); err == nil || !strings.Contains(err.Error(), "in use by another l3afd") {
		t.Errorf("a second one on the same directory: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	k, err = New(dir, textLog(&log))
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	if log.Len() > 0 {
		t.Errorf("mounted what was mounted: %s", log.String())
	}

	// Below /sys/fs/bpf the whole of it is mounted.
	if err := unix.Unmount(systemBpffs, 0); err != nil {
		t.Fatal(err)
	}
	k, err = New(systemBpffs+"/x/l3af", nil)
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	if on, err := mounted(systemBpffs, unix.BPF_FS_MAGIC); err != nil || !on {
		t.Errorf("%s is not bpffs: %v", systemBpffs, err)
	}
	os.RemoveAll(systemBpffs + "/x")

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(filepath.Join(file, "l3af"), nil); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
}

// eventually waits for what the kernel does some time later.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for range 600 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("it did not come to be")
}
