package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/disasm"
	"l3af/internal/host"
	"l3af/internal/kallsyms"
)

// Cost loads a chain as [Kernel.TestLoad] does and tells what the kernel says
// it takes. Nothing is left.
func (k *Kernel) Cost(load host.Load) (host.Cost, error) {
	if err := check(load); err != nil {
		return host.Cost{}, err
	}
	defer k.loaded()
	var cost host.Cost
	err := k.at(load.Target, func(*device) (err error) {
		cost, err = k.cost(load)
		return err
	})
	return cost, err
}

func (k *Kernel) cost(load host.Load) (host.Cost, error) {
	begin := time.Now()
	maps, err := k.nowhere().openMaps(load)
	if err != nil {
		return host.Cost{}, err
	}
	defer maps.Close()
	progs, err := k.loadPrograms(context.Background(), load, maps, 0)
	if err != nil {
		return host.Cost{}, err
	}
	defer progs.Close()
	cost := host.Cost{Chain: progs.chain, LoadTime: time.Since(begin), Maps: len(load.Chain.Maps), Stack: []int{}}
	for i, spec := range progs.chain.Specs() {
		cost.Instructions += int(spec.Instructions.Size() / asm.InstructionSize)
		info, err := progs.list[i].Info()
		if err != nil {
			return host.Cost{}, err
		}
		if n, ok := info.VerifiedInstructions(); ok {
			cost.Verified += int(n)
		}
		if n, err := info.JitedSize(); err == nil {
			cost.Jited += int(n)
		}
		// Once more for what only the verifier's log tells: with it, loading takes
		// longer.
		if spec, err = progs.bound(spec, maps); err != nil {
			return host.Cost{}, err
		}
		again, err := ebpf.NewProgramWithOptions(spec, ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats})
		if err != nil {
			return host.Cost{}, fmt.Errorf("load: %w", err)
		}
		again.Close()
		readStats(again.VerifierLog, &cost)
	}
	return cost, nil
}

var (
	verifyTime = regexp.MustCompile(`(?m)^verification time (\d+) usec$`)
	stackDepth = regexp.MustCompile(`(?m)^stack depth ([0-9+]+)$`)
)

// readStats reads what print_verification_stats of the kernel's verifier
// writes (kernel/bpf/verifier.c).
func readStats(log string, cost *host.Cost) {
	if m := verifyTime.FindStringSubmatch(log); m != nil {
		n, _ := strconv.Atoi(m[1])
		cost.VerifyTime += time.Duration(n) * time.Microsecond
	}
	if m := stackDepth.FindStringSubmatch(log); m != nil {
		for depth := range strings.SplitSeq(m[1], "+") {
			if n, err := strconv.Atoi(depth); err == nil {
				cost.Stack = append(cost.Stack, n)
			}
		}
	}
}

// Jited gives the machine code of the chain that runs at the target, by
// function. The error is [os.ErrNotExist] when none runs.
func (k *Kernel) Jited(t host.Target) ([]host.Jited, error) {
	if err := checkTarget(t); err != nil {
		return nil, err
	}
	var list []host.Jited
	err := k.at(t, func(dev *device) error {
		link, err := k.openRunning(k.linkPath(t), t, dev)
		if err != nil {
			return err
		}
		if link == nil {
			return fmt.Errorf("%s: no chain runs: %w", t, os.ErrNotExist)
		}
		defer link.Close()
		p, err := ebpf.NewProgramFromID(link.info.Program)
		if err != nil {
			return err
		}
		defer p.Close()
		symbols, err := kallsyms.Read()
		if err != nil {
			return fmt.Errorf("read kernel symbols: %w", err)
		}
		if list, err = jited(p, 1, symbols); err != nil {
			return err
		}
		name, err := programName(link.info.Program)
		if err != nil {
			return err
		}
		id, _ := chainID(name)
		rest, err := k.jitedRest(t, id, symbols)
		list = append(list, rest...)
		return err
	})
	return list, err
}

// jitedRest is the machine code of the segments behind the first.
func (k *Kernel) jitedRest(t host.Target, id string, symbols *kallsyms.Symbols) ([]host.Jited, error) {
	m, err := ebpf.LoadPinnedMap(k.segmentsPath(t, id, 0), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open segments: %w", err)
	}
	defer m.Close()
	var list []host.Jited
	for i := range m.MaxEntries() {
		var p *ebpf.Program
		if err := m.Lookup(i, &p); err != nil {
			return nil, fmt.Errorf("segment %d: %w", i+2, err)
		}
		one, err := jited(p, int(i)+2, symbols)
		p.Close()
		if err != nil {
			return nil, err
		}
		list = append(list, one...)
	}
	return list, nil
}

// jited has no code where the kernel hides it.
func jited(p *ebpf.Program, segment int, symbols *kallsyms.Symbols) ([]host.Jited, error) {
	r, err := disasm.Read(p)
	if err != nil {
		return nil, err
	}
	if err := r.Compiled(); err != nil && !errors.Is(err, disasm.ErrHidden) {
		return nil, err
	}
	owners := disasm.OwnersOf(r)
	list := make([]host.Jited, len(r.Functions))
	for i, f := range r.Functions {
		j := host.Jited{Name: fmt.Sprintf("function %d", i), Segment: segment, Size: f.Size, Code: f.Code}
		if f.Func != nil {
			j.Name = f.Func.Name
		}
		if read := disasm.ThisMachine(); read != nil && f.Code != nil {
			j.Instructions = machineInstructions(r, i, owners, read(f.Code, f.Address, symbols))
		}
		list[i] = j
	}
	return list, nil
}

// machineInstructions are those of function i, with whose they are.
func machineInstructions(r *disasm.Program, i int, owners *disasm.Owners, code []disasm.Native) []l3af.MachineInstruction {
	owner := owners.Function(i)
	list := make([]l3af.MachineInstruction, len(code))
	for k, n := range code {
		line := r.LineOf(r.Functions[i].Address + uint64(n.PC))
		owner = owners.Follow(i, owner, line)
		list[k] = l3af.MachineInstruction{Offset: n.PC, Text: n.String(), Program: owner}
		if line == nil {
			continue
		}
		source := strings.TrimSpace(line.Line())
		if _, rest, ok := (chain.Comment{Text: source}).Begins(); ok {
			source = rest
		}
		list[k].Source = source
	}
	return list
}
