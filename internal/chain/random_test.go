package chain

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/testenv"
)

// What TestRandomPrograms saw.
type tally struct {
	made, accepted          int // programs
	chains, longest, limits int
	pairs                   int
	runs                    int // of programs
	refusals                map[string]int
}

// Random programs do in a chain what they do one after another: verdict,
// packet, context, map contents and counts are the same for every packet, and
// what the verifier takes alone it takes in a chain. Failures are shown with
// the fewest members that still fail.
func TestRandomPrograms(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-l3af.seed=%d", s)
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			oneCPU(t)
			seen := &tally{refusals: map[string]int{}}
			for i := 0; seen.pairs < *pairs; i++ {
				r := rand.New(rand.NewPCG(s, uint64(i)))
				tr := seen.accept(t, randomTrial(r, kind))
				if tr == nil {
					continue
				}
				failure := tr.run(seen)
				var limit *limitError
				if errors.As(failure, &limit) {
					seen.limits++
					continue
				}
				if failure != nil {
					tr, failure = tr.minimise(failure)
					t.Fatalf("chain %d of -l3af.seed=%d: %v\n%s", i, s, failure, tr.listing())
				}
				seen.pairs += len(tr.packets)
				seen.chains++
				seen.longest = max(seen.longest, len(tr.members))
			}
			t.Logf("%d pairs (%d runs of programs) of %d chains, the longest of %d programs; %d chains beyond a limit; of %d programs the verifier took %d (%d%%)",
				seen.pairs, seen.runs, seen.chains, seen.longest, seen.limits, seen.made, seen.accepted, 100*seen.accepted/seen.made)
			if seen.accepted*100 < seen.made*60 || seen.limits*10 > seen.chains {
				t.Errorf("too little is tried; why the verifier refused programs:\n%v", seen.refusals)
			}
			if testing.Verbose() {
				for why, n := range seen.refusals {
					t.Logf("%d refused: %s", n, why)
				}
			}
		})
	}
}

// oneCPU keeps the test on one CPU: programs read what they wrote to per-CPU maps.
func oneCPU(t *testing.T) {
	runtime.LockOSThread()
	var was, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		t.Fatal(err)
	}
	for cpu := range 1024 {
		if was.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &was); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
}

// trial is a chain and the packets it is tried with.
type trial struct {
	kind    l3af.HookKind
	members []Member
	packets []packet
	options Options
	links   uint64 // seed of how the members are linked; 0: as is best
}

func randomTrial(r *rand.Rand, kind l3af.HookKind) *trial {
	tr := &trial{kind: kind, members: randomMembers(r, kind), options: Options{NoCounters: r.IntN(8) == 0}}
	if r.IntN(3) == 0 {
		tr.links = r.Uint64()
	}
	for range 60 {
		p := randomPacket(r, kind)
		p.meta = min(p.meta, 8)
		if r.IntN(4) == 0 {
			p.data = p.data[:max(p.meta+14, uint32(r.IntN(len(p.data))))]
		}
		if kind != l3af.XDP {
			// The kernel runs no program on a frame without a payload: programs
			// that cut the packet must leave some.
			p.data = append(p.data, make([]byte, max(0, 128-len(p.data)))...)
		}
		tr.packets = append(tr.packets, p)
	}
	return tr
}

// accept leaves out the programs that the verifier refuses alone; nil: all.
func (seen *tally) accept(t *testing.T, tr *trial) *trial {
	verdicts := map[*ebpf.CollectionSpec]error{}
	tr.members = slices.DeleteFunc(tr.members, func(m Member) bool {
		err, known := verdicts[m.Spec]
		if !known {
			var l *loaded
			l, err = alone(m)
			seen.made++
			if err == nil {
				l.Close()
				seen.accepted++
			} else {
				var verifier *ebpf.VerifierError
				if !errors.As(err, &verifier) {
					t.Fatalf("%v\n%v", err, m.Spec.Programs[m.Entry].Instructions)
				}
				seen.refusals[why(verifier)]++
			}
			verdicts[m.Spec] = err
		}
		return err != nil
	})
	if len(tr.members) == 0 {
		return nil
	}
	return tr
}

// why is the verifier's reason.
func why(err *ebpf.VerifierError) string {
	for _, line := range slices.Backward(err.Log) {
		if line != "" && !strings.HasPrefix(line, "processed ") && !strings.HasPrefix(line, "verification time") && !strings.HasPrefix(line, "stack depth") {
			return line
		}
	}
	return err.Cause.Error()
}

// limitError is a chain that is too much for one program of the kernel, in a
// way that the documentation names.
type limitError struct{ error }

func limited(err error) bool {
	text := fmt.Sprintf("%+v", err)
	return errors.Is(err, unix.E2BIG) || strings.Contains(text, "combined stack size") || strings.Contains(text, "too complex") ||
		strings.Contains(text, "too large")
}

