package programs

import (
	"net/netip"
	"slices"

	"l3af/internal/packet"
)

// Verdicts of the acl, enum acl_verdict.
const (
	unset = iota
	drop
	pass
)

// rule is struct acl_rule.
type rule struct {
	Action   uint32
	Protocol uint32
	Src, Dst prefix
	SrcPort  [2]uint16
	DstPort  [2]uint16
	VLAN     uint16
	_        [2]byte
}

// access is what the acl is told, and what it must do.
type access struct {
	Default, NonIP, Malformed uint32
	Rules                     []rule
	// Lists are those of the maps of these names: prefix to weight.
	Lists map[string]map[netip.Prefix]uint32
}

// judge is the acl as its package.yaml tells it, written without regard to
// speed.
func (a *access) judge(frame []byte) uint32 {
	p, err := packet.Parse(frame)
	if err != nil {
		return a.Malformed
	}
	if !p.IsIP() {
		return a.NonIP
	}
	for _, r := range a.Rules {
		if r.matches(&p) {
			return r.Action
		}
	}
	yes := max(longest(a.Lists["allow"], p.From), longest(a.Lists["allow_dst"], p.To))
	no := max(longest(a.Lists["deny"], p.From), longest(a.Lists["deny_dst"], p.To))
	switch {
	case yes == 0 && no == 0:
		return a.Default
	case yes > no:
		return pass
	}
	return drop
}

// longest is the weight of the most specific prefix that holds the address.
func longest(list map[netip.Prefix]uint32, a netip.Addr) uint32 {
	best, weight := -1, uint32(0)
	for p, w := range list {
		if m := mapped(p); m.contains(a) && int(m.Len) > best {
			best, weight = int(m.Len), w
		}
	}
	return weight
}

func (p prefix) contains(a netip.Addr) bool {
	b := a.As16()
	for i := range p.Len {
		if bit := byte(0x80) >> (i % 8); (b[i/8]^p.Addr[i/8])&bit != 0 {
			return false
		}
	}
	return true
}

func (r *rule) matches(p *packet.Info) bool {
	if r.Protocol != 0 && r.Protocol != uint32(p.Protocol) {
		return false
	}
	if r.VLAN != 0 && (len(p.Tags) == 0 || p.Tags[0].ID != r.VLAN) {
		return false
	}
	if !r.Src.contains(p.From) || !r.Dst.contains(p.To) {
		return false
	}
	if r.SrcPort == [2]uint16{} && r.DstPort == [2]uint16{} {
		return true
	}
	if !slices.Contains([]uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoUDPL, packet.ProtoSCTP, packet.ProtoDCCP}, p.Protocol) {
		return false
	}
	if p.Fragment {
		return r.Action == pass
	}
	return inRange(r.SrcPort, p.FromPort) && inRange(r.DstPort, p.ToPort)
}

func inRange(r [2]uint16, port uint16) bool {
	if r == [2]uint16{} {
		return true
	}
	return port >= r[0] && port <= max(r[0], r[1]) && (r[1] != 0 || port == r[0]) && (r[1] == 0 || r[0] <= r[1])
}
