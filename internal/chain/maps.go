package chain

import (
	"bytes"
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// maxMaps is how many maps one program may use (MAX_USED_MAPS).
const maxMaps = 64

// ref is the symbol of a member's map in its chain.
func ref(member, name string) string { return member + "/" + name }

// sharedRef is the symbol of a map that programs of an instance share. No
// member's map has it: names of members hold no zero byte.
func sharedRef(instance, name string) string { return "@" + instance + "\x00" + name }

// ref is the symbol of a map of the part, and the instance it is shared in.
func (p *part) ref(name string) (symbol, instance string) {
	if p.Instance == "" || p.own(name) {
		return ref(p.Name, name), ""
	}
	instance = p.SharedIn(name)
	return sharedRef(instance, name), instance
}

// findMaps lists the maps that the reached code refers to, and makes it refer
// to them by their names in the chain.
func (p *part) findMaps() error {
	p.direct, p.taken, p.targets = map[string]bool{}, map[string]bool{}, map[string]*ebpf.ProgramSpec{}
	for _, f := range p.funcs {
		if err := p.bindMaps(f.name, f.ins); err != nil {
			return err
		}
		for _, ins := range f.ins {
			if ins.IsLoadFromMap() {
				p.direct[ins.Reference()] = true
			}
		}
	}
	slices.SortFunc(p.maps, func(a, b Map) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

// takeMap copies a map's spec, with the object's variables in its contents.
func (p *part) takeMap(name string, spec *ebpf.MapSpec) (Map, error) {
	m := Map{Member: p.Name, Users: []string{p.Name}, Name: name, Spec: spec.Copy(), Pinned: !constant(name), ByName: spec.Pinning == ebpf.PinByName}
	m.Ref, m.Instance = p.ref(name)
	// Where a map is pinned is the host's affair.
	m.Spec.Pinning = ebpf.PinNone
	if m.Spec.Extra != nil {
		extra, err := io.ReadAll(m.Spec.Extra)
		if err != nil || len(bytes.Trim(extra, "\x00")) > 0 {
			return m, refuse(p.Name, "the definition of map %s is longer than known", name)
		}
		m.Spec.Extra = nil
	}
	if spec.Type == ebpf.StructOpsMap {
		return m, refuse(p.Name, "map %s is of the type %v", name, spec.Type)
	}
	if err := p.setVariables(&m); err != nil {
		return m, err
	}
	return m, nil
}

// setVariables writes the values of the object's variables into the contents
// of their section, as loading the whole object would.
func (p *part) setVariables(m *Map) error {
	var data []byte
	for _, v := range p.Spec.Variables {
		if v.SectionName != m.Name {
			continue
		}
		if data == nil {
			was, ok := []byte(nil), len(m.Spec.Contents) == 1
			if ok {
				was, ok = m.Spec.Contents[0].Value.([]byte)
			}
			if !ok {
				return refuse(p.Name, "section %s has no contents for the variable %s", m.Name, v.Name)
			}
			data = bytes.Clone(was)
		}
		if uint64(v.Offset)+uint64(len(v.Value)) > uint64(len(data)) {
			return refuse(p.Name, "variable %s exceeds its section %s", v.Name, m.Name)
		}
		copy(data[v.Offset:], v.Value)
	}
	if data != nil {
		m.Spec.Contents = []ebpf.MapKV{{Key: m.Spec.Contents[0].Key, Value: data}}
	}
	return nil
}

// constant says whether a data section is read-only: part of the program.
func constant(section string) bool {
	return strings.HasPrefix(section, ".rodata") || section == KconfigName
}

// gatherMaps lists the maps of all programs.
func gatherMaps(parts []*part, more ...Map) ([]Map, error) {
	var all []Map
	for _, p := range parts {
		for _, m := range p.maps {
			i := slices.IndexFunc(all, func(o Map) bool { return o.Ref == m.Ref })
			if i < 0 {
				all = append(all, m)
			} else if d := SameShape(all[i].Spec, m.Spec); d != "" {
				return nil, refuse(p.Name, "map %s of instance %s is another one in %s: %s", m.Name, m.Instance, all[i].Member, d)
			} else {
				all[i].Users, all[i].ByName = append(slices.Clip(all[i].Users), p.Name), all[i].ByName || m.ByName
			}
		}
	}
	all = append(all, more...)
	return all, nil
}
