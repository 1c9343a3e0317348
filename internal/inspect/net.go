package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/bpfsys"
	"l3af/internal/kernel"
)

// Net is what bpftool net show has of a network namespace, with its names and
// order. Where it says id it means that of the program.
type Net struct {
	XDP           []XDPAt       `json:"xdp"`
	TC            []TCAt        `json:"tc"`
	FlowDissector []NetProgram  `json:"flow_dissector"`
	Netfilter     []NetfilterAt `json:"netfilter"`
	SkLookup      []NetProgram  `json:"sk_lookup,omitempty"`

	Netns []OtherNet `json:"netns,omitempty"` // the other namespaces that have something

	// Unplaced says why it is not known which namespaces the programs at netfilter
	// are in: all are with the first then.
	Unplaced error `json:"-"`
}

// OtherNet is another namespace.
type OtherNet struct {
	Name  string `json:"name,omitempty"` // of ip netns
	Path  string `json:"path"`
	Inode uint64 `json:"inode"`
	PID   int    `json:"pid,omitempty"` // of a process in it
	Net
}

// NetProgram is a program, what holds it and what of ours it is.
type NetProgram struct {
	ID     uint32 `json:"id"`
	Name   string `json:"name,omitempty"`
	LinkID uint32 `json:"link_id,omitempty"` // none: attached without a link
	Chain  *Chain `json:"chain,omitempty"`
}

// XDPAt is an interface with XDP programs: one, or several in different modes.
type XDPAt struct {
	Devname string    `json:"devname"`
	Ifindex int       `json:"ifindex"`
	Mode    string    `json:"mode,omitempty"` // driver, generic, offload
	ID      uint32    `json:"id,omitempty"`
	Multi   []XDPMode `json:"multi_attachments,omitempty"`

	Name   string `json:"name,omitempty"`
	LinkID uint32 `json:"link_id,omitempty"`
	Chain  *Chain `json:"chain,omitempty"`
}

// XDPMode is one of several XDP programs of an interface.
type XDPMode struct {
	Mode   string `json:"mode"`
	ID     uint32 `json:"id"`
	Name   string `json:"name,omitempty"`
	LinkID uint32 `json:"link_id,omitempty"`
	Chain  *Chain `json:"chain,omitempty"`
}

// TCAt is a program at TC: TCX and netkit (Program is set), or a filter of a
// qdisc (Filter is).
type TCAt struct {
	Devname string `json:"devname"`
	Ifindex int    `json:"ifindex"`
	Kind    string `json:"kind"` // tcx/ingress, netkit/peer, clsact/egress, or the qdisc's
	Name    string `json:"name,omitempty"`
	*TCXProgram
	*TCFilter
	Chain *Chain `json:"chain,omitempty"`
}

// TCXProgram is a program of TCX or netkit.
type TCXProgram struct {
	ProgID    uint32   `json:"prog_id"`
	ProgFlags []uint32 `json:"prog_flags"`
	LinkID    uint32   `json:"link_id"` // 0: attached without a link
	LinkFlags []uint32 `json:"link_flags"`
}

// NetfilterAt is a program at a hook of netfilter.
type NetfilterAt struct {
	NetfilterLink
	ID     uint32 `json:"id"`
	Name   string `json:"name,omitempty"`
	LinkID uint32 `json:"link_id"`
	// NetnsIno is the network namespace, where it is none of those that are read: it has
	// no name and no process, and is held by what is attached there.
	NetnsIno uint64 `json:"netns_ino,omitempty"`
	Chain    *Chain `json:"chain,omitempty"`
}

func (n *Net) empty() bool {
	return len(n.XDP)+len(n.TC)+len(n.FlowDissector)+len(n.SkLookup)+len(n.Netfilter) == 0
}

// Chains are what of ours all programs are, to be filled in.
func (n *Net) Chains() []*Chain {
	var list []*Chain
	for _, x := range n.XDP {
		list = append(list, x.Chain)
		for _, m := range x.Multi {
			list = append(list, m.Chain)
		}
	}
	for _, t := range n.TC {
		list = append(list, t.Chain)
	}
	for i := range n.Netns {
		list = append(list, n.Netns[i].Chains()...)
	}
	return list
}

// NetOptions say where to look.
type NetOptions struct {
	Device string // only at interfaces of this name
	Only   string // only in this namespace, a name or path
	Own    bool   // only in that of the process
	All    bool   // netfilter of all namespaces with the first, as of bpftool
	Ours   *Ours
}

