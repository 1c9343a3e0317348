package inspect

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

// BTF is what bpftool btf show has of a BTF object.
type BTF struct {
	ID      uint32   `json:"id"`
	Size    uint32   `json:"size"` // bytes
	ProgIDs []uint32 `json:"prog_ids"`
	MapIDs  []uint32 `json:"map_ids"`
	Pids    []Holder `json:"pids,omitempty"` // who has a descriptor of it
	Kernel  bool     `json:"kernel"`
	Name    string   `json:"name,omitempty"` // vmlinux, or that of a module
}

// BTFs reads the BTF objects that a selector means, by id or all, in the order
// of their ids, and which programs and maps have them.
func BTFs(s Selector, opts Options) ([]BTF, error) {
	wait := opts.Holders.start()
	var list []BTF
	err := each(bpfsys.BTF, s, 0, func(o *bpfsys.Open, _ uint32) error {
		name := make([]byte, 64) // MODULE_NAME_LEN
		info := bpfsys.BTFInfo{Name: bpfsys.PointerTo(name), NameLen: uint32(len(name))}
		if err := bpfsys.Info(o, &info); err != nil {
			return fmt.Errorf("BTF: %w", err)
		}
		list = append(list, BTF{
			ID: info.ID, Size: info.Size, ProgIDs: []uint32{}, MapIDs: []uint32{},
			Kernel: info.KernelBTF != 0, Name: bpfsys.Text(name),
		})
		return nil
	})
	if err := errors.Join(err, wait()); err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Pids = opts.Holders.Of(bpfsys.BTF, list[i].ID)
	}
	at := make(map[uint32]*BTF, len(list))
	for i := range list {
		at[list[i].ID] = &list[i]
	}
	err = programs(Selector{}, func(_ *bpfsys.Open, p *bpfsys.ProgInfo, _ []uint32) error {
		if b := at[p.BTFID]; b != nil {
			b.ProgIDs = append(b.ProgIDs, p.ID)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, maps(Selector{}, unix.BPF_F_RDONLY, func(_ *bpfsys.Open, m *bpfsys.MapInfo) error {
		if b := at[m.BTFID]; b != nil {
			b.MapIDs = append(b.MapIDs, m.ID)
		}
		return nil
	})
}
