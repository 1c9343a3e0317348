package chain

import (
	"slices"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// verdict is what is known of w0 at some place of a program.
type verdict struct {
	state verdictState
	code  int32 // when known
}

type verdictState uint8

const (
	unreached verdictState = iota
	known
	varies
)

func (v verdict) meet(o verdict) verdict {
	switch {
	case v.state == unreached:
		return o
	case o.state == unreached || v == o:
		return v
	}
	return verdict{state: varies}
}

// after is what is known behind an instruction when v is known before it.
func (v verdict) after(ins asm.Instruction) verdict {
	varying := verdict{state: varies}
	switch class := ins.OpCode.Class(); {
	case class.IsALU():
		if ins.Dst != asm.R0 {
			return v
		}
		if ins.OpCode.ALUOp() == asm.Mov && ins.OpCode.Source() == asm.ImmSource && btf.CORERelocationMetadata(&ins) == nil {
			return verdict{known, int32(ins.Constant)}
		}
		return varying
	case class.IsJump():
		if ins.OpCode.JumpOp() == asm.Call {
			return varying
		}
		return v
	case class == asm.StClass, class == asm.StXClass && ins.OpCode.Mode() == asm.MemMode:
		return v
	case class == asm.LdXClass && ins.Dst != asm.R0:
		return v
	}
	// What is left writes r0, or is rare: atomics, 64-bit constants.
	return varying
}

// endings tells for a function what its verdict is wherever it leads to an exit.
type endings struct {
	jump []verdict // of the jump at an instruction
	fall []verdict // on falling from the instruction before into this one
}

// endingsOf follows w0 through a function until nothing new is found.
func endingsOf(f function) endings {
	e := endings{make([]verdict, len(f.ins)), make([]verdict, len(f.ins))}
	before := make([]verdict, len(f.ins))
	before[0] = verdict{state: varies}
	reach := func(i int, v verdict, todo []int) []int {
		if now := before[i].meet(v); now != before[i] {
			before[i] = now
			return append(todo, i)
		}
		return todo
	}
	for todo := []int{0}; len(todo) > 0; {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		v := before[i].after(f.ins[i])
		if to := f.jumps[i]; to >= 0 {
			e.jump[i] = v
			todo = reach(to, v, todo)
		}
		if f.falls(i) {
			e.fall[i+1] = v
			todo = reach(i+1, v, todo)
		}
	}
	return e
}

// falls says whether instruction i can go on with the one behind it.
func (f function) falls(i int) bool {
	kind, _ := kindOf(f.ins[i].OpCode)
	return kind == noJump || kind == branch
}

func (f function) exits(i int) bool {
	kind, _ := kindOf(f.ins[i].OpCode)
	return kind == exit
}

// exitPlan is how a body leaves for the rest of the chain: straight to where
// its verdict leads, wherever that is known beforehand, else to the join.
type exitPlan struct {
	join   label         // where the verdict is looked at
	next   label         // the next body, placed behind the join
	jumps  map[int]label // where jumps to an exit go instead, by instruction
	exits  map[int]label // where exits go
	joined bool          // something goes to the join
}

// leads says whether some way out goes to one of the labels.
func (p *exitPlan) leads(to ...label) bool {
	for _, ways := range []map[int]label{p.jumps, p.exits} {
		for _, at := range ways {
			if slices.Contains(to, at) {
				return true
			}
		}
	}
	return false
}

// behind is what is placed right behind the body.
func (p *exitPlan) behind() label {
	if p.joined {
		return p.join
	}
	return p.next
}

// planExits decides where every way out of f goes. lead gives the place that
// a known verdict leads to, if it can be gone to at once.
func planExits(f function, join, next label, lead func(code int32) (label, bool)) *exitPlan {
	p := &exitPlan{join: join, next: next, jumps: map[int]label{}, exits: map[int]label{}}
	ways := endingsOf(f)
	straight := func(v verdict) (label, bool) {
		if v.state != known {
			return nowhere, false
		}
		return lead(v.code)
	}
	shared := map[int]bool{} // exits that some jump reaches with a verdict to be looked at
	for i, to := range f.jumps {
		if to < 0 || !f.exits(to) {
			continue
		}
		if at, ok := straight(ways.jump[i]); ok {
			p.jumps[i] = at
		} else {
			shared[to] = true
		}
	}
	for i := range f.ins {
		if !f.exits(i) {
			continue
		}
		fallen := i > 0 && f.falls(i-1)
		at, ok := straight(ways.fall[i])
		switch {
		case shared[i] || i == 0 || fallen && !ok:
			p.exits[i], p.joined = join, true
		case fallen:
			p.exits[i] = at
		default: // nothing comes here any more
			p.exits[i] = nowhere
		}
	}
	return p
}
