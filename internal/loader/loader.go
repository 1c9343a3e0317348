// Package loader loads object files as bpftool and libbpf do: with their
// order of programs and maps, and their names.
package loader

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Object is an object file that is to be loaded.
type Object struct {
	Spec     *ebpf.CollectionSpec
	Programs []string // in the order of the file
	Maps     []string // as libbpf numbers them: declared ones, then those of global variables

	name     string // what stands before those of its sections' maps
	replaced map[string]*ebpf.Map
	kernel   *btf.Spec // nil: as the kernel gives them
}

// Open reads an object file.
func Open(path string) (*Object, error) {
	file, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", path, err)
	}
	defer file.Close()
	spec, err := ebpf.LoadCollectionSpec(path)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", path, err)
	}
	o := &Object{Spec: spec, replaced: map[string]*ebpf.Map{}}
	symbols, err := file.Symbols()
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", path, err)
	}
	o.order(file, symbols)
	o.name, _, _ = strings.Cut(filepath.Base(path), ".")
	return o, nil
}

// order finds where in the file programs and maps are.
func (o *Object) order(file *elf.File, symbols []elf.Symbol) {
	place := map[string][2]uint64{} // section and offset
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC || elf.ST_TYPE(s.Info) == elf.STT_OBJECT {
			place[s.Name] = [2]uint64{uint64(s.Section), s.Value}
		}
	}
	before := func(a, b string) int {
		return cmp.Or(cmp.Compare(place[a][0], place[b][0]), cmp.Compare(place[a][1], place[b][1]), cmp.Compare(a, b))
	}
	o.Programs = slices.SortedFunc(maps.Keys(o.Spec.Programs), before)
	sections := map[string]int{}
	for i, s := range file.Sections {
		sections[s.Name] = i
	}
	for name := range o.Spec.Maps {
		if strings.HasPrefix(name, ".") {
			place[name] = [2]uint64{1<<32 + uint64(sections[name])}
		}
	}
	if _, ok := place[".kconfig"]; ok {
		place[".kconfig"] = [2]uint64{1 << 33}
	}
	// Declared maps lie in the order of their section's description.
	var section *btf.Datasec
	if o.Spec.Types != nil && o.Spec.Types.TypeByName(".maps", &section) == nil {
		for i, v := range section.Vars {
			if d, ok := v.Type.(*btf.Var); ok {
				place[d.Name] = [2]uint64{0, uint64(i)}
			}
		}
	}
	o.Maps = slices.SortedFunc(maps.Keys(o.Spec.Maps), before)
}

// nameSize is BPF_OBJ_NAME_LEN, with the terminator.
const nameSize = 16

// sectionMap is the kernel's name of the map of a section of global variables:
// at most eight bytes of the object's name and the section's.
func sectionMap(object, section string) string {
	suffix := min(max(len(".rodata"), len(section)), nameSize-1)
	prefix := min(nameSize-1-suffix, len(object))
	if strings.Contains(section[1:], ".") { // one of the program's own, as .data.counters
		prefix = 0
	}
	name := []byte(object[:prefix] + section[:min(suffix, len(section))])
	for i, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.':
		default:
			name[i] = '_'
		}
	}
	return string(name)
}

// PinName is the file that libbpf pins a map of the object at: bpffs takes no dots.
func (o *Object) PinName(name string) string {
	if strings.HasPrefix(name, ".") && strings.Count(name, ".") == 1 {
		name = sectionMap(o.name, name)
	}
	return strings.ReplaceAll(name, ".", "_")
}

// Only leaves out all programs but one.
func (o *Object) Only(name string) {
	for other := range o.Spec.Programs {
		if other != name {
			delete(o.Spec.Programs, other)
		}
	}
	o.Programs = []string{name}
}

