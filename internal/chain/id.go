package chain

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// finish puts the functions of a program together under its names: name is the
// kernel's, title the one of its entry function.
func finish(spec *ebpf.ProgramSpec, name, title string, fns []named) error {
	if len(fns) > maxFunctions {
		return refuse("", "the chain has %d functions; the kernel allows a program %d", len(fns), maxFunctions)
	}
	spec.Name = name
	fns[0].name, fns[0].symbol = title, title

	lines, size := false, 0
	for _, f := range fns {
		size += len(f.ins)
		info := btf.Func{Linkage: btf.StaticFunc, Type: &btf.FuncProto{Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}}}
		if f.info != nil {
			info = *f.info
		}
		info.Name = f.name
		f.ins[0] = btf.WithFuncMetadata(f.ins[0].WithSymbol(f.symbol), &info)
		for _, ins := range f.ins {
			lines = lines || ins.Source() != nil
		}
	}
	code := make(asm.Instructions, 0, size)
	for _, f := range fns {
		// The kernel wants a line for each function's start if it gets any.
		if lines && f.ins[0].Source() == nil {
			f.ins[0] = f.ins[0].WithSource(asm.Comment(f.name))
		}
		code = append(code, f.ins...)
	}
	if n := code.Size() / asm.InstructionSize; n > maxInstructions {
		return refuse("", "the chain has %d instructions; the kernel allows a program %d", n, maxInstructions)
	}
	spec.Instructions = code
	return nil
}

// composer is part of every ID. It changes whenever the code that is made of
// the same programs does something else than before.
const composer = "l3af chain 2"

// identify sets the ID: a hash of all that decides what the chain does, in an
// encoding that depends on nothing else. How the programs are linked, and how
// many segments that takes, is not part of it.
func (c *Chain) identify(parts []*part) error {
	d := newDigest()
	d.text(composer, string(c.Kind), c.Attach)
	d.number(int64(c.Program.Type), int64(c.Program.AttachType), int64(c.Program.Flags), int64(c.Program.KernelVersion))
	d.text(c.Program.License)
	d.number(int64(len(parts)))
	for _, p := range parts {
		d.text(p.Name)
		d.number(int64(len(p.Proceed)))
		for _, v := range p.Proceed {
			d.text(string(v))
		}
		d.number(int64(len(p.funcs)))
		for _, f := range p.funcs {
			d.function(f)
		}
		d.text(string(p.types))
	}
	d.number(int64(len(c.Maps)))
	for _, m := range c.Maps {
		d.text(m.Ref)
		if err := d.shape(m.Spec); err != nil {
			return refuse(m.Member, "map %s: %v", m.Name, err)
		}
	}
	c.ID = hex.EncodeToString(d.sum())[:10]
	return nil
}

// function hashes a function's instructions. Where a jump or call leads is
// hashed by instruction and function, not in the object's way of telling it.
func (d *digest) function(f function) {
	d.number(int64(len(f.ins)))
	for i, ins := range f.ins {
		reference := ins.Reference()
		switch kind, _ := kindOf(ins.OpCode); {
		case f.calls[i] >= 0:
			ins.Constant, reference = int64(f.calls[i]), ""
		case kind == longJump:
			ins.Constant, reference = int64(f.jumps[i]), ""
		case f.jumps[i] >= 0:
			ins.Offset, reference = 0, ""
		}
		d.number(int64(ins.OpCode), int64(ins.Dst), int64(ins.Src), int64(ins.Offset), ins.Constant, int64(f.jumps[i]))
		relocation := ""
		if r := btf.CORERelocationMetadata(&ins); r != nil {
			relocation = r.String()
		}
		d.text(reference, relocation)
	}
}

// digest hashes values that cannot be mistaken for others: texts with their
// length, numbers in 8 bytes.
type digest struct {
	hash    hash.Hash
	waiting []byte // not hashed yet: it is cheaper in large pieces
}

func newDigest() *digest { return &digest{hash: sha256.New()} }

func (d *digest) text(values ...string) {
	for _, s := range values {
		d.number(int64(len(s)))
		d.waiting = append(d.waiting, s...)
	}
}

func (d *digest) number(values ...int64) {
	for _, n := range values {
		d.waiting = binary.LittleEndian.AppendUint64(d.waiting, uint64(n))
	}
	if len(d.waiting) >= 4096 {
		d.flush()
	}
}

func (d *digest) flush() {
	d.hash.Write(d.waiting)
	d.waiting = d.waiting[:0]
}

func (d *digest) sum() []byte {
	d.flush()
	return d.hash.Sum(nil)
}

// shape hashes what a map is and what it holds at first.
func (d *digest) shape(m *ebpf.MapSpec) error {
	for depth := 0; ; depth++ {
		d.text(m.Name)
		d.number(int64(m.Type), int64(m.KeySize), int64(m.ValueSize), int64(m.MaxEntries),
			int64(m.Flags), int64(m.NumaNode), int64(m.MapExtra), int64(len(m.Contents)))
		for _, kv := range m.Contents {
			if err := d.value(kv.Key); err != nil {
				return err
			}
			if err := d.value(kv.Value); err != nil {
				return err
			}
		}
		var types []btf.Type
		for _, t := range []btf.Type{m.Key, m.Value} {
			if t != nil {
				types = append(types, t)
			}
			d.text(fmt.Sprintf("%T", t))
		}
		b, err := wire(types...)
		if err != nil {
			return err
		}
		d.text(string(b))
		if m.InnerMap == nil || depth == 8 {
			return nil
		}
		m = m.InnerMap
	}
}

// value hashes a key or value of a map's first contents.
func (d *digest) value(v any) error {
	switch v := v.(type) {
	case []byte:
		d.text(string(v))
		return nil
	case string:
		return fmt.Errorf("its contents name another object, %q", v)
	}
	b, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		return fmt.Errorf("contents of the type %T", v)
	}
	d.text(string(b))
	return nil
}