// run tells how the fused chain differs from its programs one by one.
func (tr *trial) run(seen *tally) error {
	c, err := ComposeWith(tr.kind, tr.members, tr.options)
	if err != nil {
		return err
	}
	for i, p := range c.Programs {
		if m := tr.members[i]; m.Spec.Programs[m.Entry].Name == Inlined && p.Linkage != Inlined {
			return fmt.Errorf("%s is %s: %s", p.Name, p.Linkage, p.Why)
		}
	}
	if tr.links != 0 {
		id := c.ID
		if c, err = c.made.compose(randomPlan(rand.New(rand.NewPCG(tr.links, 0)), c.made.plan)); err != nil {
			return fmt.Errorf("linked otherwise: %w", err)
		} else if c.ID != id {
			return fmt.Errorf("linked otherwise the chain %s has the ID %s", id, c.ID)
		}
	}
	fused, err := bind(c)
	if err != nil {
		if limited(err) {
			return &limitError{err}
		}
		return fmt.Errorf("every program loads alone, the chain does not: %+v", err)
	}
	defer fused.Close()
	single := make([]*loaded, len(tr.members))
	for i, m := range tr.members {
		if single[i], err = alone(m); err != nil {
			return fmt.Errorf("%s does not load alone any more: %w", m.Name, err)
		}
		defer single[i].Close()
	}
	for i, m := range tr.members {
		if m.Spec.Maps[leaves] == nil {
			continue
		}
		at := ref(m.Name, leaves)
		if err := errors.Join(plant(tr.kind, single[i].maps[at], true), plant(tr.kind, fused.maps[at], false)); err != nil {
			return fmt.Errorf("fill %s: %w", at, err)
		}
	}
	model := make([]Count, len(tr.members))
	for i, m := range tr.members {
		model[i] = Count{Name: m.Name, Verdicts: map[l3af.Verdict]uint64{}}
	}
	for n, in := range tr.packets {
		got, err := in.through(fused.Program, tr.kind)
		if err != nil {
			return fmt.Errorf("packet %d: run the chain: %w", n, err)
		}
		want, path := in, ""
		for i, m := range tr.members {
			if want, err = want.through(single[i].Program, tr.kind); err != nil {
				return fmt.Errorf("packet %d: run %s alone: %w", n, m.Name, err)
			}
			seen.runs++
			path += fmt.Sprintf(" %s:%d", m.Name, int32(want.verdict))
			v := tr.kind.Verdict(int32(want.verdict))
			model[i].Packets++
			model[i].Verdicts[v]++
			if !slices.Contains(m.Proceed, v) {
				break
			}
		}
		if !reflect.DeepEqual(got, want) {
			return fmt.Errorf("packet %d differs\nalone%s\nin   %v\ngot  %v\nwant %v", n, path, in, got, want)
		}
	}
	for i, m := range tr.members {
		for name, one := range single[i].maps {
			if one.Type() == ebpf.ProgramArray {
				continue
			}
			got, err := entriesOf(fused.maps[name])
			want, err2 := entriesOf(one)
			if err := errors.Join(err, err2); err != nil {
				return fmt.Errorf("map %s: %w", name, err)
			}
			if !maps.Equal(got, want) {
				return fmt.Errorf("map %s of %s differs\ngot  %v\nwant %v", name, m.Name, got, want)
			}
		}
	}
	if tr.options.NoCounters {
		return nil
	}
	if got, err := countsOf(fused); err != nil {
		return err
	} else if !reflect.DeepEqual(got, model) {
		return fmt.Errorf("counts differ\ngot  %v\nwant %v", got, model)
	}
	return nil
}

// plant gives an array of programs its leaf, which returns 1 or 2 by a field of
// the context. alone is for callers that [alone] loads.
func plant(kind l3af.HookKind, m *ebpf.Map, alone bool) error {
	if m == nil {
		return nil // the program refers to it nowhere
	}
	spec := &ebpf.ProgramSpec{Name: "leaf", Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R0, asm.R1, 8, asm.Word),
		asm.And.Imm(asm.R0, 1),
		asm.Add.Imm(asm.R0, 1),
		asm.Return(),
	}}
	if kind == l3af.XDP {
		spec.Type, spec.AttachType = ebpf.XDP, ebpf.AttachXDP
		spec.Instructions[0].Offset = 12
		if alone {
			spec.AttachType = ebpf.AttachNone
		}
	}
	leaf, err := ebpf.NewProgram(spec)
	if err != nil {
		return err
	}
	defer leaf.Close()
	return m.Put(uint32(0), leaf)
}

// minimise drops members and packets as long as the trial fails.
func (tr *trial) minimise(failure error) (*trial, error) {
	limit := time.Now().Add(30 * time.Second)
	try := func(smaller trial) bool {
		var beyond *limitError
		err := smaller.run(&tally{})
		if err == nil || errors.As(err, &beyond) || time.Now().After(limit) {
			return false
		}
		tr, failure = &smaller, err
		return true
	}
	for size := len(tr.members) / 2; size > 0; {
		smaller := false
		for i := 0; i+size <= len(tr.members) && len(tr.members) > size; {
			next := *tr
			next.members = slices.Delete(slices.Clone(tr.members), i, i+size)
			if try(next) {
				smaller = true
			} else {
				i += size
			}
		}
		if !smaller {
			size /= 2
		}
	}
	for _, p := range tr.packets {
		next := *tr
		next.packets = []packet{p}
		if try(next) {
			break
		}
	}
	return tr, failure
}

func (tr *trial) listing() string {
	var s strings.Builder
	shown := map[*ebpf.CollectionSpec]string{}
	for _, m := range tr.members {
		fmt.Fprintf(&s, "%s proceeds on %v:\n", m.Name, m.Proceed)
		if was := shown[m.Spec]; was != "" {
			fmt.Fprintf(&s, "\tas %s\n", was)
			continue
		}
		shown[m.Spec] = m.Name
		fmt.Fprintln(&s, m.Spec.Programs[m.Entry].Instructions)
	}
	if tr.links != 0 {
		fmt.Fprintf(&s, "linked by %d\n", tr.links)
	}
	if c, err := ComposeWith(tr.kind, tr.members, tr.options); err == nil && tr.links == 0 && len(c.Program.Instructions) < 500 {
		fmt.Fprintf(&s, "composed:\n%v", c.Program.Instructions)
	}
	return s.String()
}
