package inspect

import (
	_ "embed"
	"encoding/binary"
	"fmt"
)

//go:embed bpf/netfilter.bpf.o
var netfilterObject []byte

// netfilterIterator is bpf/netfilter.bpf.c.
var netfilterIterator = iteratorSpec{
	object: netfilterObject,
	members: map[string][2]string{
		"link_id": {"bpf_link", "id"}, "link_type": {"bpf_link", "type"}, "nf_link_net": {"bpf_nf_link", "net"}, "nf_link_dead": {"bpf_nf_link", "dead"},
		"net_ns": {"net", "ns"}, "ns_inum": {"ns_common", "inum"},
	},
	targets: map[string]string{"places": "bpf_iter_bpf_link"},
}

func isNetfilter(l *Link) bool {
	_, is := l.Of.(*NetfilterLink)
	return is
}

// netfilterPlaces are the inodes of the network namespaces that links at netfilter
// are in, by their ids; 0 where one was detached. What links tell of themselves does not have it: a program in
// the kernel reads it.
func netfilterPlaces() (map[uint32]uint64, error) {
	var i iterator
	defer i.Close()
	if err := i.load(netfilterIterator); err != nil {
		return nil, fmt.Errorf("find network namespaces of netfilter: %w", err)
	}
	all, err := i.run("places")
	if err != nil {
		return nil, fmt.Errorf("find network namespaces of netfilter: %w", err)
	}
	places := map[uint32]uint64{}
	for u32 := binary.NativeEndian.Uint32; len(all) >= 8; all = all[8:] {
		places[u32(all)] = uint64(u32(all[4:]))
	}
	return places, nil
}
