package inspect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l3af/internal/bpfsys"
)

// Link is what bpftool link show has of a link, with its names and order.
type Link struct {
	LinkHead
	Of any // what depends on the type: one of the types with names in …Link, or nil
	LinkTail
}

// LinkHead is what every link begins with.
type LinkHead struct {
	ID     uint32   `json:"id"`
	Type   TypeName `json:"type"`
	ProgID uint32   `json:"prog_id"`
}

// LinkTail is what every link ends with.
type LinkTail struct {
	Pinned    []string `json:"pinned,omitzero"`      // as of a [Program]
	BPFCookie *uint64  `json:"bpf_cookie,omitempty"` // of what perf knows: its cookie again, under the name scripts know
	Pids      []Holder `json:"pids,omitempty"`       // who has a descriptor of it

	Netns string `json:"netns,omitempty"` // where that is another than the current
	Chain *Chain `json:"chain,omitempty"` // what of ours it is
}

// MarshalJSON gives one object: the head, what depends on the type, the tail.
func (l Link) MarshalJSON() ([]byte, error) { return joined(l.LinkHead, l.Of, l.LinkTail) }

// joined is one JSON object with the members of several.
func joined(parts ...any) ([]byte, error) {
	out := []byte{'{'}
	for _, p := range parts {
		b, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		b = bytes.TrimSuffix(bytes.TrimPrefix(b, []byte{'{'}), []byte{'}'})
		if p == nil || len(b) == 0 {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, b...)
	}
	return append(out, '}'), nil
}

// InterfaceLink is at a network interface: XDP, TCX and netkit.
type InterfaceLink struct {
	Devname    string   `json:"devname"` // "(detached)" when the link holds nothing any more
	Ifindex    uint32   `json:"ifindex"`
	AttachType TypeName `json:"attach_type,omitempty"` // not of XDP
}

// CgroupLink is at a cgroup.
type CgroupLink struct {
	CgroupID   uint64   `json:"cgroup_id"`
	AttachType TypeName `json:"attach_type"`
}

// NetnsLink is at a network namespace.
type NetnsLink struct {
	NetnsIno   uint32   `json:"netns_ino"`
	AttachType TypeName `json:"attach_type"`
}

// SockmapLink is at a map of sockets.
type SockmapLink struct {
	MapID      uint32   `json:"map_id"`
	AttachType TypeName `json:"attach_type"`
}

// StructOpsLink is that of a map of functions of the kernel.
type StructOpsLink struct {
	MapID uint32 `json:"map_id"`
}

// NetfilterLink is at a hook of netfilter; the numbers are those of
// linux/netfilter.h.
type NetfilterLink struct {
	PF    uint32 `json:"pf"`
	Hook  uint32 `json:"hook"`
	Prio  int32  `json:"prio"`
	Flags uint32 `json:"flags"`
}

// TracingLink is at a function or tracepoint by BTF.
type TracingLink struct {
	ProgType    TypeName `json:"prog_type"`
	AttachType  TypeName `json:"attach_type"`
	TargetObjID uint32   `json:"target_obj_id"`
	TargetBTFID uint32   `json:"target_btf_id"`
	Cookie      uint64   `json:"cookie"`
}

// RawTracepointLink is at a raw tracepoint.
type RawTracepointLink struct {
	TPName string `json:"tp_name"`
	Cookie uint64 `json:"cookie"`
}

// IterLink is an iterator over a kind of things; the others say over which.
type IterLink struct {
	TargetName string  `json:"target_name"`
	MapID      *uint32 `json:"map_id,omitempty"`
	TID        uint32  `json:"tid,omitempty"`
	PID        uint32  `json:"pid,omitempty"`
	CgroupID   *uint64 `json:"cgroup_id,omitempty"`
	Order      string  `json:"order,omitempty"`
}

// Links reads the links that a selector means, in the order of their ids.
// Errors are those of [OpenLinks].
func Links(s Selector, opts Options) ([]Link, error) {
	pins, err := opts.pins()
	if err != nil {
		return nil, err
	}
	wait := opts.Holders.start()
	list := make([]Link, 0, s.room())
	progs := map[uint32]TypeName{}
	err = links(s, func(o *bpfsys.Open, info *bpfsys.LinkInfo) error {
		l, err := newLink(o, info, progs)
		if errors.Is(err, fs.ErrNotExist) && s.By == All {
			return nil // its program has gone, and so does it
		} else if err != nil {
			return fmt.Errorf("link %d: %w", info.ID, err)
		}
		l.Pinned = pins.of(bpfsys.Link, l.ID)
		l.Chain = opts.Ours.link(&l)
		list = append(list, l)
		return nil
	})
	if err == nil && opts.Locate {
		err = locate(list)
	}
	if err := errors.Join(err, wait()); err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(l Link) bool { return opts.Holders.own(bpfsys.Link, l.ID) })
	for i := range list {
		list[i].Pids = opts.Holders.Of(bpfsys.Link, list[i].ID)
	}
	return list, nil
}

