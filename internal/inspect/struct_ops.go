package inspect

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

// StructOps is what bpftool struct_ops show has of a map whose programs are the
// functions of a struct of the kernel's, with its names and order.
type StructOps struct {
	ID     uint32 `json:"id"`
	Name   string `json:"name"`
	Kernel string `json:"kernel_struct_ops"` // the struct's name: tcp_congestion_ops
}

// StructOpsMaps reads the maps of struct_ops that a selector means, by id or name.
// Another map is not found: the error of an id is [fs.ErrNotExist].
func StructOpsMaps(s Selector) ([]StructOps, error) {
	list := []StructOps{}
	var types *btf.Spec
	err := maps(s, unix.BPF_F_RDONLY, func(_ *bpfsys.Open, info *bpfsys.MapInfo) (err error) {
		if ebpf.MapType(info.Type) != ebpf.StructOpsMap {
			return nil
		}
		if types == nil {
			if types, err = btf.LoadKernelSpec(); err != nil {
				return fmt.Errorf("the kernel's types: %w", err)
			}
		}
		one := StructOps{ID: info.ID, Name: bpfsys.Text(info.Name[:])}
		// What the value is made of is struct bpf_struct_ops_NAME.
		if t, err := types.TypeByID(btf.TypeID(info.BTFVmlinuxValueTypeID)); err == nil {
			one.Kernel = strings.TrimPrefix(t.TypeName(), "bpf_struct_ops_")
		}
		list = append(list, one)
		return nil
	})
	if err == nil && s.By == ID && len(list) == 0 {
		err = fs.ErrNotExist
	}
	return list, err
}
