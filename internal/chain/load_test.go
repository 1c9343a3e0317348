package chain

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

var objects sync.Map

// object gives a copy of a test object, which the test may change.
func object(t testing.TB, name string) *ebpf.CollectionSpec {
	t.Helper()
	spec, ok := objects.Load(name)
	if !ok {
		s, err := ebpf.LoadCollectionSpec("testdata/" + name + ".bpf.o")
		if err != nil {
			t.Fatal(err)
		}
		spec, _ = objects.LoadOrStore(name, s)
	}
	return spec.(*ebpf.CollectionSpec).Copy()
}

func objectOf(kind l3af.HookKind) string {
	if kind == l3af.XDP {
		return "xdp"
	}
	return "tc"
}

// set gives a global variable of an object its value.
func set(t testing.TB, spec *ebpf.CollectionSpec, name string, value any) {
	t.Helper()
	v := spec.Variables[name]
	if v == nil {
		t.Fatalf("no variable %s", name)
	}
	if err := v.Set(value); err != nil {
		t.Fatal(err)
	}
}

// withoutBTF makes an object what its source gives when compiled without -g.
func withoutBTF(spec *ebpf.CollectionSpec) *ebpf.CollectionSpec {
	spec.Types = nil
	for _, p := range spec.Programs {
		for i := range p.Instructions {
			ins := &p.Instructions[i]
			meta := asm.Metadata{}
			ref, sym := ins.Reference(), ins.Symbol()
			ins.Metadata = meta
			if ref != "" {
				*ins = ins.WithReference(ref)
			}
			if sym != "" {
				*ins = ins.WithSymbol(sym)
			}
		}
	}
	return spec
}

// loaded is a chain in the kernel with its maps by their Ref.
type loaded struct {
	*ebpf.Program
	maps map[string]*ebpf.Map // the PROG_ARRAY of the segments, too
}

func (l *loaded) Close() {
	if l.Program != nil {
		l.Program.Close()
	}
	for _, m := range l.maps {
		m.Close()
	}
}

// bind loads a chain as the kernel package does: maps first, then the
// programs. It tries what Narrow gives.
func bind(c *Chain) (*loaded, error) {
	l, _, err := bindNarrow(c)
	return l, err
}

// bindNarrow also gives the chain as it was composed in the end.
func bindNarrow(c *Chain) (*loaded, *Chain, error) {
	for {
		l, err := bindOnce(c)
		if err == nil {
			return l, c, nil
		}
		next, ok := c.Narrow(err)
		if !ok {
			return nil, nil, err
		}
		c = next
	}
}

func bindOnce(c *Chain) (_ *loaded, err error) {
	l := &loaded{maps: map[string]*ebpf.Map{}}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if err := makeMaps(c, l.maps); err != nil {
		return nil, err
	}
	if c.Segments != nil {
		if l.maps[SegmentsRef], err = ebpf.NewMap(c.Segments); err != nil {
			delete(l.maps, SegmentsRef)
			return nil, err
		}
	}
	for i, spec := range c.Specs() {
		program := spec.Copy()
		for ref, m := range l.maps {
			if err := program.Instructions.AssociateMap(ref, m); err != nil && !errors.Is(err, asm.ErrUnreferencedSymbol) {
				return nil, err
			}
		}
		p, err := ebpf.NewProgramWithOptions(program, ebpf.ProgramOptions{LogDisabled: true})
		if err != nil && !errors.Is(err, unix.E2BIG) {
			p, err = ebpf.NewProgram(program)
		}
		if err != nil {
			return nil, &SegmentError{i, err}
		}
		if i == 0 {
			l.Program = p
			continue
		}
		err = l.maps[SegmentsRef].Put(uint32(i-1), p)
		p.Close()
		if err != nil {
			return nil, err
		}
	}
	return l, nil
}

func load(t testing.TB, c *Chain) *loaded {
	t.Helper()
	l, err := bind(c)
	if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
		t.Fatalf("%+v", verifier)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// alone loads one program by itself, by the library's own means.
func alone(m Member) (*loaded, error) {
	program := m.Spec.Programs[m.Entry].Copy()
	spec := &ebpf.CollectionSpec{
		Maps:      map[string]*ebpf.MapSpec{},
		Programs:  map[string]*ebpf.ProgramSpec{m.Entry: program},
		Variables: map[string]*ebpf.VariableSpec{},
		Types:     m.Spec.Types,
		ByteOrder: m.Spec.ByteOrder,
	}
	if program.Type == ebpf.SchedCLS && program.AttachType == ebpf.AttachNone {
		program.AttachType = ebpf.AttachTCXIngress
	}
	for _, ins := range program.Instructions {
		if ms := m.Spec.Maps[ins.Reference()]; ins.IsLoadFromMap() && ms != nil {
			spec.Maps[ins.Reference()] = ms.Copy()
		}
	}
	for name, v := range m.Spec.Variables {
		if spec.Maps[v.SectionName] != nil {
			spec.Variables[name] = v
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	l := &loaded{Program: coll.DetachProgram(m.Entry), maps: map[string]*ebpf.Map{}}
	for name := range coll.Maps {
		l.maps[ref(m.Name, name)] = coll.DetachMap(name)
	}
	coll.Close()
	return l, nil
}

// compose fails the test if the members cannot be composed.
func compose(t testing.TB, kind l3af.HookKind, members ...Member) *Chain {
	t.Helper()
	c, err := Compose(kind, members)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// assembled is a member made of instructions.
func assembled(name string, typ ebpf.ProgramType, ins ...asm.Instruction) Member {
	return Member{Name: name, Entry: name, Spec: &ebpf.CollectionSpec{
		Programs: map[string]*ebpf.ProgramSpec{name: {Name: name, Type: typ, License: "GPL", Instructions: ins}},
	}}
}

// counts is countsOf in a test.
func counts(t testing.TB, l *loaded) []Count {
	t.Helper()
	got, err := countsOf(l)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// countsOf reads the counters of a chain as the kernel package does.
func countsOf(l *loaded) ([]Count, error) {
	m := l.maps[CountersRef]
	h, err := m.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	spec, err := h.Spec(nil)
	if err != nil {
		return nil, err
	}
	var st *btf.Struct
	if err := spec.TypeByName(CountersType, &st); err != nil {
		return nil, err
	}
	var values [][]byte
	if err := m.Lookup(uint32(0), &values); err != nil {
		return nil, err
	}
	return ReadCounts(st, values)
}

// withoutBTFUnlessCORE strips an object whose program can do without.
func withoutBTFUnlessCORE(spec *ebpf.CollectionSpec, entry string) *ebpf.CollectionSpec {
	for _, ins := range spec.Programs[entry].Instructions {
		if btf.CORERelocationMetadata(&ins) != nil || ins.IsLoadFromMap() && ins.Reference() == "" {
			return spec
		}
	}
	return withoutBTF(spec)
}
