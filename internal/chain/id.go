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

// finish puts the functions of a chain together and gives it its ID and names.
func (c *Chain) finish(parts []*part, fns []named) error {
	if len(fns) > maxFunctions {
		return refuse("", "the chain has %d functions; the kernel allows a program %d", len(fns), maxFunctions)
	}
	if err := c.identify(parts, fns); err != nil {
		return err
	}
	members := make([]string, len(parts))
	for i, p := range parts {
		members[i] = p.Name
	}
	c.Program.Name = NamePrefix + c.ID
	fns[0].name = title(c.ID, members)
	fns[0].symbol = fns[0].name

	lines := false
	var code asm.Instructions
	for _, f := range fns {
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
	c.Program.Instructions = code
	return nil
}

// identify sets the ID: a hash of all that decides what the chain does, in an
// encoding that depends on nothing else.
func (c *Chain) identify(parts []*part, fns []named) error {
	d := digest{sha256.New()}
	d.text("l3af chain 1", string(c.Kind), c.Attach)
	d.number(int64(c.Program.Type), int64(c.Program.AttachType), int64(c.Program.Flags), int64(c.Program.KernelVersion))
	d.text(c.Program.License)
	d.number(int64(len(c.Programs)))
	for _, p := range c.Programs {
		d.text(p.Name, p.Linkage)
		d.number(int64(len(p.Proceed)))
		for _, v := range p.Proceed {
			d.text(string(v))
		}
	}
	d.number(int64(len(fns)))
	for _, f := range fns {
		d.text(f.symbol)
		d.number(int64(len(f.ins)))
		for _, ins := range f.ins {
			d.number(int64(ins.OpCode), int64(ins.Dst), int64(ins.Src), int64(ins.Offset), ins.Constant)
			d.text(ins.Reference())
			relocation := ""
			if r := btf.CORERelocationMetadata(&ins); r != nil {
				relocation = r.String()
			}
			d.text(relocation)
		}
	}
	for _, p := range parts {
		d.text(string(p.types))
	}
	d.number(int64(len(c.Maps)))
	for _, m := range c.Maps {
		d.text(m.Ref)
		if err := d.shape(m.Spec); err != nil {
			return refuse(m.Member, "map %s: %v", m.Name, err)
		}
	}
	c.ID = hex.EncodeToString(d.Sum(nil))[:10]
	return nil
}

// digest hashes values that cannot be mistaken for others: texts with their
// length, numbers in 8 bytes.
type digest struct{ hash.Hash }

func (d digest) text(values ...string) {
	for _, s := range values {
		d.number(int64(len(s)))
		d.Write([]byte(s))
	}
}

func (d digest) number(values ...int64) {
	for _, n := range values {
		d.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
	}
}

// shape hashes what a map is and what it holds at first.
func (d digest) shape(m *ebpf.MapSpec) error {
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
func (d digest) value(v any) error {
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
