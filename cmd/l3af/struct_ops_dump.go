package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cilium/ebpf/btf"

	"l3af/internal/bpfsys"
	"l3af/internal/btftext"
	"l3af/internal/disasm"
	"l3af/internal/inspect"
	"l3af/internal/rawbtf"
)

// structOpsInfo is what the kernel says of the map, by its own names.
type structOpsInfo struct {
	Type           uint32 `json:"type"`
	ID             uint32 `json:"id"`
	KeySize        uint32 `json:"key_size"`
	ValueSize      uint32 `json:"value_size"`
	MaxEntries     uint32 `json:"max_entries"`
	Flags          uint32 `json:"map_flags"`
	Name           string `json:"name"`
	Ifindex        uint32 `json:"ifindex"`
	VmlinuxValue   uint32 `json:"btf_vmlinux_value_type_id"`
	NetnsDev       uint64 `json:"netns_dev"`
	NetnsIno       uint64 `json:"netns_ino"`
	BTFID          uint32 `json:"btf_id"`
	BTFKeyTypeID   uint32 `json:"btf_key_type_id"`
	BTFValueTypeID uint32 `json:"btf_value_type_id"`
	BTFVmlinuxID   uint32 `json:"btf_vmlinux_id"`
	Extra          uint64 `json:"map_extra"`
}

func (c *call) structOpsDump() error {
	s, list, err := c.structOps()
	if err != nil {
		return err
	}
	all := []any{}
	if len(list) > 0 {
		spec, err := rawbtf.Vmlinux()
		if err != nil {
			return fmt.Errorf("the kernel's types: %w", err)
		}
		types, err := btf.LoadKernelSpec()
		if err != nil {
			return fmt.Errorf("the kernel's types: %w", err)
		}
		for _, o := range list {
			info, value, err := structOpsValue(o.ID, spec, types)
			if errors.Is(err, fs.ErrNotExist) && s.By != inspect.ID {
				continue // gone
			} else if err != nil {
				return fmt.Errorf("dump %s id %d: %w", o.Name, o.ID, err)
			}
			all = append(all, map[string]any{"bpf_map_info": info}, map[string]any{"bpf_struct_ops_" + o.Kernel: value})
		}
	}
	return c.answer(all, func(w io.Writer) error { return printJSON(w, all) })
}

// structOpsValue reads one: programs stand where the struct has functions.
func structOpsValue(id uint32, spec *rawbtf.Spec, types *btf.Spec) (*structOpsInfo, json.RawMessage, error) {
	maps, err := inspect.OpenMaps(inspect.Selector{By: inspect.ID, ID: id})
	if err != nil {
		return nil, nil, err
	}
	defer closeAll(maps)
	var i bpfsys.MapInfo
	if err := bpfsys.Info(maps[0], &i); err != nil {
		return nil, nil, err
	}
	value := make([]byte, i.ValueSize)
	if err := bpfsys.Lookup(maps[0], make([]byte, 4), value); err != nil {
		return nil, nil, err
	}
	f, err := btftext.Compile(spec, rawbtf.ID(i.BTFVmlinuxValueTypeID))
	if err != nil {
		return nil, nil, err
	}
	var w btftext.Writer
	f.Value(&w, value, false)
	t, err := types.TypeByID(btf.TypeID(i.BTFVmlinuxValueTypeID))
	if err != nil {
		return nil, nil, err
	}
	text, err := withFunctions(w.Buf, functionsOf(t))
	return &structOpsInfo{
		i.Type, i.ID, i.KeySize, i.ValueSize, i.MaxEntries, i.Flags, bpfsys.Text(i.Name[:]), i.Ifindex, i.BTFVmlinuxValueTypeID,
		i.NetnsDev, i.NetnsIno, i.BTFID, i.BTFKeyTypeID, i.BTFValueTypeID, i.BTFVmlinuxID, i.Extra,
	}, text, err
}

// functionsOf are the prototypes of the members of a value's data that are
// functions, by their names.
func functionsOf(value btf.Type) map[string]string {
	list := map[string]string{}
	outer, _ := value.(*btf.Struct)
	if outer == nil {
		return list
	}
	for _, m := range outer.Members {
		inner, ok := btf.UnderlyingType(m.Type).(*btf.Struct)
		if !ok || m.Name != "data" {
			continue
		}
		for _, m := range inner.Members {
			if p, ok := btf.UnderlyingType(m.Type).(*btf.Pointer); ok {
				if proto, ok := btf.UnderlyingType(p.Target).(*btf.FuncProto); ok {
					list[m.Name] = disasm.PrototypeOf(proto, "")
				}
			}
		}
	}
	return list
}

// withFunctions rewrites what JSON has of a value: instead of the id of a program
// stands the prototype, with the program's name and id. What is around the struct,
// which is its member data, depends on the kernel.
func withFunctions(value []byte, functions map[string]string) (json.RawMessage, error) {
	return eachMember(value, func(name string, member json.RawMessage) (json.RawMessage, error) {
		if name != "data" {
			return member, nil
		}
		return eachMember(member, func(name string, member json.RawMessage) (json.RawMessage, error) {
			if proto, ok := functions[name]; ok {
				return functionText(proto, member)
			}
			return member, nil
		})
	})
}

// eachMember is a JSON object with what f makes of each member, in their order.
func eachMember(object []byte, f func(name string, member json.RawMessage) (json.RawMessage, error)) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	b := []byte{'{'}
	for n := 0; d.More(); n++ {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		var member json.RawMessage
		if err := d.Decode(&member); err != nil {
			return nil, err
		}
		if member, err = f(name, member); err != nil {
			return nil, err
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		b = append(append(append(append(b, comma(n)...), quoted...), ':'), member...)
	}
	return append(b, '}'), nil
}

func functionText(proto string, member json.RawMessage) (json.RawMessage, error) {
	var id uint32
	if err := json.Unmarshal(member, &id); err != nil {
		return member, nil // an address
	}
	if id == 0 {
		return json.Marshal(proto + " 0")
	}
	name := ""
	if list, err := inspect.Programs(inspect.Selector{By: inspect.ID, ID: id}, inspect.Options{}); err == nil {
		name = list[0].Name
	}
	return json.Marshal(fmt.Sprintf("%s %s/prog_id:%d", proto, name, id))
}
