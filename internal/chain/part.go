package chain

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
)

// RefusedError says why programs cannot be composed.
type RefusedError struct {
	Member string // "" when no single one is to blame
	Reason string
}

func (e *RefusedError) Error() string {
	if e.Member == "" {
		return "cannot compose: " + e.Reason
	}
	return fmt.Sprintf("cannot compose %s: %s", e.Member, e.Reason)
}

func refuse(member, format string, args ...any) error {
	return &RefusedError{member, fmt.Sprintf(format, args...)}
}

// The kernel's program flags that matter here (BPF_F_* in linux/bpf.h).
const (
	flagXDPHasFrags     = 1 << 5
	flagXDPDevBoundOnly = 1 << 6
)

// part is one program, taken apart.
type part struct {
	Member
	program *ebpf.ProgramSpec
	needs   needs
	frame   frameUse // of the entry function
	codes   []int32  // of Proceed
	funcs   []function
	maps    []Map                        // by name
	behind  []int32                      // verdicts behind calls of the next program that were taken out
	direct  map[string]bool              // the Ref of those that its own code refers to
	taken   map[string]bool              // names of the object's maps that are in maps
	targets map[string]*ebpf.ProgramSpec // programs that tail calls reach, by name
	// types is what else decides what the program does: the object's BTF, where
	// it has CO-RE relocations, and a hash of what its maps hold at first.
	types []byte
}

// looked is what was found out about the code of programs, which members that
// are the same program share.
type looked map[looksLike]looks

type looksLike struct {
	program *ebpf.ProgramSpec // of the object
	next    string
}

type looks struct {
	needs needs
	frame frameUse
}

// look finds out what composing p takes.
func (l looked) look(p *part) error {
	as := looksLike{p.Spec.Programs[p.Entry], p.Next}
	found, ok := l[as]
	if !ok {
		var err error
		if found.needs, err = needsOf(p); err != nil {
			return err
		}
		found.frame = frameUseOf(p.funcs[0], p.mapSize)
		l[as] = found
	}
	p.needs, p.frame = found.needs, found.frame
	return nil
}

// take looks a member up in its object and takes it apart. It is for programs
// of every kind.
func take(m Member) (*part, error) {
	if m.Name == "" {
		return nil, refuse("", "a program has no name")
	}
	if strings.ContainsRune(m.Name, 0) {
		return nil, refuse("", "the name %q holds a zero byte", m.Name)
	}
	if len(identifier(m.Name)) > maxIdentifier {
		return nil, refuse(m.Name, "the name is too long: %d bytes as an identifier, of %d", len(identifier(m.Name)), maxIdentifier)
	}
	if m.Spec == nil {
		return nil, refuse(m.Name, "no object")
	}
	p := &part{Member: m}
	if was := m.Spec.Programs[m.Entry]; was != nil {
		own := *was
		own.Type, own.AttachType, own.Flags = ProgramType(was)
		p.program = &own
	} else {
		var have []string
		for name := range m.Spec.Programs {
			have = append(have, name)
		}
		slices.Sort(have)
		return nil, refuse(m.Name, "the object has no program %q (it has: %s)", m.Entry, strings.Join(have, ", "))
	}
	if bo := p.program.ByteOrder; bo != nil && bo.Uint16([]byte{1, 0}) != binary.NativeEndian.Uint16([]byte{1, 0}) {
		return nil, refuse(m.Name, "the object is %v, this machine is not", bo)
	}
	if p.program.Ifindex != 0 || p.program.Flags&flagXDPDevBoundOnly != 0 {
		return nil, refuse(m.Name, "the program is bound to one device: the kernel would run it nowhere else, nor any program that is fused with it")
	}
	if p.program.AttachTarget != nil {
		return nil, refuse(m.Name, "the program replaces or traces another program")
	}
	fns, err := functions(p.program.Instructions)
	if err != nil {
		return nil, refuse(m.Name, "%v", err)
	}
	p.funcs = fns
	if p.Next != "" {
		if err := p.takeOutNext(); err != nil {
			return nil, err
		}
	}
	if err := p.findMaps(); err != nil {
		return nil, err
	}
	if err := p.findTypes(); err != nil {
		return nil, err
	}
	held, err := p.holdings()
	if err != nil {
		return nil, err
	}
	p.types = append(p.types, held...)
	return p, nil
}

