package testenv

import (
	"net"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Netns makes the network namespace /run/netns/NAME, with lo up, for the
// length of the test.
func Netns(t testing.TB, name string) {
	t.Helper()
	Root(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	h, err := netns.NewNamed(name)
	if err != nil {
		t.Fatalf("make netns %s: %v", name, err)
	}
	defer h.Close()
	if err := netns.Set(old); err != nil {
		panic(err) // this thread must not be used again
	}
	t.Cleanup(func() { _ = netns.DeleteNamed(name) })
	In(t, name, func() {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			t.Fatal(err)
		}
	})
}

// In runs f in a named network namespace ("" is the test's own) on a thread
// of its own. f must not start goroutines that expect the namespace.
func In(t testing.TB, name string, f func()) {
	t.Helper()
	if name == "" {
		f()
		return
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		finished := false
		defer func() {
			if !finished { // f called t.FailNow
				done <- nil
			}
		}()
		h, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(h)
			h.Close()
		}
		if err == nil {
			f()
		}
		finished = true
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("enter netns %s: %v", name, err)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// End is one end of a veth pair.
type End struct {
	Netns string   // "" is the test's own
	Name  string   // of the interface
	Addrs []string // CIDR; IPv6 without duplicate address detection
}

// Veth makes a veth pair, up and with addresses, for the length of the test.
func Veth(t testing.TB, a, b End) {
	t.Helper()
	Root(t)
	// Made in the test's namespace under names nobody has, then moved: the
	// wanted names may exist there.
	const ta, tb = "l3aftmp0", "l3aftmp1"
	attrs := netlink.NewLinkAttrs()
	attrs.Name = ta
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: tb}); err != nil {
		t.Fatalf("make veth: %v", err)
	}
	for _, e := range []struct {
		tmp string
		End
	}{{ta, a}, {tb, b}} {
		l, err := netlink.LinkByName(e.tmp)
		if err != nil {
			t.Fatal(err)
		}
		if e.Netns != "" {
			h, err := netns.GetFromName(e.Netns)
			if err != nil {
				t.Fatalf("netns %s: %v", e.Netns, err)
			}
			err = netlink.LinkSetNsFd(l, int(h))
			h.Close()
			if err != nil {
				t.Fatal(err)
			}
		}
		In(t, e.Netns, func() { setUp(t, e.tmp, e.End) })
	}
	t.Cleanup(func() { DeleteLink(t, a.Netns, a.Name) })
}

func setUp(t testing.TB, tmp string, e End) {
	l, err := netlink.LinkByName(tmp)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetName(l, e.Name); err != nil {
		t.Fatalf("name %s: %v", e.Name, err)
	}
	for _, a := range e.Addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = 0x02 // IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			t.Fatalf("address %s: %v", a, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
}

// DeleteLink removes an interface; one that is gone already is no error.
func DeleteLink(t testing.TB, ns, name string) {
	t.Helper()
	get := func() (netns.NsHandle, error) { return netns.GetFromName(ns) }
	if ns == "" {
		get = netns.Get
	}
	h, err := get()
	if err != nil {
		return
	}
	defer h.Close()
	nl, err := netlink.NewHandleAt(h)
	if err != nil {
		return
	}
	defer nl.Close()
	if l, err := nl.LinkByName(name); err == nil {
		if err := nl.LinkDel(l); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	}
}

// Interface looks an interface up in a named network namespace.
func Interface(t testing.TB, ns, name string) *net.Interface {
	t.Helper()
	var i *net.Interface
	In(t, ns, func() {
		var err error
		if i, err = net.InterfaceByName(name); err != nil {
			t.Fatal(err)
		}
	})
	return i
}
