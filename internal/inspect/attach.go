package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l3af/internal/kernel"
)

// netTypes are bpftool's words for where net attach attaches, in the order in
// which abbreviations are tried.
var netTypes = []struct {
	name, kind string // kind is a mode of XDP, or the kind of a [TCAt]
	flag       int    // XDP
	at         ebpf.AttachType
}{
	{name: "xdp"},
	{name: "xdpgeneric", kind: "generic", flag: unix.XDP_FLAGS_SKB_MODE},
	{name: "xdpdrv", kind: "driver", flag: unix.XDP_FLAGS_DRV_MODE},
	{name: "xdpoffload", kind: "offload", flag: unix.XDP_FLAGS_HW_MODE},
	{name: "tcx_ingress", kind: "tcx/ingress", at: ebpf.AttachTCXIngress},
	{name: "tcx_egress", kind: "tcx/egress", at: ebpf.AttachTCXEgress},
}

// NetTypes lists the words of [NetPlace].
func NetTypes() []string {
	var names []string
	for _, t := range netTypes {
		names = append(names, t.name)
	}
	return names
}

// NetPlace is a place at an interface where programs are attached.
type NetPlace struct {
	Type   string // one of NetTypes
	Device string
	Netns  string // a name or path; "" for that of the process
}

func (p NetPlace) String() string {
	if p.Netns != "" {
		return p.Type + " of " + p.Netns + ":" + p.Device
	}
	return p.Type + " of " + p.Device
}

// HeldError says that a link holds a program, which only goes with it.
type HeldError struct {
	Link, Program uint32
	Ours          bool // the daemon would attach it again
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("link %d holds program %d there", e.Link, e.Program)
}

// ErrOccupied is wrapped where a program is attached already.
var ErrOccupied = errors.New("a program is attached there already")

// ErrEmpty is wrapped where there is nothing to detach.
var ErrEmpty = errors.New("no program is attached there")

// Attach attaches a program without a link, so that it stays. At XDP another
// one is replaced only if that is asked for. At TCX it comes behind the others, or
// before them.
func (p NetPlace) Attach(prog *ebpf.Program, replace, first bool) error {
	t := netTypes[slices.Index(NetTypes(), p.Type)]
	err := p.within(func(index int) error {
		if t.at == 0 {
			flags := t.flag
			if !replace {
				flags |= unix.XDP_FLAGS_UPDATE_IF_NOEXIST
			}
			return setXDP(index, prog.FD(), flags)
		}
		o := link.RawAttachProgramOptions{Target: index, Program: prog, Attach: t.at}
		if first {
			o.Anchor = link.Head()
		}
		return link.RawAttachProgram(o)
	})
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		if there, look := p.look(0); look == nil && len(there) > 0 {
			if there[0].link > 0 && t.at == 0 {
				err = &HeldError{there[0].link, there[0].program, there[0].ours}
			} else {
				err = fmt.Errorf("%w (program %d)", ErrOccupied, there[0].program)
			}
		}
	}
	return fmt.Errorf("attach to %s: %w", p, err)
}

// Detach detaches a program (0: the one that is there) from a place. One that a
// link holds goes only with links, which detaches the link: the error is
// [HeldError] otherwise. Nothing there is [ErrEmpty].
func (p NetPlace) Detach(program uint32, links bool) error {
	if err := p.detach(program, links); err != nil {
		return fmt.Errorf("detach from %s: %w", p, err)
	}
	return nil
}

func (p NetPlace) detach(program uint32, links bool) error {
	there, err := p.look(program)
	switch {
	case err != nil:
		return err
	case len(there) == 0:
		return ErrEmpty
	case len(there) > 1:
		ids := make([]string, len(there))
		for i, a := range there {
			ids[i] = fmt.Sprint(a.program)
		}
		return fmt.Errorf("several programs are attached there, say which: %s", strings.Join(ids, ", "))
	}
	a := there[0]
	if a.link > 0 {
		if !links {
			return &HeldError{a.link, a.program, a.ours}
		}
		l, err := link.NewFromID(link.ID(a.link))
		if err != nil {
			return err
		}
		defer l.Close()
		return l.Detach()
	}
	return p.within(func(index int) error {
		if a.at == 0 {
			return setXDP(index, -1, a.flag)
		}
		prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(a.program))
		if err != nil {
			return err
		}
		defer prog.Close()
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: index, Program: prog, Attach: a.at})
	})
}

// attached is a program at a place.
type attached struct {
	program, link uint32
	ours          bool
	flag          int             // XDP: of its mode
	at            ebpf.AttachType // TCX
}

// look lists what is at a place: of plain xdp in whatever mode.
func (p NetPlace) look(program uint32) ([]attached, error) {
	ours, err := ReadOurs()
	if err != nil {
		return nil, err
	}
	n, err := ReadNet(NetOptions{Device: p.Device, Only: p.Netns, Own: p.Netns == "", Ours: ours})
	if err != nil {
		return nil, err
	}
	var list []attached
	for _, t := range netTypes {
		if t.kind == "" || t.name != p.Type && (p.Type != "xdp" || t.at != 0) {
			continue
		}
		for _, x := range n.XDP {
			modes := append(x.Multi, XDPMode{x.Mode, x.ID, x.Name, x.LinkID, x.Chain})
			for _, m := range modes {
				if m.Mode == t.kind && (program == 0 || program == m.ID) {
					list = append(list, attached{m.ID, m.LinkID, m.Chain != nil, t.flag, 0})
				}
			}
		}
		for _, x := range n.TC {
			if x.Kind == t.kind && (program == 0 || program == x.ProgID) {
				list = append(list, attached{x.ProgID, x.LinkID, x.Chain != nil, 0, t.at})
			}
		}
	}
	return list, nil
}

// noInterface is the error that there is no interface of a name; it is an
// [fs.ErrNotExist].
type noInterface string

func (n noInterface) Error() string { return "interface " + string(n) + ": there is none" }

func (noInterface) Is(target error) bool { return target == fs.ErrNotExist }

// within runs f in the namespace of the place, with the index of its interface.
func (p NetPlace) within(f func(index int) error) error {
	return kernel.WithinNetns(p.Netns, func() error {
		devices, err := kernel.Devices()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(devices, func(d kernel.Device) bool { return d.Name == p.Device })
		if i < 0 {
			return noInterface(p.Device)
		}
		return f(devices[i].Index)
	})
}

func setXDP(index, fd, flags int) error {
	return netlink.LinkSetXdpFdWithFlags(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}, fd, flags)
}
