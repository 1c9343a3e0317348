package bind

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/chain"
	"l3af/internal/near"
)

// Entry is one program of an object.
type Entry struct {
	Name string
	// Event is the kernel event that the section of a probe names, such as
	// tracepoint/sched/sched_switch or kprobe/do_unlinkat; "" for other programs.
	Event string
}

// Entries lists the programs of an object of a package by name.
func Entries(pkg *artifact.Package, object string) ([]Entry, error) {
	if objects := pkg.Objects(); !slices.Contains(objects, object) {
		err := fmt.Errorf("package %s has no object %q: %w", pkg.Manifest.Name, clip(object), fs.ErrNotExist)
		if hint := near.Hint(object, objects); hint != "" {
			err = fmt.Errorf("%w (%s)", err, hint)
		}
		return nil, err
	}
	spec, err := new(Objects).open(pkg, object)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", clip(object), err)
	}
	var all []Entry
	for _, name := range names(spec.Programs) {
		e := Entry{Name: name}
		switch p := spec.Programs[name]; p.Type {
		case ebpf.TracePoint, ebpf.RawTracepoint, ebpf.Kprobe, ebpf.PerfEvent:
			if e.Event, err = l3af.NormalAttach(section(p)); err != nil {
				e.Event = section(p)
			}
		}
		all = append(all, e)
	}
	return all, nil
}

// maxZeroes bounds the sections that take no place in the file (.bss).
const maxZeroes = 32 << 20

// Objects binds programs and parses each object of a package once, however
// many programs come from it. It may be used from several goroutines; the zero
// value is ready.
type Objects struct{ known sync.Map } // of objectKey to func() (*ebpf.CollectionSpec, error)

type objectKey struct {
	pkg  *artifact.Package
	name string
}

// open gives an object of a package, whose globals may be set.
func (o *Objects) open(pkg *artifact.Package, name string) (*ebpf.CollectionSpec, error) {
	once, _ := o.known.LoadOrStore(objectKey{pkg, name}, sync.OnceValues(func() (*ebpf.CollectionSpec, error) {
		text, err := pkg.Object(name)
		if err != nil {
			return nil, err
		}
		return parse(text)
	}))
	spec, err := once.(func() (*ebpf.CollectionSpec, error))()
	if err != nil {
		return nil, err
	}
	return own(spec), nil
}

// own copies of an object what its user changes, the values of globals and
// which program has a name. The rest is shared.
func own(spec *ebpf.CollectionSpec) *ebpf.CollectionSpec {
	c := *spec
	c.Programs = maps.Clone(spec.Programs)
	c.Variables = make(map[string]*ebpf.VariableSpec, len(spec.Variables))
	for name, v := range spec.Variables {
		mine := *v
		c.Variables[name] = &mine
	}
	return &c
}

// load reads an object of the package.
func (b *binder) load(name string) bool {
	var err error
	if b.spec, err = b.objects.open(b.pkg, name); err != nil {
		b.fail(".package", "", "object %s: %v", clip(name), err)
		return false
	}
	return true
}

// parse reads an ELF object that anybody may have made.
func parse(text []byte) (spec *ebpf.CollectionSpec, err error) {
	defer func() {
		if p := recover(); p != nil {
			spec, err = nil, fmt.Errorf("damaged: %v", p)
		}
	}()
	if err := check(text); err != nil {
		return nil, err
	}
	spec, err = ebpf.LoadCollectionSpecFromReader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	for name, m := range spec.Maps {
		if m == nil {
			return nil, fmt.Errorf("damaged: map %s is not there", name)
		}
	}
	for _, p := range spec.Programs {
		p.Type, p.AttachType, p.Flags = chain.ProgramType(p)
	}
	return spec, nil
}

// check refuses what is no BPF object, and what would cost more than its size
// to read.
func check(text []byte) error {
	if !bytes.HasPrefix(text, []byte(elf.ELFMAG)) {
		return errors.New("not an ELF file")
	}
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("the ELF file is cut short or damaged: %w", err)
	}
	native := elf.ELFDATA2LSB
	if bigEndian {
		native = elf.ELFDATA2MSB
	}
	switch {
	// Old compilers wrote EM_NONE.
	case f.Machine != elf.EM_BPF && f.Machine != elf.EM_NONE:
		return fmt.Errorf("made for %s, not for BPF", f.Machine)
	case f.Class != elf.ELFCLASS64:
		return fmt.Errorf("made for %s: BPF is 64 bits", f.Class)
	case f.Data != native:
		return fmt.Errorf("made for machines of the other byte order (%s)", f.Data)
	case len(f.Sections) == 0:
		return errors.New("the ELF file has no sections")
	}
	var zeroes uint64
	for _, s := range f.Sections {
		switch {
		case s.Flags&elf.SHF_COMPRESSED != 0:
			return fmt.Errorf("section %s is compressed", clip(s.Name))
		case s.Type == elf.SHT_NULL:
		case s.Type == elf.SHT_NOBITS:
			if s.Size > maxZeroes {
				zeroes = maxZeroes
			}
			if zeroes += s.Size; zeroes > maxZeroes {
				return fmt.Errorf("section %s is too large: at most %d MiB", clip(s.Name), maxZeroes>>20)
			}
		case s.Offset > uint64(len(text)) || s.FileSize > uint64(len(text))-s.Offset:
			return fmt.Errorf("the ELF file is cut short: section %s ends behind its end", clip(s.Name))
		}
	}
	return nil
}

func names[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
