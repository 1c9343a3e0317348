package inspect

import (
	"slices"

	"l3af/internal/bpfsys"
	"l3af/internal/kernel"
)

// locate finds in which network namespace the interface of each link is: a link
// tells no more than an index, which means another interface in each of them.
// Links that it does not find have an unknown interface.
func locate(list []Link) error {
	lost := map[*Link]*InterfaceLink{}
	for i := range list {
		if at, ok := list[i].Of.(*InterfaceLink); ok && at.Ifindex > 0 {
			lost[&list[i]] = at
			at.Devname = unknown
		}
	}
	if len(lost) == 0 {
		return nil
	}
	all, err := Namespaces()
	if err != nil {
		return err
	}
	for _, ns := range all {
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
		if len(lost) == 0 {
			break
		}
	}
	return nil
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
