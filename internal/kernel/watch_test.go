package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"l3af/internal/host"
	"l3af/internal/testenv"
)

// Watch tells of interfaces here and in named namespaces, and of such
// namespaces, also when another takes the name of one.
func TestWatch(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	calls, listens := make(chan struct{}, 1), make(chan struct{}, 1)
	var running atomic.Int32
	done := make(chan error, 1)
	go func() {
		names := func() []string {
			select {
			case listens <- struct{}{}:
			default:
			}
			return []string{"", "come", "not-there", "a/b"}
		}
		done <- k.Watch(ctx, names, func() {
			if running.Add(1) != 1 {
				t.Error("calls overlap")
			}
			defer running.Add(-1)
			select {
			case calls <- struct{}{}:
			default:
			}
		})
	}()
	// Named namespaces are looked at about once a second.
	const soon, later = 200 * time.Millisecond, 1300 * time.Millisecond
	told := func(what string, echoes time.Duration) {
		t.Helper()
		select {
		case <-calls:
		case <-time.After(20 * time.Second):
			t.Errorf("not told: %s", what)
		}
		// Until the echoes are over.
		for quiet := false; !quiet; {
			select {
			case <-calls:
			case <-time.After(echoes):
				quiet = true
			}
		}
	}
	<-listens
	testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
	told("an interface came", soon)
	rename(t, "v0", "w0")
	told("an interface has another name", soon)
	testenv.DeleteLink(t, "", "w0")
	told("an interface went", soon)

	testenv.Netns(t, "come")
	told("a namespace came", later)
	testenv.Veth(t, testenv.End{Netns: "come", Name: "v0"}, testenv.End{Netns: "come", Name: "v1"})
	told("an interface came in a namespace", soon)
	testenv.DeleteLink(t, "come", "v0")
	told("an interface went in a namespace", soon)
	if err := netns.DeleteNamed("come"); err != nil {
		t.Fatal(err)
	}
	testenv.Netns(t, "come")
	told("a namespace took another's name", later)
	testenv.Veth(t, testenv.End{Netns: "come", Name: "v0"}, testenv.End{Netns: "come", Name: "v1"})
	told("an interface came in it", soon)

	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A watched namespace ends when its name does, at once: `ip netns del` takes
// the interfaces in it along.
func TestWatchKeepsNoNamespace(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	testenv.Netns(t, "go")
	testenv.Veth(t, testenv.End{Name: "here"}, testenv.End{Netns: "go", Name: "there"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	asked := make(chan struct{}, 100)
	go func() {
		done <- k.Watch(ctx, func() []string { asked <- struct{}{}; return []string{"go"} }, func() {})
	}()
	<-asked
	<-asked // the first answer was worked on
	defer func() { cancel(); <-done }()
	if err := netns.DeleteNamed("go"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		_, err := netlink.LinkByName("here")
		return errors.As(err, new(netlink.LinkNotFoundError))
	})
}

// A watch that hears nothing any more says so: here because of a message that
// makes no sense.
func TestWatchFails(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	asked := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() {
		done <- k.Watch(t.Context(), func() []string { asked <- struct{}{}; return nil }, func() {})
	}()
	<-asked // it listens
	table, err := os.ReadFile("/proc/thread-self/net/netlink")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for line := range strings.Lines(string(table)) {
		var ptr string
		var protocol, port, groups uint32
		if n, _ := fmt.Sscanf(line, "%s %d %d %x", &ptr, &protocol, &port, &groups); n != 4 || protocol != unix.NETLINK_ROUTE || groups == 0 {
			continue
		}
		if err := unix.Sendto(fd, []byte("short"), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port}); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err == nil {
		t.Error("no error")
	}
}

func TestInterfaces(t *testing.T) {
	testenv.Clean(t)
	pair(t)
	k := open(t)
	for ns, names := range map[string][]string{"": {"lo", "v0"}, "far": {"lo", "v1"}, "/run/netns/far": {"lo", "v1"}} {
		got, err := k.Interfaces(ns)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			want := host.Interface{Name: name, Index: testenv.Interface(t, strings.TrimPrefix(ns, namedNetns+"/"), name).Index}
			if !slices.Contains(got, want) {
				t.Errorf("%q: %v lacks %v", ns, got, want)
			}
		}
	}
	if err := os.WriteFile("/run/netns/soon", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove("/run/netns/soon")
	for _, ns := range []string{"not-there", "soon", "/run/netns/not-there", "/etc/passwd"} {
		if _, err := k.Interfaces(ns); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", ns, err)
		}
	}
	for _, ns := range []string{"a/b", "..", "."} {
		if _, err := k.Interfaces(ns); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", ns, err)
		}
	}
}

// parseDevice takes any bytes.
func FuzzParseDevice(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 16))
	f.Add(append(make([]byte, 16), 8, 0, 3, 0, 'l', 'o', 0, 0, 12, 0, 43, 0, 8, 0, 6, 0, 1, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := parseDevice(b); err == nil && d.xdp == nil {
			t.Errorf("%+v", d)
		}
	})
}
