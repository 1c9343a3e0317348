package bench

import (
	"bytes"
	_ "embed"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

//go:embed hops/send.bpf.o
var sendObject []byte

// wire is a veth pair in a network namespace of its own, and the means to send
// live packets over it: BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES makes
// real frames, millions a second.
type wire struct {
	near, far int // the interfaces
	send      *ebpf.Program
	give      *ebpf.Program
}

// onWire makes one and calls f on a thread in its namespace; both end with f.
func onWire(f func(*wire) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and with it the namespace
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(sendObject))
			if err != nil {
				return err
			}
			programs, err := ebpf.NewCollection(spec)
			if err != nil {
				return err
			}
			defer programs.Close()
			w := &wire{send: programs.Programs["send"], give: programs.Programs["give"]}
			if err := w.make(); err != nil {
				return err
			}
			// Only then is near ready to be where frames come from.
			l, err := w.attach(w.near, w.give)
			if err != nil {
				return err
			}
			defer l.Close()
			return f(w)
		}()
	}()
	return <-done
}

func (w *wire) make() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "near"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far"}); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	for name, index := range map[string]*int{"near": &w.near, "far": &w.far} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
		*index = l.Attrs().Index
	}
	// With GRO it polls for packets whether it has an XDP program or not.
	if err := groOn("far"); err != nil {
		return fmt.Errorf("switch GRO of far on: %w", err)
	}
	return nil
}

// groOn is ethtool -K NAME gro on (linux/ethtool.h).
func groOn(name string) error {
	const setGRO = 0x2c // ETHTOOL_SGRO
	value := struct{ cmd, data uint32 }{setGRO, 1}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of struct ifreq
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], name)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// attach has an interface run a program, as native XDP.
func (w *wire) attach(index int, p *ebpf.Program) (link.Link, error) {
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: index, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, fmt.Errorf("attach XDP: %w", err)
	}
	return l, nil
}

// run makes n packets, has them sent out of near or given to the stack as
// received there, and tells how long the thread ran for that: the kernel works on
// them in the same thread, at the end of each batch, also on those that come to
// far.
func (w *wire) run(how *ebpf.Program, n int) (time.Duration, error) {
	in := packet()
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	_, err = how.Run(&ebpf.RunOptions{
		Data: in, Repeat: uint32(n), Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
		Context: xdpContext{DataEnd: uint32(len(in)), Ingress: uint32(w.near)},
	})
	if err != nil {
		return 0, fmt.Errorf("make live packets: %w", err)
	}
	end, err := threadTime()
	return end - start, err
}

// xdpContext is struct xdp_md (linux/bpf.h).
type xdpContext struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }

// arrived is how many packets came to far.
func (w *wire) arrived() (uint64, error) {
	l, err := netlink.LinkByIndex(w.far)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Statistics.RxPackets, nil
}