// ReadNet reads what is attached to the network: in the namespace of the
// process, and in all others, those that go meanwhile apart.
func ReadNet(o NetOptions) (*Net, error) {
	links, err := Links(Selector{}, Options{})
	if err != nil {
		return nil, err
	}
	r := &netReader{NetOptions: o, links: links, programs: map[uint32]NetProgram{}}
	if !o.All && slices.ContainsFunc(links, func(l Link) bool { return isNetfilter(&l) }) {
		r.places, r.unplaced = netfilterPlaces()
	}
	if o.Only != "" {
		n, err := r.within(Namespace{Path: o.Only})
		if err != nil {
			return nil, err
		}
		return n, r.found()
	}
	all, err := Namespaces()
	if err != nil {
		return nil, err
	}
	n, err := r.within(all[0])
	if err != nil {
		return nil, err
	}
	if o.Own {
		return n, r.found()
	}
	for _, ns := range all[1:] {
		other, err := r.within(ns)
		switch {
		case errors.Is(err, fs.ErrNotExist), ns.PID > 0 && (errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrPermission)):
			continue // it, or the process that led into it, has gone
		case err != nil:
			return nil, err
		}
		if !other.empty() && (o.Device == "" || r.here) {
			n.Netns = append(n.Netns, OtherNet{ns.Name, ns.Path, ns.Inode, ns.PID, *other})
		}
	}
	n.Netfilter = append(n.Netfilter, r.elsewhere()...)
	return n, r.found()
}

// netReader reads one namespace after the other.
type netReader struct {
	NetOptions
	links    []Link
	programs map[uint32]NetProgram // what was found out already
	matched  bool                  // an interface of the wanted name
	here     bool                  // there is one in the namespace that was read last

	places   map[uint32]uint64 // of links at netfilter; those that came later are with the first namespace
	unplaced error
	inodes   []uint64 // of the namespaces that were read
}

func (r *netReader) found() error {
	if r.Device != "" && !r.matched {
		return noInterface(r.Device)
	}
	return nil
}

func (r *netReader) within(ns Namespace) (*Net, error) {
	n := &Net{XDP: []XDPAt{}, TC: []TCAt{}, FlowDissector: []NetProgram{}, Netfilter: []NetfilterAt{}}
	err := kernel.WithinNetns(ns.Path, func() error { return r.read(n) })
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", ns, err)
	}
	return n, nil
}

// read reads the thread's namespace.
func (r *netReader) read(n *Net) error {
	devices, err := kernel.Devices()
	if err != nil {
		return err
	}
	if r.Device != "" {
		devices = slices.DeleteFunc(devices, func(d kernel.Device) bool { return d.Name != r.Device })
		r.here = len(devices) > 0
		r.matched = r.matched || r.here
	}
	filters, err := readFilters(devices)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if len(d.XDP) > 0 {
			n.XDP = append(n.XDP, r.xdp(d))
		}
		at, err := r.tcx(d)
		if err != nil {
			return err
		}
		n.TC = append(n.TC, at...)
		for _, f := range filters[d.Index] {
			f.Chain = r.program(f.ID, 0).Chain
			n.TC = append(n.TC, f)
		}
	}
	return r.namespace(n)
}

func (r *netReader) xdp(d kernel.Device) XDPAt {
	at := XDPAt{Devname: d.Name, Ifindex: d.Index}
	for _, m := range []struct {
		mode l3af.Mode
		name string
	}{{l3af.Generic, "generic"}, {l3af.Native, "driver"}, {l3af.Offload, "offload"}} {
		if id := d.XDP[m.mode]; id > 0 {
			p := r.program(id, r.linkOf(id, func(of any) bool {
				l, ok := of.(*InterfaceLink)
				return ok && l.AttachType == "" && int(l.Ifindex) == d.Index
			}))
			at.Multi = append(at.Multi, XDPMode{m.name, id, p.Name, p.LinkID, p.Chain})
		}
	}
	if len(at.Multi) == 1 {
		m := at.Multi[0]
		at.Multi, at.Mode, at.ID, at.Name, at.LinkID, at.Chain = nil, m.Mode, m.ID, m.Name, m.LinkID, m.Chain
	}
	return at
}

