package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	device    = "demo0" // both ends' name
	netnsDir  = "/run/netns"
	notesName = "demo.json"
)

// machine is what the demo makes on the host: a folder, two network
// namespaces joined by a veth pair, a bpffs and a daemon.
type machine struct {
	Dir      string
	Sender   string // network namespaces
	Receiver string
	PID      int // of l3afd
	// MadeNetnsDir: nobody had named a network namespace before.
	MadeNetnsDir bool

	daemon *exec.Cmd
	ended  chan struct{} // closed when the daemon is gone
}

func (m *machine) socket() string { return filepath.Join(m.Dir, "l3afd.sock") }
func (m *machine) log() string    { return filepath.Join(m.Dir, "l3afd.log") }
func (m *machine) bpffs() string  { return filepath.Join(m.Dir, "bpf") }

// build makes the machine. After an error, remove takes away what is there.
func (m *machine) build() error {
	dir, err := os.MkdirTemp("", "l3af-demo-")
	if err != nil {
		return err
	}
	m.Dir = dir
	unique := strings.TrimPrefix(filepath.Base(dir), "l3af-demo-")
	if _, err := os.Stat(netnsDir); errors.Is(err, fs.ErrNotExist) {
		m.MadeNetnsDir = true
	}
	if err := os.Mkdir(m.bpffs(), 0o700); err != nil {
		return err
	}
	if err := unix.Mount("bpf", m.bpffs(), "bpf", 0, "mode=700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", m.bpffs(), err)
	}
	m.Sender, m.Receiver = "l3af-demo-"+unique+"-tx", "l3af-demo-"+unique+"-rx"
	for _, name := range []string{m.Sender, m.Receiver} {
		if err := onThread(func() error {
			h, err := netns.NewNamed(name)
			if err == nil {
				h.Close()
			}
			return err
		}); err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
	}
	return m.join()
}

// end is one end of the veth pair.
type end struct {
	mac   net.HardwareAddr
	addrs []netip.Addr
}

var (
	// From the ranges for documentation (RFC 5737, RFC 3849).
	receiverEnd = end{
		net.HardwareAddr{0x02, 0x4c, 0x33, 0x41, 0x46, 1},
		[]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	}
	senderEnd = end{
		net.HardwareAddr{0x02, 0x4c, 0x33, 0x41, 0x46, 2},
		[]netip.Addr{friend4, friend6, denied4, denied6, flood4, flood6, steady4, steady6},
	}
	// What both ends route to the other one.
	prefixes = []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"}
)

// join makes the veth pair between the namespaces and sets both ends up.
// Neighbours are permanent, so that nothing but the demo's traffic flows.
func (m *machine) join() error {
	if err := in(m.Receiver, func() error {
		peer, err := netns.GetFromName(m.Sender)
		if err != nil {
			return err
		}
		defer peer.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = device
		attrs.HardwareAddr = receiverEnd.mac
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: device, PeerHardwareAddr: senderEnd.mac, PeerNamespace: netlink.NsFd(int(peer)),
		})
	}); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	for _, side := range []struct {
		netns      string
		self, peer end
	}{{m.Receiver, receiverEnd, senderEnd}, {m.Sender, senderEnd, receiverEnd}} {
		if err := in(side.netns, func() error { return setUp(side.self, side.peer) }); err != nil {
			return fmt.Errorf("set up %s in %s: %w", device, side.netns, err)
		}
	}
	return nil
}

func setUp(self, peer end) error {
	for _, name := range []string{"lo", device} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	index := l.Attrs().Index
	for _, a := range self.addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	for _, p := range prefixes {
		_, dst, err := net.ParseCIDR(p)
		if err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route %s: %w", p, err)
		}
	}
	for _, a := range peer.addrs {
		if err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: peer.mac,
		}); err != nil {
			return fmt.Errorf("neighbour %s: %w", a, err)
		}
	}
	return nil
}

