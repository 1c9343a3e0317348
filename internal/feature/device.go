package feature

import (
	"errors"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

// The types a network device may take on.
var (
	DevicePrograms = []ebpf.ProgramType{ebpf.SchedCLS, ebpf.XDP}
	DeviceMaps     = []ebpf.MapType{ebpf.Hash, ebpf.Array}
)

// DeviceProgram says whether a network device runs programs of a type itself.
func DeviceProgram(ifindex int, t ebpf.ProgramType) Answer {
	return device(deviceLoad(ifindex, t, asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}))
}

// DeviceHelper says whether programs that a network device runs may call a helper.
func DeviceHelper(ifindex int, t ebpf.ProgramType, h asm.BuiltinFunc) Answer {
	return device(deviceLoad(ifindex, t, asm.Instructions{h.Call(), asm.Mov.Imm(asm.R0, 0), asm.Return()}))
}

// DeviceMisc are the abilities of a network device.
func DeviceMisc(ifindex int) []Ability {
	can := func(ins ...asm.Instruction) Answer {
		ins = append(ins, asm.Mov.Imm(asm.R0, 2).WithSymbol("end"), asm.Return())
		return device(deviceLoad(ifindex, ebpf.XDP, ins))
	}
	large := make([]asm.Instruction, 5000) // BPF_MAXINSNS of linux/bpf_common.h is 4096
	for i := range large {
		large[i] = asm.Mov.Imm(asm.R0, 1)
	}
	zero := asm.Mov.Imm(asm.R0, 0)
	return abilities(can(large...),
		can(zero, asm.Add.Imm(asm.R0, 1).WithSymbol("loop"), asm.JNE.Imm(asm.R0, 10, "loop")),
		can(zero, asm.JLT.Imm(asm.R0, 1, "end")),
		can(zero, asm.JLT.Imm32(asm.R0, 1, "end")),
		can(zero, asm.LongJump("end")))
}

func deviceLoad(ifindex int, t ebpf.ProgramType, code asm.Instructions) error {
	p, err := ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{Type: t, Ifindex: uint32(ifindex), Instructions: code, License: "GPL"},
		ebpf.ProgramOptions{LogDisabled: true})
	if err == nil {
		p.Close()
	}
	return err
}

// DeviceMap says whether a network device holds maps of a type itself.
func DeviceMap(ifindex int, t ebpf.MapType) Answer {
	attr := struct {
		kind, key, value, entries, flags, inner, numa uint32
		name                                          [16]byte
		ifindex                                       uint32
	}{kind: uint32(t), key: 4, value: 4, entries: 1, ifindex: uint32(ifindex)}
	fd, err := bpfsys.CallFD(unix.BPF_MAP_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == nil {
		unix.Close(fd)
	}
	return device(err)
}

// device understands what devices say that take nothing on.
func device(err error) Answer {
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV):
		return Answer{Known: true}
	}
	return answer(err)
}
