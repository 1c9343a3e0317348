package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// nowhere is a place without pins: the maps that are opened there are made
// anew.
func (k *Kernel) nowhere() *Kernel {
	return &Kernel{root: filepath.Join(k.root, "nowhere"), log: k.log, apart: true}
}

// room is what a packet may grow to: the most that bpf_skb_change_tail gives
// is the MTU of lo.
const room = 64<<10 + 4<<10

// Run runs packets through a copy of the chain, one after the other, with
// BPF_PROG_TEST_RUN. Its maps are its own, so that nothing at the target or in
// its pins changes, and everything is closed in the end. It runs in the
// target's network namespace, on its interface when it is there.
//
// A chain that would send packets by itself is an [*l3af.InvalidError].
func (k *Kernel) Run(ctx context.Context, load host.Load, run host.Run) (*host.Ran, error) {
	if err := check(load); err != nil {
		return nil, err
	}
	if load.Target.Probe != "" {
		return nil, errors.New("a probe sees no packets")
	}
	if err := harmless(load.Chain); err != nil {
		return nil, err
	}
	defer k.loaded()
	ran := &host.Ran{}
	err := k.at(load.Target, func(dev *device) error {
		maps, err := k.nowhere().openMaps(load)
		if err != nil {
			return err
		}
		defer maps.Close()
		if run.LiveMaps {
			if ran.Notes, err = k.copyMaps(ctx, load, maps); err != nil {
				return err
			}
		}
		progs, err := k.loadPrograms(ctx, load, maps, 0)
		if err != nil {
			return err
		}
		defer progs.Close()
		r, err := newRunner(progs.chain, progs.list[0], maps, dev)
		if err != nil {
			return err
		}
		for p, err := range run.Packets {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			one, err := r.run(p)
			if err != nil {
				return err
			}
			if err := run.Each(p, one); err != nil {
				return err
			}
		}
		if r.index == 0 {
			ran.Notes = append(ran.Notes, fmt.Sprintf("programs see the packets come from lo, not from %s", load.Target.Hook.Interface))
		}
		ran.Counts, err = r.counts()
		return err
	})
	if err != nil {
		return nil, err
	}
	return ran, nil
}

// harmless refuses a chain that acts on more than the packet and its maps.
func harmless(c *chain.Chain) error {
	for _, spec := range c.Specs() {
		for _, ins := range spec.Instructions {
			if ins.IsBuiltinCall() && ins.Constant == int64(asm.FnCloneRedirect) {
				return &l3af.InvalidError{Mistakes: []l3af.Mistake{{
					Message: "the chain calls bpf_clone_redirect, which would send packets out of real interfaces",
				}}}
			}
		}
	}
	return nil
}

// runner runs packets through one loaded chain.
type runner struct {
	prog     *ebpf.Program
	xdp      bool
	index    int // of the interface the packets come from; 0 is lo
	out      []byte
	counters *ebpf.Map
	layout   *btf.Struct
	last     [][]byte // counters on each CPU, after the last packet
}

func newRunner(c *chain.Chain, prog *ebpf.Program, maps *mapSet, dev *device) (*runner, error) {
	r := &runner{prog: prog, xdp: c.Kind == l3af.XDP, out: make([]byte, room)}
	if dev != nil {
		r.index = dev.index
	}
	for _, o := range maps.list {
		if o.Map.Ref == chain.CountersRef {
			r.counters = o.m
			r.layout, _ = o.Spec.Value.(*btf.Struct)
		}
	}
	if r.layout == nil {
		return nil, errors.New("the chain has no counters: they tell whose verdict it is")
	}
	var err error
	r.last, err = r.read()
	return r, err
}

// read gives the counters on each CPU.
func (r *runner) read() ([][]byte, error) {
	all, err := r.counters.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("counters: %w", err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	stride := len(all) / cpus
	perCPU := make([][]byte, cpus)
	for i := range perCPU {
		perCPU[i] = all[i*stride:][:r.counters.ValueSize()]
	}
	return perCPU, nil
}

func (r *runner) counts() ([]chain.Count, error) { return chain.ReadCounts(r.layout, r.last) }

// run runs one packet. That it cannot be run is not an error.
func (r *runner) run(packet []byte) (host.RanPacket, error) {
	opts := &ebpf.RunOptions{Data: packet, DataOut: r.out}
	code, meta, err := r.test(opts)
	if err != nil && r.index != 0 {
		// An interface that takes no part in test runs, like one whose driver
		// has not set XDP up. The packet did not run.
		again := &ebpf.RunOptions{Data: packet, DataOut: r.out}
		index := r.index
		r.index = 0
		var errAgain error
		if code, meta, errAgain = r.test(again); errAgain != nil {
			r.index = index
		} else {
			opts, err = again, nil
		}
	}
	if err != nil {
		return host.RanPacket{Program: -1, Err: explain(err, packet)}, nil
	}
	now, err := r.read()
	if err != nil {
		return host.RanPacket{}, err
	}
	decided := r.decided(now)
	r.last = now
	if decided < 0 {
		return host.RanPacket{}, errors.New("no program counted the packet")
	}
	return host.RanPacket{Code: code, Program: decided, Data: slices.Clone(opts.DataOut[min(meta, len(opts.DataOut)):])}, nil
}

// xdpContext is struct xdp_md (linux/bpf.h).
type xdpContext struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }

// skbContext is struct __sk_buff up to ifindex (linux/bpf.h).
type skbContext struct {
	_       [9]uint32
	Ingress uint32
	Ifindex uint32
}

// test runs a packet, and returns its verdict and how many bytes of metadata
// stand before it in the result.
func (r *runner) test(opts *ebpf.RunOptions) (code int32, meta int, err error) {
	if !r.xdp {
		opts.Context = skbContext{Ingress: uint32(r.index), Ifindex: uint32(r.index)}
		ret, err := r.prog.Run(opts)
		return int32(ret), 0, err
	}
	var out xdpContext
	opts.Context = xdpContext{DataEnd: uint32(len(opts.Data)), IngressIfindex: uint32(r.index)}
	opts.ContextOut = &out
	ret, err := r.prog.Run(opts)
	return int32(ret), int(out.Data), err
}

// explain says what is wrong with a packet where the kernel has but a number.
func explain(err error, packet []byte) error {
	if len(packet) < 14 {
		return fmt.Errorf("%d bytes are less than an Ethernet header", len(packet))
	}
	return fmt.Errorf("the kernel does not run %d bytes: %w", len(packet), err)
}

// decided is the last program that counted since the last packet, -1 for
// none. Programs before it may have counted that they let the packet through;
// those after it did not run.
func (r *runner) decided(now [][]byte) int {
	for i, m := range slices.Backward(r.layout.Members) {
		from, to := m.Offset.Bytes(), r.layout.Size
		if i+1 < len(r.layout.Members) {
			to = r.layout.Members[i+1].Offset.Bytes()
		}
		for cpu := range now {
			if !bytes.Equal(now[cpu][from:to], r.last[cpu][from:to]) {
				return i
			}
		}
	}
	return -1
}

// copyMaps fills maps with what the target's hold now, and says which it
// could not fill. Where the document gives all of a map there is nothing to
// copy.
func (k *Kernel) copyMaps(ctx context.Context, load host.Load, maps *mapSet) (notes []string, err error) {
	for i := range maps.list {
		o := &maps.list[i]
		if !o.Pinned || o.Member == "" || o.want != nil && o.want.Full {
			continue
		}
		why, err := k.copyMap(ctx, o, k.mapPath(load.Target, load.Chain.ID, o.Map))
		if err != nil {
			return nil, fmt.Errorf("copy %s: %w", title(o.Map), err)
		}
		if why != "" {
			notes = append(notes, title(o.Map)+" starts as new: "+why)
			continue
		}
		if o.want != nil {
			if _, err := writeContents(o.m, o.want); err != nil {
				return nil, fmt.Errorf("%s: %w", title(o.Map), err)
			}
		}
	}
	return notes, nil
}

// copyMap copies what the map pinned at path holds; why tells that it cannot.
func (k *Kernel) copyMap(ctx context.Context, o *openMap, path string) (why string, err error) {
	w := writer{m: o.m}
	switch o.Spec.Type {
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash:
		w.perCPU = true
	case ebpf.Array, ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie:
	default:
		return fmt.Sprintf("a %s cannot be copied", o.Spec.Type), nil
	}
	from, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return "the hook has no such map now", nil
	}
	if err != nil {
		return "", err
	}
	defer from.Close()
	spec := o.Spec.Copy()
	spec.Pinning = ebpf.PinNone
	if err := spec.Compatible(from); err != nil {
		return err.Error(), nil
	}
	// Programs may change the map meanwhile: see writer.keys.
	tries := 2*uint64(from.MaxEntries()) + 16
	for last := any(nil); tries > 0; tries-- {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		key, err := from.NextKeyBytes(last)
		if err != nil || key == nil {
			return "", err
		}
		last = key
		value, err := from.LookupBytes(key)
		if err != nil {
			return "", err
		}
		if value == nil {
			continue // deleted meanwhile
		}
		if err := w.put(key, value); err != nil {
			return "", fmt.Errorf("entry %x: %w", key, err)
		}
	}
	return "", nil
}
