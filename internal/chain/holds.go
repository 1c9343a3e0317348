package chain

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Held is one entry that a map of maps, or an array of programs, holds at first.
type Held struct {
	Key any
	Ref string // of the map of the chain that is held; "" for a program
	// Program is what tail calls reach. It is loaded as a program of its own,
	// with the type, attach type and flags that the chain's program is loaded
	// with; its map references are the Ref of the chain's maps.
	Program *ebpf.ProgramSpec
}

// Tied says whether a map is part of its program though it is pinned: an array
// of programs that the object fills. It is made anew for every chain ID and
// filled before anything sees it; its pin only keeps it from being emptied.
func (m *Map) Tied() bool { return len(m.Holds) > 0 && m.Spec.Type == ebpf.ProgramArray }

// own says whether a map is part of the program, never shared with another:
// read-only data, and arrays of programs that the object fills.
func (p *part) own(name string) bool {
	m := p.Spec.Maps[name]
	return constant(name) || m != nil && m.Type == ebpf.ProgramArray && len(m.Contents) > 0
}

// hold takes out of the contents of a map the maps and programs of the object
// that they name, and takes those into the part as well.
func (p *part) hold(m *Map) error {
	switch m.Spec.Type {
	case ebpf.ProgramArray, ebpf.ArrayOfMaps, ebpf.HashOfMaps:
	case ebpf.DevMap, ebpf.DevMapHash, ebpf.CPUMap:
		for _, kv := range m.Spec.Contents {
			if name, ok := kv.Value.(string); ok {
				return refuse(p.Name, "map %s (%v) holds the program %s", m.Name, m.Spec.Type, name)
			}
		}
		return nil
	default:
		return nil
	}
	contents := m.Spec.Contents
	m.Spec.Contents = nil
	for _, kv := range contents {
		name, ok := kv.Value.(string)
		switch {
		case !ok:
			return refuse(p.Name, "map %s (%v) holds a %T", m.Name, m.Spec.Type, kv.Value)
		case m.Spec.Type != ebpf.ProgramArray:
			if p.Spec.Maps[name] == nil {
				return refuse(p.Name, "map %s holds the map %s, which the object does not have", m.Name, name)
			}
			if err := p.need(name); err != nil {
				return err
			}
			symbol, _ := p.ref(name)
			m.Holds = append(m.Holds, Held{Key: kv.Key, Ref: symbol})
		default:
			target, err := p.target(m.Name, name)
			if err != nil {
				return err
			}
			m.Holds = append(m.Holds, Held{Key: kv.Key, Program: target})
		}
	}
	return nil
}

// target takes a program that tail calls of the part reach.
func (p *part) target(array, name string) (*ebpf.ProgramSpec, error) {
	was := p.Spec.Programs[name]
	if was == nil {
		return nil, refuse(p.Name, "map %s holds the program %s, which the object does not have", array, name)
	}
	typ, _, flags := ProgramType(was)
	if typ != p.program.Type {
		return nil, refuse(p.Name, "map %s holds %s, a %v program", array, name, typ)
	}
	// Fragments are only for a chain whose every program knows them, those
	// included that it tail-calls.
	p.program.Flags &= flags | ^uint32(flagXDPHasFrags)
	if t := p.targets[name]; t != nil {
		return t, nil
	}
	t := was.Copy()
	t.AttachTo, t.SectionName = "", ""
	p.targets[name] = t
	return t, p.bindMaps(name, t.Instructions)
}

// holdings encodes all that the maps of a part hold at first, for the ID.
func (p *part) holdings() ([]byte, error) {
	d := newDigest()
	held := false
	for _, m := range p.maps {
		for _, h := range m.Holds {
			held = true
			d.text(m.Name, fmt.Sprint(h.Key), h.Ref)
			if h.Program == nil {
				continue
			}
			d.text(h.Program.License)
			d.number(int64(len(h.Program.Instructions)))
			for _, ins := range h.Program.Instructions {
				d.number(int64(ins.OpCode), int64(ins.Dst), int64(ins.Src), int64(ins.Offset), ins.Constant)
				relocation := ""
				if r := btf.CORERelocationMetadata(&ins); r != nil {
					relocation = r.String()
				}
				d.text(ins.Symbol(), ins.Reference(), relocation)
			}
		}
	}
	if !held {
		return nil, nil
	}
	return d.sum(), nil
}

// bindMaps makes code refer to maps by their names in the chain, and takes
// those maps.
func (p *part) bindMaps(function string, code []asm.Instruction) error {
	for i := range code {
		ins := &code[i]
		if !ins.IsLoadFromMap() {
			continue
		}
		p.resolveKconfig(ins)
		name := ins.Reference()
		switch {
		case ins.Map() != nil:
			return refuse(p.Name, "%s is bound to a map of the kernel already", function)
		case name == "":
			return refuse(p.Name, "%s uses a map that has no name", function)
		}
		if err := p.need(name); err != nil {
			return err
		}
		symbol, _ := p.ref(name)
		*ins = ins.WithReference(symbol)
	}
	return nil
}

// need takes a map of the object, and all that it holds, once.
func (p *part) need(name string) error {
	if p.taken[name] {
		return nil
	}
	p.taken[name] = true
	spec := p.Spec.Maps[name]
	if name == KconfigName {
		spec = kconfigSpec(p.Spec)
	}
	if spec == nil {
		return refuse(p.Name, "the object has no map %q", name)
	}
	m, err := p.takeMap(name, spec)
	if err == nil {
		err = p.hold(&m)
	}
	p.maps = append(p.maps, m)
	return err
}
