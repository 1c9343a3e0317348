package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/host"
)

// device is a network interface, and the XDP programs that netlink sees on it.
type device struct {
	name  string
	index int
	xdp   map[l3af.Mode]uint32 // ids of programs
}

// Interfaces lists the interfaces of a network namespace ("" is the daemon's
// own). The error is [os.ErrNotExist] when there is no such namespace.
func (k *Kernel) Interfaces(netns string) ([]host.Interface, error) {
	var list []host.Interface
	err := within(netns, func() error {
		devices, err := devices("")
		for _, d := range devices {
			list = append(list, host.Interface{Name: d.name, Index: d.index})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return list, nil
}

// findDevice looks an interface up in the thread's network namespace. The
// error is [os.ErrNotExist] when there is none of that name.
func findDevice(name string) (*device, error) {
	if err := checkInterface(name); err != nil {
		return nil, err
	}
	found, err := devices(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	for _, d := range found {
		if d.name == name {
			return &d, nil
		}
	}
	return nil, fmt.Errorf("interface %s: %w", name, os.ErrNotExist)
}

// checkInterface refuses what can be no interface's name
// (dev_valid_name in net/core/dev.c).
func checkInterface(name string) error {
	ok := name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".."
	for i := range len(name) {
		// 0xa0 is a space to the kernel.
		ok = ok && strings.IndexByte("/: \t\n\v\f\r\x00\xa0", name[i]) < 0
	}
	if !ok {
		return fmt.Errorf("%q cannot be the name of an interface", name)
	}
	return nil
}

// devices asks rtnetlink(7) for one interface, or for all when name is "".
func devices(name string) ([]device, error) {
	const skipStatistics = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	for tries := 0; ; tries++ {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
		if name == "" {
			req.Flags = unix.NLM_F_REQUEST | unix.NLM_F_DUMP
		}
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		if name != "" {
			req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
		}
		req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics)))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		switch {
		case errors.Is(err, netlink.ErrDumpInterrupted) && tries < 10:
			continue // interfaces came or went meanwhile
		case errors.Is(err, unix.ENODEV):
			return nil, os.ErrNotExist
		case err != nil:
			return nil, fmt.Errorf("rtnetlink: %w", err)
		}
		list := make([]device, 0, len(msgs))
		for _, m := range msgs {
			d, err := parseDevice(m)
			if err != nil {
				return nil, fmt.Errorf("rtnetlink: %w", err)
			}
			list = append(list, d)
		}
		return list, nil
	}
}

// parseDevice reads a struct ifinfomsg and its attributes.
func parseDevice(b []byte) (device, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return device{}, errors.New("short message")
	}
	d := device{index: int(int32(binary.NativeEndian.Uint32(b[4:]))), xdp: map[l3af.Mode]uint32{}}
	for typ, value := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			d.name = unix.ByteSliceToString(value)
		case unix.IFLA_XDP:
			for typ, value := range attributes(value) {
				if len(value) < 4 {
					continue
				}
				id := binary.NativeEndian.Uint32(value)
				switch typ {
				case unix.IFLA_XDP_DRV_PROG_ID:
					d.xdp[l3af.Native] = id
				case unix.IFLA_XDP_SKB_PROG_ID:
					d.xdp[l3af.Generic] = id
				case unix.IFLA_XDP_HW_PROG_ID:
					d.xdp[l3af.Offload] = id
				}
			}
		}
	}
	return d, nil
}

// attributes yields type and value of each struct rtattr in b, up to one that
// is cut short.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(typ, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// driver names the interface's driver for messages, in the thread's network
// namespace.
func (d *device) driver() string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		if info, err := unix.IoctlGetEthtoolDrvinfo(fd, d.name); err == nil {
			if name := unix.ByteSliceToString(info.Driver[:]); name != "" {
				return "the driver " + name
			}
		}
	}
	if i, err := net.InterfaceByIndex(d.index); err == nil && i.Flags&net.FlagLoopback != 0 {
		return "the loopback interface"
	}
	return "its driver"
}