// newLink reads the link; progs remembers the types of programs.
func newLink(o *bpfsys.Open, info *bpfsys.LinkInfo, progs map[uint32]TypeName) (Link, error) {
	l := Link{LinkHead: LinkHead{info.ID, LinkType(link.Type(info.Type)), info.ProgID}}
	attach := func(n uint32) TypeName { return AttachType(ebpf.AttachType(n)) }
	u := union{&info.Of}
	switch link.Type(info.Type) {
	case link.XDPType:
		l.Of = &InterfaceLink{devname(u.u32(0)), u.u32(0), ""}
	case link.TCXType, link.NetkitType:
		l.Of = &InterfaceLink{devname(u.u32(0)), u.u32(0), attach(u.u32(4))}
	case link.CgroupType:
		l.Of = &CgroupLink{u.u64(0), attach(u.u32(8))}
	case link.NetNsType:
		l.Of = &NetnsLink{u.u32(0), attach(u.u32(4))}
	case sockmapType:
		l.Of = &SockmapLink{u.u32(0), attach(u.u32(4))}
	case link.StructOpsType:
		l.Of = &StructOpsLink{u.u32(0)}
	case link.NetfilterType:
		l.Of = &NetfilterLink{u.u32(0), u.u32(4), int32(u.u32(8)), u.u32(12)}
	case link.TracingType:
		t, err := programType(info.ProgID, progs)
		if err != nil {
			return l, err
		}
		l.Of = &TracingLink{t, attach(u.u32(0)), u.u32(4), u.u32(8), u.u64(16)}
	case link.RawTracepointType:
		name, err := u.text(o, info, 0, 8)
		if err != nil {
			return l, err
		}
		l.Of = &RawTracepointLink{name, u.u64(16)}
	case link.IterType:
		name, err := u.text(o, info, 0, 8)
		if err != nil {
			return l, err
		}
		l.Of = newIterLink(name, u)
	case link.PerfEventType:
		of, cookie, err := newPerfLink(o, info)
		if err != nil {
			return l, err
		}
		l.Of, l.BPFCookie = of, cookie
	case link.KprobeMultiType:
		of, err := newKprobeMultiLink(o, info)
		if err != nil {
			return l, err
		}
		l.Of = of
	case link.UprobeMultiType:
		of, err := newUprobeMultiLink(o, info)
		if err != nil {
			return l, err
		}
		l.Of = of
	}
	return l, nil
}

// sockmapType is BPF_LINK_TYPE_SOCKMAP, which cilium/ebpf does not name.
const sockmapType = link.Type(14)

// unknown stands for an interface that was not found.
const unknown = "(unknown)"

func devname(ifindex uint32) string {
	if ifindex == 0 {
		return "(detached)"
	}
	if name := ifname(ifindex); name != "" {
		return name
	}
	return unknown
}

func programType(id uint32, known map[uint32]TypeName) (TypeName, error) {
	if t, ok := known[id]; ok {
		return t, nil
	}
	o, err := bpfsys.ByID(bpfsys.Prog, id, 0)
	if err != nil {
		return "", err
	}
	defer o.Close()
	var info bpfsys.ProgInfo
	if err := bpfsys.Info(o, &info); err != nil {
		return "", err
	}
	known[id] = ProgramType(ebpf.ProgramType(info.Type))
	return known[id], nil
}

func newIterLink(target string, u union) *IterLink {
	l := &IterLink{TargetName: target}
	switch target {
	case "bpf_map_elem", "bpf_sk_storage_map":
		id := u.u32(12)
		l.MapID = &id
	case "task", "task_file", "task_vma":
		if l.TID = u.u32(16); l.TID == 0 {
			l.PID = u.u32(20)
		}
	case "cgroup":
		id := u.u64(16)
		l.CgroupID = &id
		orders := []string{"order_unspec", "self_only", "descendants_pre", "descendants_post", "ancestors_up"}
		if n := u.u32(24); int64(n) < int64(len(orders)) {
			l.Order = orders[n]
		}
	}
	return l
}