// linkOf finds the link that holds a program at a place.
func (r *netReader) linkOf(program uint32, is func(of any) bool) uint32 {
	for _, l := range r.links {
		if l.ProgID == program && is(l.Of) {
			return l.ID
		}
	}
	return 0
}

// tcx reads what runs before the qdiscs of an interface. What the kernel, or a
// kind of interface, does not have is passed over.
func (r *netReader) tcx(d kernel.Device) ([]TCAt, error) {
	var list []TCAt
	for _, k := range []struct {
		kind string
		at   ebpf.AttachType
	}{
		{"tcx/ingress", ebpf.AttachTCXIngress}, {"tcx/egress", ebpf.AttachTCXEgress},
		{"netkit/primary", ebpf.AttachNetkitPrimary}, {"netkit/peer", ebpf.AttachNetkitPeer},
	} {
		found, err := bpfsys.Query(d.Index, uint32(k.at), 0)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EOPNOTSUPP):
			continue
		case err != nil:
			return nil, fmt.Errorf("%s of %s: %w", k.kind, d.Name, err)
		}
		for _, a := range found.Programs {
			p := r.program(a.Program, a.Link)
			list = append(list, TCAt{
				Devname: d.Name, Ifindex: d.Index, Kind: k.kind, Name: p.Name, Chain: p.Chain,
				TCXProgram: &TCXProgram{a.Program, flags(a.Flags), a.Link, flags(a.LinkFlags)},
			})
		}
	}
	return list, nil
}

// flags are those of bpftool's arrays: one number, or none.
func flags(f uint32) []uint32 {
	if f == 0 {
		return []uint32{}
	}
	return []uint32{f}
}

// namespace reads what is attached to the thread's namespace as a whole.
func (r *netReader) namespace(n *Net) error {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	first := len(r.inodes) == 0
	r.inodes = append(r.inodes, st.Ino)
	n.Netfilter = r.netfilter(st.Ino, first)
	if first {
		n.Unplaced = r.unplaced
	}
	for _, k := range []struct {
		at   ebpf.AttachType
		list *[]NetProgram
	}{{ebpf.AttachFlowDissector, &n.FlowDissector}, {ebpf.AttachSkLookup, &n.SkLookup}} {
		found, err := bpfsys.Query(int(f.Fd()), uint32(k.at), 0)
		if errors.Is(err, unix.EINVAL) { // this kernel does not tell
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", AttachType(k.at), err)
		}
		for _, a := range found.Programs {
			*k.list = append(*k.list, r.program(a.Program, r.linkOf(a.Program, func(of any) bool {
				l, ok := of.(*NetnsLink)
				return ok && uint64(l.NetnsIno) == st.Ino
			})))
		}
	}
	return nil
}

func (r *netReader) netfilter(inode uint64, first bool) []NetfilterAt {
	return r.netfilterWhere(func(in uint64, known bool) bool { return in == inode || !known && first })
}

// elsewhere is what is at netfilter in no namespace that was read.
func (r *netReader) elsewhere() []NetfilterAt {
	list := r.netfilterWhere(func(in uint64, known bool) bool { return known && in != 0 && !slices.Contains(r.inodes, in) })
	for i := range list {
		list[i].NetnsIno = r.places[list[i].LinkID]
	}
	return list
}

func (r *netReader) netfilterWhere(is func(inode uint64, known bool) bool) []NetfilterAt {
	list := []NetfilterAt{}
	for _, l := range r.links {
		of, ok := l.Of.(*NetfilterLink)
		if in, known := r.places[l.ID]; ok && is(in, known) {
			p := r.program(l.ProgID, l.ID)
			list = append(list, NetfilterAt{NetfilterLink: *of, ID: p.ID, Name: p.Name, LinkID: l.ID, Chain: p.Chain})
		}
	}
	return list
}

// program finds out the name of a program and what of ours it is; of one that
// has gone meanwhile, or of another link than before, no more than the ids.
func (r *netReader) program(id, link uint32) NetProgram {
	p, ok := r.programs[id]
	if !ok {
		p = NetProgram{ID: id}
		if o, err := bpfsys.ByID(bpfsys.Prog, id, 0); err == nil {
			var info bpfsys.ProgInfo
			if bpfsys.Info(o, &info) == nil {
				p.Name = fullName(o, &info)
				p.Chain = r.Ours.program(&Program{ID: id, Name: p.Name})
			}
			o.Close()
		}
		r.programs[id] = p
	}
	p.LinkID = link
	return p
}