// ProgramType is the type of a program, what it attaches to, and its flags.
// Where the library does not know the section, names of old loaders are
// understood: any that begins with xdp, tc_ or classifier, and action, whose
// programs run as those of tc do.
func ProgramType(p *ebpf.ProgramSpec) (ebpf.ProgramType, ebpf.AttachType, uint32) {
	section := strings.TrimPrefix(p.SectionName, "?")
	begins := func(with string) bool { return strings.HasPrefix(section, with) }
	switch {
	case p.Type == ebpf.SchedACT:
		return ebpf.SchedCLS, ebpf.AttachNone, p.Flags
	case p.Type != ebpf.UnspecifiedProgram:
	case begins("xdp.frags"):
		return ebpf.XDP, ebpf.AttachXDP, p.Flags | flagXDPHasFrags
	case begins("xdp"):
		return ebpf.XDP, ebpf.AttachXDP, p.Flags
	case begins("tc_"), begins("tc/"), begins("classifier"), begins("action"):
		return ebpf.SchedCLS, ebpf.AttachNone, p.Flags
	}
	return p.Type, p.AttachType, p.Flags
}

// forHook checks that a program can be part of a chain at a hook.
func (p *part) forHook(kind l3af.HookKind) error {
	want, types := ebpf.SchedCLS, []ebpf.AttachType{
		ebpf.AttachNone, ebpf.AttachTCXIngress, ebpf.AttachTCXEgress, ebpf.AttachNetkitPrimary, ebpf.AttachNetkitPeer,
	}
	if kind == l3af.XDP {
		want, types = ebpf.XDP, []ebpf.AttachType{ebpf.AttachNone, ebpf.AttachXDP}
	}
	if p.program.Type != want {
		return refuse(p.Name, "%s is a %v program, the hook %s runs %v", p.Entry, p.program.Type, kind, want)
	}
	if !slices.Contains(types, p.program.AttachType) {
		return refuse(p.Name, "%s is made for %v, which the hook %s is not", p.Entry, p.program.AttachType, kind)
	}
	if other := p.program.Flags &^ flagXDPHasFrags; other != 0 {
		return refuse(p.Name, "%s has the program flags %#x, which a chain cannot have", p.Entry, other)
	}
	if len(p.Proceed) == 0 {
		p.Proceed = kind.DefaultProceed()
	}
	p.Proceed = slices.Clone(p.Proceed)
	for i, v := range p.Proceed {
		code, ok := kind.Code(v)
		if !ok {
			return refuse(p.Name, "the hook %s has no verdict %q", kind, v)
		}
		if slices.Contains(p.Proceed[:i], v) {
			return refuse(p.Name, "proceeds twice on %s", v)
		}
		p.codes = append(p.codes, code)
	}
	for _, code := range p.behind {
		if !slices.Contains(p.codes, code) {
			return refuse(p.Name, "returns %s behind its call of the next program (map %s), and does not proceed on that", kind.Verdict(code), p.Next)
		}
	}
	return p.spliceable()
}

// spliceable refuses what would leave the chain by another way than an exit
// of the entry function.
func (p *part) spliceable() error {
	for _, f := range p.funcs {
		for _, ins := range f.ins {
			switch kfunc := ins.Reference(); {
			case !ins.IsKfuncCall():
			case strings.HasPrefix(kfunc, "bpf_xdp_metadata_"):
				return refuse(p.Name, "%s asks the device about the packet (%s), which the kernel allows only programs that are bound to one device", f.name, kfunc)
			case kfunc == "bpf_throw":
				return refuse(p.Name, "%s throws an exception, which would skip the rest of the chain", f.name)
			}
		}
	}
	return nil
}

// findTypes keeps the object's BTF if the program has CO-RE relocations: what
// they become depends on its types.
func (p *part) findTypes() error {
	relocated := func(code []asm.Instruction) bool {
		return slices.ContainsFunc(code, func(ins asm.Instruction) bool { return btf.CORERelocationMetadata(&ins) != nil })
	}
	needed := slices.ContainsFunc(p.funcs, func(f function) bool { return relocated(f.ins) })
	for _, t := range p.targets {
		needed = needed || relocated(t.Instructions)
	}
	if !needed {
		return nil
	}
	if p.Spec.Types == nil {
		return refuse(p.Name, "has CO-RE relocations and no BTF")
	}
	var types []btf.Type
	for t, err := range p.Spec.Types.All() {
		if err != nil {
			return refuse(p.Name, "read its BTF: %v", err)
		}
		types = append(types, t)
	}
	var err error
	if p.types, err = wire(types...); err != nil {
		return refuse(p.Name, "encode its BTF: %v", err)
	}
	return nil
}

// wire encodes types, the same ones always to the same bytes.
func wire(types ...btf.Type) ([]byte, error) {
	b, err := btf.NewBuilder(types, nil)
	if err != nil {
		return nil, err
	}
	return b.Marshal(nil, nil)
}
