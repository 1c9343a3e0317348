package bind

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af/internal/artifact"
	"l3af/internal/host"
	"l3af/internal/near"
	"l3af/internal/value"
)

var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// config sets the globals of the document, and those that the manifest lists
// to their defaults. It returns the patches of sections that are not read-only.
func (b *binder) config(member string, config map[string]any) []host.Contents {
	patches := map[string][]host.Patch{}
	for _, name := range names(config) {
		b.global(patches, name, config[name])
	}
	for i := range b.pkg.Manifest.Globals {
		g := &b.pkg.Manifest.Globals[i]
		// A package may list the globals of several objects.
		v := b.spec.Variables[g.Name]
		if _, set := config[g.Name]; set || v == nil || !b.uses(v.SectionName) {
			continue
		}
		data := v.Value
		if g.Default != nil {
			var err error
			if data, err = encodeVariable(v, g.Default, g.Network); err != nil {
				b.failValue(".package", fmt.Sprintf("package %s: default of %s: ", b.pkg.Manifest.Name, g.Name), err)
				continue
			}
		}
		b.set(patches, g.Name, data, true)
	}
	var out []host.Contents
	for _, section := range names(patches) {
		p := patches[section]
		slices.SortFunc(p, func(x, y host.Patch) int { return x.Offset - y.Offset })
		out = append(out, host.Contents{Member: member, Map: section, Patches: p})
	}
	return out
}

func (b *binder) global(patches map[string][]host.Patch, name string, want any) {
	path := ".config." + name
	v := b.spec.Variables[name]
	if v == nil {
		if b.static(name) {
			b.fail(path, "only globals that are not static can be set", "%q is static in the object", clip(name))
			return
		}
		b.fail(path, near.Hint(name, b.globals()), "package %s has no global %q", b.pkg.Manifest.Name, clip(name))
		return
	}
	if !b.uses(v.SectionName) {
		b.fail(path, near.Hint("", b.globals()), "program %q does not use the global %q", b.entry, clip(name))
		return
	}
	network := false
	if g := b.listed(name); g != nil {
		network = g.Network
	}
	data, err := encodeVariable(v, want, network)
	if err != nil {
		b.failValue(path, "", err)
		return
	}
	b.set(patches, name, data, false)
}

func encodeVariable(v *ebpf.VariableSpec, want any, network bool) ([]byte, error) {
	size := len(v.Value)
	o := value.Options{Network: network}
	if v.Type == nil {
		return value.EncodeBytes(size, want, o)
	}
	data, err := value.Encode(v.Type, want, o)
	if err == nil && len(data) != size {
		err = fmt.Errorf("the object is damaged: it has %d bytes for a type of %d", size, len(data))
	}
	return data, err
}

// set gives a constant its value in the object, and makes a patch of that of
// any other variable, which keeps the value that the object gives it.
func (b *binder) set(patches map[string][]host.Patch, name string, data []byte, byDefault bool) {
	v := b.spec.Variables[name]
	if v.Constant() {
		v.Value = data
		return
	}
	patches[v.SectionName] = append(patches[v.SectionName],
		host.Patch{Offset: int(v.Offset), Data: slices.Clone(data), Variable: name, Default: byDefault})
}

func (b *binder) listed(name string) *artifact.Global {
	for i := range b.pkg.Manifest.Globals {
		if g := &b.pkg.Manifest.Globals[i]; g.Name == name {
			return g
		}
	}
	return nil
}

// globals lists what people may set: what the manifest lists, else all.
func (b *binder) globals() []string {
	var all, listed []string
	for _, name := range names(b.spec.Variables) {
		if !b.uses(b.spec.Variables[name].SectionName) {
			continue
		}
		all = append(all, name)
		if b.listed(name) != nil {
			listed = append(listed, name)
		}
	}
	if len(listed) > 0 {
		return listed
	}
	return all
}

// static reports whether a variable is in the object but not for others.
func (b *binder) static(name string) bool {
	for _, m := range b.spec.Maps {
		ds, ok := m.Value.(*btf.Datasec)
		if !ok {
			continue
		}
		for _, v := range ds.Vars {
			if v, ok := v.Type.(*btf.Var); ok && v.Name == name && v.Linkage == btf.StaticVar {
				return true
			}
		}
	}
	return false
}

// uses reports whether the program's code refers to a map or data section, or
// that of the programs it tail-calls by an array that the object fills.
func (b *binder) uses(name string) bool {
	if b.used == nil {
		b.used = map[string]bool{}
		b.use(b.prog)
	}
	return b.used[name]
}

// use notes what a program refers to.
func (b *binder) use(p *ebpf.ProgramSpec) {
	for i := range p.Instructions {
		if ins := &p.Instructions[i]; ins.IsLoadFromMap() {
			b.useMap(ins.Reference())
		}
	}
}

func (b *binder) useMap(name string) {
	m := b.spec.Maps[name]
	if m == nil || b.used[name] {
		return
	}
	b.used[name] = true
	for _, kv := range m.Contents {
		held, ok := kv.Value.(string)
		switch {
		case !ok:
		case m.Type != ebpf.ProgramArray:
			b.useMap(held)
		case b.spec.Programs[held] != nil:
			b.use(b.spec.Programs[held])
		}
	}
}

// isSection tells data sections from the maps of the program.
func isSection(name string) bool { return strings.HasPrefix(name, ".") }
