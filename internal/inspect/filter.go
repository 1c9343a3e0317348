package inspect

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/kernel"
)

// TCFilter is a BPF filter of a qdisc.
type TCFilter struct {
	ID  uint32     `json:"id"`
	Act []TCAction `json:"act,omitempty"` // its BPF actions

	Prio         uint16 `json:"prio"`
	Protocol     string `json:"protocol"`
	Handle       uint32 `json:"handle"`
	DirectAction bool   `json:"direct_action"`
	TCChain      uint32 `json:"tc_chain"`        // number of the chain of filters
	Block        uint32 `json:"block,omitempty"` // the block of filters that qdiscs of several interfaces share
}

// TCAction is a BPF action of a filter.
type TCAction struct {
	Name string `json:"name,omitempty"`
	ID   uint32 `json:"id,omitempty"`
}

// parent is what filters hang on, with its name in bpftool.
type parent struct {
	handle uint32
	kind   string
}

// readFilters reads the BPF filters of interfaces in the thread's namespace, by
// index: those of classes, of qdiscs, and of clsact.
func readFilters(devices []kernel.Device) (map[int][]TCAt, error) {
	qdiscs, err := retried(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	parents := map[int][]parent{}
	for _, q := range qdiscs {
		a := q.Attrs()
		switch {
		case q.Type() == "clsact":
			parents[a.LinkIndex] = append(parents[a.LinkIndex],
				parent{netlink.HANDLE_MIN_INGRESS, "clsact/ingress"}, parent{netlink.HANDLE_MIN_EGRESS, "clsact/egress"})
		case a.Handle != 0:
			parents[a.LinkIndex] = append(parents[a.LinkIndex], parent{a.Handle, q.Type()})
		}
	}
	list := map[int][]TCAt{}
	for _, d := range devices {
		on := parents[d.Index]
		if len(on) == 0 {
			continue
		}
		classes, err := retried(func() ([]netlink.Class, error) {
			return netlink.ClassList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: d.Index}}, 0)
		})
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("list classes of %s: %w", d.Name, err)
		}
		var all []parent
		for _, c := range classes {
			all = append(all, parent{c.Attrs().Handle, c.Type()})
		}
		for _, p := range append(all, on...) {
			found, err := filtersOf(d, p)
			if err != nil {
				return nil, fmt.Errorf("list filters of %s %s: %w", d.Name, p.kind, err)
			}
			list[d.Index] = append(list[d.Index], found...)
		}
	}
	return list, nil
}

// retried asks again when what is listed changed meanwhile.
func retried[T any](list func() ([]T, error)) (found []T, err error) {
	for range 10 {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}

func filtersOf(d kernel.Device, p parent) ([]TCAt, error) {
	msgs, err := retried(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETTFILTER, unix.NLM_F_DUMP)
		req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(d.Index), Parent: p.handle})
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWTFILTER)
	})
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil // the interface or the qdisc has gone, or takes no filters
	} else if err != nil {
		return nil, err
	}
	var list []TCAt
	for _, m := range msgs {
		f, name, err := parseFilter(m)
		if err != nil {
			return nil, err
		}
		if f != nil {
			list = append(list, TCAt{Devname: d.Name, Ifindex: d.Index, Kind: p.kind, Name: name, TCFilter: f})
		}
	}
	return list, nil
}

// blockIfindex is TCM_IFINDEX_MAGIC_BLOCK of linux/rtnetlink.h: the filter is of
// a block that qdiscs share, and its number is where else the parent is.
const blockIfindex = 0xffffffff

// parseFilter reads a struct tcmsg and its attributes, nil for what is no BPF
// filter.
func parseFilter(m []byte) (*TCFilter, string, error) {
	if len(m) < nl.SizeofTcMsg {
		return nil, "", errors.New("short message")
	}
	tc := nl.DeserializeTcMsg(m)
	// tcm_info has the priority and, in network byte order, the protocol.
	f := &TCFilter{Prio: uint16(tc.Info >> 16), Protocol: protocol(tc.Info), Handle: tc.Handle}
	if uint32(tc.Ifindex) == blockIfindex {
		f.Block = tc.Parent
	}
	kind, name := "", ""
	var options []byte
	for t, value := range kernel.Attributes(m[tc.Len():]) {
		switch t {
		case nl.TCA_KIND:
			kind = bpfsys.Text(value)
		case nl.TCA_OPTIONS:
			options = value
		case nl.TCA_CHAIN:
			f.TCChain = number(value)
		}
	}
	if kind != "bpf" || options == nil {
		return nil, "", nil
	}
	for t, value := range kernel.Attributes(options) {
		switch t {
		case nl.TCA_BPF_NAME:
			name = bpfsys.Text(value)
		case nl.TCA_BPF_ID:
			f.ID = number(value)
		case nl.TCA_BPF_FLAGS:
			f.DirectAction = number(value)&nl.TCA_BPF_FLAG_ACT_DIRECT != 0
		case nl.TCA_BPF_ACT:
			f.Act = parseActions(value)
		}
	}
	return f, name, nil
}

// Attributes of an action, and of a BPF action (linux/tc_act/tc_bpf.h).
const (
	actKind    = 1
	actOptions = 2
	actBPFName = 6
	actBPFID   = 9
)

// parseActions reads the BPF actions of a filter, in their order.
func parseActions(b []byte) []TCAction {
	var list []TCAction
	for _, action := range kernel.Attributes(b) {
		kind := ""
		var options []byte
		for t, value := range kernel.Attributes(action) {
			switch t {
			case actKind:
				kind = bpfsys.Text(value)
			case actOptions:
				options = value
			}
		}
		if kind != "bpf" {
			continue
		}
		var act TCAction
		for t, value := range kernel.Attributes(options) {
			switch t {
			case actBPFName:
				act.Name = bpfsys.Text(value)
			case actBPFID:
				act.ID = number(value)
			}
		}
		list = append(list, act)
	}
	return list
}

func number(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// protocol names the protocol in tcm_info as tc does.
func protocol(info uint32) string {
	p := uint16(info)
	p = p>>8 | p<<8
	switch p {
	case unix.ETH_P_ALL:
		return "all"
	case unix.ETH_P_IP:
		return "ip"
	case unix.ETH_P_IPV6:
		return "ipv6"
	case unix.ETH_P_ARP:
		return "arp"
	}
	return fmt.Sprintf("%#04x", p)
}
