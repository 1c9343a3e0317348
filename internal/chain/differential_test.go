package chain

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"l3af"
	"l3af/internal/testenv"
)

var (
	seed  = flag.Uint64("l3af.seed", 0, "seed of the random chains and packets (0: the clock)")
	pairs = flag.Int("l3af.pairs", 10000, "how many (chain, packet) pairs of random programs are tried at each hook (and a fifth as many of compiled ones)")
)

// A fused chain does what its programs do one after another: the same verdict,
// packet, context and map contents, for random chains and packets. Its
// counters say what happened.
func TestDifferential(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-l3af.seed=%d", s)
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCIngress} {
		t.Run(string(kind), func(t *testing.T) {
			testenv.Clean(t)
			const packets = 40
			for i := range max(1, *pairs/5/packets) {
				r := rand.New(rand.NewPCG(s, uint64(i)))
				different(t, r, kind, packets)
				if t.Failed() {
					t.Fatalf("chain %d of -l3af.seed=%d", i, s)
				}
			}
		})
	}
}

// different runs packets through one random chain, fused and one by one.
func different(t *testing.T, r *rand.Rand, kind l3af.HookKind, packets int) {
	members := randomChain(t, r, kind)
	mixed := slices.Clone(members)
	for i, m := range mixed {
		if r.IntN(4) == 0 {
			mixed[i].Spec = withoutBTFUnlessCORE(m.Spec.Copy(), m.Entry)
		}
	}
	c, err := Compose(kind, mixed)
	if err != nil {
		t.Error(err)
		return
	}
	if r.IntN(3) > 0 {
		id := c.ID
		if c, err = c.made.compose(randomPlan(r, c.made.plan)); err != nil || c.ID != id {
			t.Errorf("%v linked otherwise: %v", describe(members), err)
			return
		}
	}
	fused, err := bind(c)
	if err != nil {
		t.Errorf("%v linked as %v: %+v", describe(members), c.Programs, err)
		return
	}
	defer fused.Close()
	single := make([]*loaded, len(members))
	for i, m := range members {
		if single[i], err = alone(m); err != nil {
			t.Errorf("%s alone: %+v", m.Entry, err)
			return
		}
		defer single[i].Close()
	}

	model := make([]Count, len(members))
	for i, m := range members {
		model[i] = Count{Name: m.Name, Verdicts: map[l3af.Verdict]uint64{}}
	}
	for range packets {
		in := randomPacket(r, kind)
		got, err := in.through(fused.Program, kind)
		if err != nil {
			t.Errorf("run %v: %v", describe(members), err)
			return
		}
		want := in
		for i, m := range members {
			if want, err = want.through(single[i].Program, kind); err != nil {
				t.Errorf("run %s alone: %v", m.Entry, err)
				return
			}
			v := kind.Verdict(int32(want.verdict))
			model[i].Packets++
			model[i].Verdicts[v]++
			if !slices.Contains(c.Programs[i].Proceed, v) {
				break
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v linked as %v\nin   %v\ngot  %v\nwant %v", describe(members), c.Programs, in, got, want)
			return
		}
	}
	for i, m := range members {
		for name, one := range single[i].maps {
			got, want := contents(t, fused.maps[name]), contents(t, one)
			if !maps.Equal(got, want) {
				t.Errorf("%v: map %s of %s\ngot  %v\nwant %v", describe(members), name, m.Name, got, want)
			}
		}
	}
	if got := counts(t, fused); !reflect.DeepEqual(got, model) {
		t.Errorf("%v: counts\ngot  %v\nwant %v", describe(members), got, model)
	}
}

func describe(members []Member) string {
	s := ""
	for _, m := range members {
		s += fmt.Sprintf("%s(%s %v) ", m.Name, m.Entry, m.Proceed)
	}
	return s
}

var entries = []string{"bybyte", "rewrite", "counts", "globals", "local", "global", "callback",
	"deep", "record", "lock", "loop", "core", "move", "fields", "tailer"}

// randomChain makes 1 to 20 members, whose verdicts mostly let packets pass.
func randomChain(t testing.TB, r *rand.Rand, kind l3af.HookKind) []Member {
	all := kind.Verdicts()
	n := 1 + r.IntN(5)
	if r.IntN(4) == 0 {
		n = 1 + r.IntN(20)
	}
	members := make([]Member, n)
	for i := range members {
		m := Member{Name: fmt.Sprintf("m%d-x", i), Entry: entries[r.IntN(len(entries))], Spec: object(t, objectOf(kind))}
		if r.IntN(3) > 0 {
			for _, j := range r.Perm(len(all))[:1+r.IntN(3)] {
				m.Proceed = append(m.Proceed, all[j])
			}
		}
		proceed := m.Proceed
		if len(proceed) == 0 {
			proceed = kind.DefaultProceed()
		}
		var table [8]int32
		for j := range table {
			code, _ := kind.Code(proceed[r.IntN(len(proceed))])
			switch r.IntN(24) {
			case 0:
				code = []int32{17, -5, 255, 0x7fffffff, -0x80000000}[r.IntN(5)]
			case 1, 2:
				code = int32(r.IntN(len(all))) + kind.FirstCode()
			}
			table[j] = code
		}
		set(t, m.Spec, "verdicts", table)
		set(t, m.Spec, "byte", uint8(r.IntN(8)))
		set(t, m.Spec, "key", uint8(r.Uint32()))
		set(t, m.Spec, "total", r.Uint64())
		members[i] = m
	}
	return members
}

// randomPlan links some programs otherwise than is best.
func randomPlan(r *rand.Rand, p plan) plan {
	p = p.clone()
	calls, cuts := r.IntN(3), r.IntN(3)
	for i := range p.why {
		if r.IntN(2) < calls {
			p.why[i], p.deep[i] = "chance", r.IntN(3) == 0
		}
		p.cut[i] = r.IntN(4) < cuts
		if r.IntN(4) == 0 {
			p.loops[i] = marked
		}
	}
	return p
}

// packet is what a program is given and what it leaves.
type packet struct {
	data    []byte
	meta    uint32    // XDP: how much of data is metadata
	mark    [2]uint32 // TC: mark and priority
	cb      [5]uint32 // TC
	verdict uint32
}

func (p packet) String() string {
	return fmt.Sprintf("verdict %d meta %d mark %v cb %v %s", int32(p.verdict), p.meta, p.mark, p.cb, hex.EncodeToString(p.data))
}

func randomPacket(r *rand.Rand, kind l3af.HookKind) packet {
	p := packet{data: make([]byte, 100+r.IntN(200))}
	for i := range p.data {
		p.data[i] = byte(r.Uint32())
	}
	if r.IntN(2) == 0 {
		copy(p.data[14:], bytes.Repeat([]byte{byte(r.IntN(8))}, 8))
	}
	if kind == l3af.XDP {
		p.meta = uint32(r.IntN(3)) * 4
	} else {
		p.mark = [2]uint32{r.Uint32(), r.Uint32()}
		p.cb = [5]uint32{r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()}
	}
	return p
}

type xdpMD struct {
	Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32
}

// skBuff is struct __sk_buff.
type skBuff struct {
	Len, PktType, Mark, QueueMapping, Protocol, VlanPresent, VlanTCI, VlanProto, Priority uint32
	IngressIfindex, Ifindex, TCIndex                                                      uint32
	CB                                                                                    [5]uint32
	Rest                                                                                  [31]uint32
}

// through runs a program on the packet and gives what it left.
func (p packet) through(prog *ebpf.Program, kind l3af.HookKind) (packet, error) {
	opts := &ebpf.RunOptions{Data: p.data, DataOut: make([]byte, len(p.data)+512)}
	var xdp xdpMD
	var skb skBuff
	if kind == l3af.XDP {
		opts.Context = xdpMD{Data: p.meta, DataEnd: uint32(len(p.data))}
		opts.ContextOut = &xdp
	} else {
		opts.Context = skBuff{Mark: p.mark[0], Priority: p.mark[1], CB: p.cb}
		opts.ContextOut = &skb
	}
	verdict, err := prog.Run(opts)
	if err != nil {
		return p, err
	}
	out := packet{data: opts.DataOut, verdict: verdict}
	if kind == l3af.XDP {
		out.meta = xdp.Data
	} else {
		out.mark, out.cb = [2]uint32{skb.Mark, skb.Priority}, skb.CB
	}
	return out, nil
}

// contents is entriesOf in a test.
func contents(t testing.TB, m *ebpf.Map) map[string]string {
	t.Helper()
	all, err := entriesOf(m)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// entriesOf reads a whole map: what programs see of it, per-CPU values summed up.
func entriesOf(m *ebpf.Map) (map[string]string, error) {
	all := map[string]string{}
	switch m.Type() {
	case ebpf.RingBuf:
		r, err := ringbuf.NewReader(m)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		r.SetDeadline(time.Now())
		for n := 0; ; n++ {
			rec, err := r.Read()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return all, nil
			} else if err != nil {
				return nil, err
			}
			all[fmt.Sprint(n)] = hex.EncodeToString(rec.RawSample)
		}
	case ebpf.PerCPUArray:
		for i := range m.MaxEntries() {
			var values [][]byte
			if err := m.Lookup(i, &values); err != nil {
				return nil, err
			}
			// Values are counters, or structs of them.
			sums := make([]uint64, max(1, m.ValueSize()/8))
			for _, v := range values {
				for j := range sums {
					sums[j] += binary.NativeEndian.Uint64(append(v, make([]byte, 8)...)[8*j:])
				}
			}
			all[fmt.Sprint(i)] = fmt.Sprint(sums)
		}
		return all, nil
	default:
		var key, value []byte
		it := m.Iterate()
		for it.Next(&key, &value) {
			all[hex.EncodeToString(key)] = hex.EncodeToString(value)
		}
		return all, it.Err()
	}
}
