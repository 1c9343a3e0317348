package inspect

import (
	"slices"

	"l3af/internal/bpfsys"
	"l3af/internal/kernel"
)

// locate finds in which network namespace each link is, and its interface: a link
// tells no more than an index, which means another interface in each of them.
// Links that it does not find have an unknown interface.
func locate(list []Link) error {
	lost := map[*Link]*InterfaceLink{}
	inodes := namespacesOf(list)
	for i := range list {
		if at, ok := list[i].Of.(*InterfaceLink); ok && at.Ifindex > 0 {
			lost[&list[i]] = at
			at.Devname = unknown
		}
	}
	if len(lost)+len(inodes) == 0 {
		return nil
	}
	all, err := Namespaces()
	if err != nil {
		return err
	}
	for _, ns := range all[1:] {
		for l, inode := range inodes {
			if inode == ns.Inode {
				l.Netns = ns.String()
			}
		}
	}
	for _, ns := range all {
		if len(lost) == 0 {
			break
		}
		// A namespace that goes, or cannot be entered, has none of them.
		_ = kernel.WithinNetns(ns.Path, func() error {
			devices, err := kernel.Devices()
			if err != nil {
				return err
			}
			for i := range list { // in their order: lost has none
				at := lost[&list[i]]
				if at == nil {
					continue
				}
				d := slices.IndexFunc(devices, func(d kernel.Device) bool { return d.Index == int(at.Ifindex) })
				if d >= 0 && holds(&devices[d], &list[i], at) {
					at.Devname = devices[d].Name
					if ns.Path != "" {
						list[i].Netns = ns.String()
					}
					delete(lost, &list[i])
				}
			}
			return nil
		})
	}
	return nil
}

// namespacesOf are the inodes of the network namespaces of links that are at one
// as a whole, or at netfilter, as far as that is known.
func namespacesOf(list []Link) map[*Link]uint64 {
	inodes := map[*Link]uint64{}
	var places map[uint32]uint64
	for i := range list {
		switch of := list[i].Of.(type) {
		case *NetnsLink:
			inodes[&list[i]] = uint64(of.NetnsIno)
		case *NetfilterLink:
			if places == nil {
				if places, _ = netfilterPlaces(); places == nil {
					places = map[uint32]uint64{} // asked once
				}
			}
			if inode := places[list[i].ID]; inode != 0 {
				inodes[&list[i]] = inode
			}
		}
	}
	return inodes
}

// holds says whether a link is at an interface of the thread's namespace. An
// XDP program that is found is taken from the device: it has one link.
func holds(d *kernel.Device, l *Link, at *InterfaceLink) bool {
	if at.AttachType == "" {
		for mode, id := range d.XDP {
			if id == l.ProgID {
				delete(d.XDP, mode)
				return true
			}
		}
		return false
	}
	t, _ := ParseAttachType(string(at.AttachType))
	found, err := bpfsys.Query(d.Index, uint32(t), 0)
	return err == nil && slices.ContainsFunc(found.Programs, func(a bpfsys.Attachment) bool { return a.Link == l.ID })
}