// in runs f in a named network namespace.
func in(name string, f func() error) error {
	return onThread(func() error {
		h, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(h)
			h.Close()
		}
		if err != nil {
			return fmt.Errorf("enter network namespace %s: %w", name, err)
		}
		return f()
	})
}

// lost is how many packets the device of the sender could not hand over,
// because the receiving queue was full.
func (m *machine) lost() (n uint64, err error) {
	err = in(m.Sender, func() error {
		l, err := netlink.LinkByName(device)
		if err == nil {
			n = l.Attrs().Statistics.TxDropped
		}
		return err
	})
	return n, err
}

// start runs l3afd, as a process of its own that the terminal's signals do
// not reach, and waits until ready says nil.
func (m *machine) start(ctx context.Context, l3afd string, ready func(context.Context) error) error {
	log, err := os.Create(m.log())
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path: l3afd,
		Args: []string{l3afd,
			"-socket", m.socket(), "-state-dir", filepath.Join(m.Dir, "state"), "-bpffs", filepath.Join(m.bpffs(), "l3af")},
		Stdout:      log,
		Stderr:      log,
		Dir:         m.Dir,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start l3afd: %w", err)
	}
	m.daemon, m.PID, m.ended = cmd, cmd.Process.Pid, make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(m.ended)
	}()
	for deadline := time.Now().Add(15 * time.Second); ; {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.ended:
			return fmt.Errorf("l3afd ended at its start:\n%s", m.logTail())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("l3afd does not answer: %w\n%s", err, m.logTail())
		}
	}
}

// logTail is the end of the daemon's log.
func (m *machine) logTail() string {
	text, err := os.ReadFile(m.log())
	if err != nil {
		return err.Error()
	}
	const most = 2000
	return strings.TrimSpace(string(text[max(0, len(text)-most):]))
}

// write notes the machine down in its folder, for [Stop].
func (m *machine) write() error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.Dir, notesName), text, 0o600)
}

// remove takes everything away, whatever of it there is.
func (m *machine) remove() error {
	var errs []error
	if m.PID != 0 {
		errs = append(errs, m.stop())
	}
	for _, name := range []string{m.Sender, m.Receiver} {
		if name == "" {
			continue
		}
		if err := netns.DeleteNamed(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("delete network namespace %s: %w", name, err))
		}
		// What is left when making it failed half-way.
		_ = os.Remove(filepath.Join(netnsDir, name))
	}
	if m.MadeNetnsDir {
		_ = os.Remove(netnsDir) // others may use it by now
	}
	if m.Dir != "" {
		if err := unix.Unmount(m.bpffs(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.bpffs(), err))
		} else {
			errs = append(errs, os.RemoveAll(m.Dir))
		}
	}
	return errors.Join(errs...)
}

// stop ends the daemon: kindly, then not.
func (m *machine) stop() error {
	gone := m.gone
	if m.ended != nil {
		gone = func() bool {
			select {
			case <-m.ended:
				return true
			default:
				return false
			}
		}
	}
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if gone() {
			return nil
		}
		if err := syscall.Kill(m.PID, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end l3afd (pid %d): %w", m.PID, err)
		}
		for range 250 {
			if gone() {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return fmt.Errorf("l3afd (pid %d) does not end", m.PID)
}

// gone says that the process is not, or no longer, this machine's daemon.
func (m *machine) gone() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.PID))
	return err != nil || !strings.Contains(string(text), m.socket())
}

// Stop takes away the machine that a demo kept in dir.
func Stop(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, notesName))
	if err != nil {
		return fmt.Errorf("no demo is kept in %s: %w", dir, err)
	}
	var m machine
	if err := json.Unmarshal(text, &m); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Join(dir, notesName), err)
	}
	if m.Dir != dir {
		return fmt.Errorf("%s is of the demo in %s", filepath.Join(dir, notesName), m.Dir)
	}
	return m.remove()
}
