package inspect

import (
	"errors"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

// Map is what bpftool map show has of a map, with its names and order.
type Map struct {
	ID           uint32   `json:"id"`
	Type         TypeName `json:"type"`
	Name         string   `json:"name,omitempty"`
	Flags        uint32   `json:"flags"`
	Dev          *Device  `json:"dev,omitempty"` // it is offloaded to
	BytesKey     uint32   `json:"bytes_key"`
	BytesValue   uint32   `json:"bytes_value"` // for one CPU
	MaxEntries   uint32   `json:"max_entries"`
	BytesMemlock *uint64  `json:"bytes_memlock,omitempty"` // 0 of an empty LPM_TRIE; nil: not known
	// The programs that a PROG_ARRAY takes, once it has had one.
	OwnerProgType *TypeName `json:"owner_prog_type,omitempty"`
	OwnerJITed    *bool     `json:"owner_jited,omitempty"`
	Frozen        int       `json:"frozen"` // 1: user space cannot write it any more
	BTFID         uint32    `json:"btf_id,omitempty"`
	Pinned        []string  `json:"pinned,omitzero"` // as of a [Program]
	Pids          []Holder  `json:"pids,omitempty"`  // who has a descriptor of it

	Chain *Chain `json:"chain,omitempty"` // what of ours it is
}

// Maps reads the maps that a selector means, in the order of their ids. Errors
// are those of [OpenMaps].
func Maps(s Selector, opts Options) ([]Map, error) {
	pins, err := opts.pins()
	if err != nil {
		return nil, err
	}
	wait := opts.Holders.start()
	list := make([]Map, 0, s.room())
	err = maps(s, unix.BPF_F_RDONLY, func(o *bpfsys.Open, info *bpfsys.MapInfo) error {
		m := newMap(info, fdinfo(o))
		m.Pinned = pins.of(bpfsys.Map, m.ID)
		m.Chain = opts.Ours.ourMap(&m)
		list = append(list, m)
		return nil
	})
	if err := errors.Join(err, wait()); err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(m Map) bool { return opts.Holders.own(bpfsys.Map, m.ID) })
	for i := range list {
		list[i].Pids = opts.Holders.Of(bpfsys.Map, list[i].ID)
	}
	return list, nil
}

func newMap(info *bpfsys.MapInfo, more map[string]string) Map {
	m := Map{
		ID: info.ID, Type: MapType(ebpf.MapType(info.Type)), Name: bpfsys.Text(info.Name[:]), Flags: info.Flags,
		Dev:      device(info.Ifindex, info.NetnsDev, info.NetnsIno),
		BytesKey: info.KeySize, BytesValue: info.ValueSize, MaxEntries: info.MaxEntries, BTFID: info.BTFID,
	}
	if n, err := strconv.ParseUint(more["memlock"], 10, 64); err == nil {
		m.BytesMemlock = &n
	}
	if more["frozen"] == "1" {
		m.Frozen = 1
	}
	if n, err := strconv.ParseUint(more["owner_prog_type"], 10, 32); err == nil {
		owner := ProgramType(ebpf.ProgramType(n))
		m.OwnerProgType = &owner
	}
	if jited, ok := more["owner_jited"]; ok {
		is := jited == "1"
		m.OwnerJITed = &is
	}
	return m
}