// Iterator is the first program that is an iterator; one over the elements of a
// map if that is wanted and there is one.
func (o *Object) Iterator(overMap bool) (name string, ok bool) {
	for _, p := range o.Programs {
		spec := o.Spec.Programs[p]
		if spec.Type != ebpf.Tracing || spec.AttachType != ebpf.AttachTraceIter {
			continue
		}
		if OverMap(spec) == overMap {
			return p, true
		}
		if !ok {
			name, ok = p, true
		}
	}
	return name, ok
}

// OverMap says of an iterator whether it goes through the elements of a map.
func OverMap(spec *ebpf.ProgramSpec) bool {
	return slices.Contains([]string{"bpf_map_elem", "bpf_sk_storage_map", "sockmap"}, spec.AttachTo)
}

// SetType makes all programs of a type, whatever their sections say.
func (o *Object) SetType(t Type) {
	for _, p := range o.Spec.Programs {
		p.Type, p.AttachType = t.Program, t.Attach
	}
}

// Bind binds XDP programs to a device, which they may then ask for what it
// knows of a packet.
func (o *Object) Bind(ifindex uint32) error {
	const devBoundOnly = 1 << 6 // BPF_F_XDP_DEV_BOUND_ONLY
	for name, p := range o.Spec.Programs {
		if p.Type != ebpf.XDP {
			return fmt.Errorf("program %s is a %v: only XDP programs can be bound to a device", name, p.Type)
		}
		p.Ifindex, p.Flags = ifindex, p.Flags|devBoundOnly
	}
	return nil
}

// Offload has the device run the programs.
func (o *Object) Offload(ifindex uint32) error {
	if len(o.Spec.Maps) > 0 {
		return errors.New("the object has maps, and those of a device cannot be made here")
	}
	for _, p := range o.Spec.Programs {
		p.Ifindex = ifindex
	}
	return nil
}

// Replace has the programs use a map that there is.
func (o *Object) Replace(name string, m *ebpf.Map) error {
	if o.Spec.Maps[name] == nil {
		return fmt.Errorf("the object has no map %q", name)
	}
	o.replaced[name] = m
	return nil
}

// KernelTypes has programs that adapt themselves to the kernel read its types
// from a file.
func (o *Object) KernelTypes(file string) error {
	types, err := btf.LoadSpec(file)
	if err != nil {
		return fmt.Errorf("kernel types of %s: %w", file, err)
	}
	o.kernel = types
	return nil
}

// Load loads what is left of the object. Maps that say so are pinned under the
// directory, or used from there. With log, the verifier says in it what it did.
func (o *Object) Load(pins string, log bool) (*ebpf.Collection, error) {
	opts := ebpf.CollectionOptions{MapReplacements: maps.Clone(o.replaced), Maps: ebpf.MapOptions{PinPath: pins}}
	opts.Programs.KernelTypes = o.kernel
	if log {
		opts.Programs.LogLevel = ebpf.LogLevelBranch | ebpf.LogLevelStats
	}
	spec := o.Spec.Copy()
	spec.Variables = nil // or they would be mapped into memory, which locks refuse
	for name, m := range spec.Maps {
		if !strings.HasPrefix(name, ".") || name == ".kconfig" || opts.MapReplacements[name] != nil {
			continue
		}
		made, err := o.section(name, m)
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		defer made.Close()
		opts.MapReplacements[name] = made
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, opts)
	if rejected := (*ebpf.VerifierError)(nil); errors.As(err, &rejected) {
		return nil, fmt.Errorf("%w\n%s", err, strings.TrimSpace(fmt.Sprintf("%+v", rejected)))
	}
	return coll, err
}

// section makes the map of a section of global variables under libbpf's name.
// The library knows by the name which of them are constants.
func (o *Object) section(name string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	spec = spec.Copy()
	spec.Name, spec.Flags = sectionMap(o.name, name), spec.Flags|unix.BPF_F_MMAPABLE
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(name, ".rodata") && !strings.HasPrefix(spec.Name, ".rodata") {
		if err := m.Freeze(); err != nil {
			m.Close()
			return nil, err
		}
	}
	return m, nil
}
