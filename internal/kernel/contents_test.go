package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/host"
	"l3af/internal/testenv"
)

// mapKind is a kind of map that can be given contents, and keys and values
// that it takes.
type mapKind struct {
	spec  ebpf.MapSpec
	key   func(i int) []byte
	value func(r *rand.Rand) []byte
}

// places is how many keys the tests use.
const places = 8

func mapKinds() []mapKind {
	index := func(i int) []byte { return u32(uint32(i)) }
	any12 := func(r *rand.Rand) []byte {
		return binary.NativeEndian.AppendUint64(u32(r.Uint32()), r.Uint64N(3))
	}
	prefix := func(i int) []byte { // nested ones too
		n := []uint32{0, 8, 9, 16, 24, 31, 32, 32}[i]
		b := binary.BigEndian.AppendUint32(nil, (uint32(i)<<28|0x0a141e28)&^(1<<(32-n)-1))
		return append(u32(n), b...)
	}
	spec := func(typ ebpf.MapType, key, value, flags uint32) ebpf.MapSpec {
		n := uint32(places)
		if typ == ebpf.LRUHash || typ == ebpf.LRUCPUHash {
			n = 4096 // small ones evict long before they are full
		}
		return ebpf.MapSpec{Type: typ, KeySize: key, ValueSize: value, MaxEntries: n, Flags: flags}
	}
	lo := func(r *rand.Rand) []byte { return u32(1) } // lo is there in every namespace
	lo8 := func(r *rand.Rand) []byte { return append(u32(1), 0, 0, 0, 0) }
	return []mapKind{
		{spec(ebpf.Hash, 4, 12, 0), index, any12},
		{spec(ebpf.Hash, 4, 12, unix.BPF_F_NO_PREALLOC), index, any12},
		{spec(ebpf.LRUHash, 4, 12, 0), index, any12},
		{spec(ebpf.PerCPUHash, 4, 12, 0), index, any12},
		{spec(ebpf.LRUCPUHash, 4, 12, 0), index, any12},
		{spec(ebpf.Array, 4, 12, 0), index, any12},
		{spec(ebpf.Array, 4, 12, unix.BPF_F_MMAPABLE), index, any12},
		{spec(ebpf.PerCPUArray, 4, 12, 0), index, any12},
		{spec(ebpf.LPMTrie, 8, 12, unix.BPF_F_NO_PREALLOC), prefix, any12},
		{spec(ebpf.DevMap, 4, 4, 0), index, lo},
		{spec(ebpf.DevMap, 4, 8, 0), index, lo8},
		{spec(ebpf.DevMapHash, 4, 4, 0), index, lo},
		{spec(ebpf.DevMapHash, 4, 8, 0), index, lo8},
		{spec(ebpf.CPUMap, 4, 4, 0), index, func(*rand.Rand) []byte { return u32(64) }},
	}
}

// From any contents to any contents: the map holds what is wanted, no write
// changed more than was wrong, and a second one changes nothing.
func TestWriteContents(t *testing.T) {
	testenv.Clean(t)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range mapKinds() {
		t.Run(fmt.Sprintf("%s/%d/%d", kind.spec.Type, kind.spec.ValueSize, kind.spec.Flags), func(t *testing.T) {
			m, err := ebpf.NewMap(&kind.spec)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			r := rand.New(rand.NewPCG(1, 2))
			perCPU := kind.spec.Type == ebpf.PerCPUHash || kind.spec.Type == ebpf.LRUCPUHash || kind.spec.Type == ebpf.PerCPUArray
			array := kind.spec.Type == ebpf.Array || kind.spec.Type == ebpf.PerCPUArray
			n := min(places, int(m.MaxEntries())) // a CPU map has one for each CPU
			have := map[string]string{}
			for range 60 {
				want := host.Contents{Full: true}
				next := map[string]string{}
				for _, i := range r.Perm(n)[:r.IntN(n+1)] {
					e := host.Entry{Key: kind.key(i), Values: [][]byte{kind.value(r)}}
					if v, ok := have[string(e.Key)]; ok && r.IntN(2) == 0 && !perCPU {
						e.Values[0] = []byte(v) // as it is
					}
					if perCPU && r.IntN(2) == 0 {
						for len(e.Values) < cpus {
							e.Values = append(e.Values, kind.value(r))
						}
					}
					all := ""
					if perCPU {
						for cpu := range cpus {
							all += string(e.Values[cpu%len(e.Values)]) + "\x00\x00\x00\x00"
						}
					} else {
						all = string(e.Values[0])
					}
					next[string(e.Key)] = all
					want.Entries = append(want.Entries, e)
				}
				if array {
					for i := range n {
						if _, ok := next[string(u32(uint32(i)))]; !ok {
							next[string(u32(uint32(i)))] = strings.Repeat("\x00", len(zeros(m, cpus)))
						}
					}
					if len(have) == 0 {
						for k := range next {
							have[k] = strings.Repeat("\x00", len(zeros(m, cpus)))
						}
					}
				}
				wrong := 0
				for k, v := range next {
					if old, ok := have[k]; !ok || old != v {
						wrong++
					}
				}
				for k := range have {
					if _, ok := next[k]; !ok {
						wrong++
					}
				}
				changed, err := writeContents(m, &want)
				if err != nil {
					t.Fatal(err)
				}
				if changed != wrong {
					t.Errorf("%d entries written, %d were wrong", changed, wrong)
				}
				if n, err := writeContents(m, &want); n != 0 || err != nil {
					t.Errorf("the second write changed %d entries: %v", n, err)
				}
				if got := dump(t, m); !equal(got, next) {
					t.Fatalf("the map holds\n%x\nwant\n%x", got, next)
				}
				have = next
			}
		})
	}
}

func zeros(m *ebpf.Map, cpus int) []byte {
	if m.Type() == ebpf.PerCPUArray {
		return make([]byte, cpus*int((m.ValueSize()+7)&^7))
	}
	return make([]byte, m.ValueSize())
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// dump reads a map by no code of ours.
func dump(t *testing.T, m *ebpf.Map) map[string]string {
	t.Helper()
	all := map[string]string{}
	for last := any(nil); ; {
		key, err := m.NextKeyBytes(last)
		if err != nil {
			t.Fatal(err)
		}
		if key == nil {
			return all
		}
		v, err := m.LookupBytes(key)
		if err != nil {
			t.Fatal(err)
		}
		empty := len(bytes.Trim(v, "\x00")) == 0 && (m.Type() == ebpf.DevMap || m.Type() == ebpf.CPUMap)
		if v != nil && !empty {
			all[string(key)] = string(v)
		}
		last = key
	}
}

// A full table changes to another full table: both together do not fit.
func TestWriteContentsFull(t *testing.T) {
	testenv.Clean(t)
	for _, typ := range []ebpf.MapType{ebpf.Hash, ebpf.LPMTrie, ebpf.LRUHash} {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: typ, KeySize: 8, ValueSize: 4, MaxEntries: 64, Flags: map[bool]uint32{true: unix.BPF_F_NO_PREALLOC}[typ == ebpf.LPMTrie]})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for round := range uint32(3) {
			want := host.Contents{Full: true}
			for i := range uint32(64) {
				want.Entries = append(want.Entries, host.Entry{Key: append(u32(32), u32(round*64+i)...), Values: [][]byte{u32(i)}})
			}
			if _, err := writeContents(m, &want); err != nil {
				t.Fatalf("%s: %v", typ, err)
			}
			if got := dump(t, m); typ != ebpf.LRUHash && len(got) != 64 {
				t.Errorf("%s: %d entries", typ, len(got))
			}
		}
	}
}

// Bits behind a prefix mean nothing: one prefix is one entry however written.
func TestWriteContentsPrefixes(t *testing.T) {
	testenv.Clean(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 8, Flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	// Somebody wrote it with host bits.
	if err := m.Put(append(u32(9), 10, 129, 2, 3), u32(7)); err != nil {
		t.Fatal(err)
	}
	want := host.Contents{Full: true, Entries: []host.Entry{{Key: append(u32(9), 10, 128, 9, 9), Values: [][]byte{u32(7)}}}}
	if n, err := writeContents(m, &want); n != 0 || err != nil {
		t.Errorf("changed %d: %v", n, err)
	}
	want.Entries[0].Values = [][]byte{u32(8)}
	if n, err := writeContents(m, &want); n != 1 || err != nil {
		t.Errorf("changed %d: %v", n, err)
	}
	if got := dump(t, m); got[string(append(u32(9), 10, 128, 0, 0))] != string(u32(8)) || len(got) != 1 {
		t.Errorf("holds %x", got)
	}
}

func TestWritePatches(t *testing.T) {
	testenv.Clean(t)
	for _, flags := range []uint32{0, unix.BPF_F_MMAPABLE} {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 5000, MaxEntries: 1, Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		before := bytes.Repeat([]byte{0xee}, 5000)
		if err := m.Put(uint32(0), before); err != nil {
			t.Fatal(err)
		}
		patches := []host.Patch{{Offset: 0, Data: []byte{1, 2}}, {Offset: 4094, Data: []byte{3, 4, 5, 6}}, {Offset: 4999, Data: []byte{7}}, {Offset: 8, Data: []byte{0xee}}}
		n, err := writeContents(m, &host.Contents{Patches: patches})
		if n != 3 || err != nil {
			t.Errorf("changed %d: %v", n, err)
		}
		want := slices.Clone(before)
		for _, p := range patches {
			copy(want[p.Offset:], p.Data)
		}
		if got, err := m.LookupBytes(uint32(0)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("holds %x, %v", got, err)
		}
		if n, err := writeContents(m, &host.Contents{Patches: patches}); n != 0 || err != nil {
			t.Errorf("the second write changed %d: %v", n, err)
		}
		for _, bad := range []host.Patch{{Offset: -1, Data: []byte{1}}, {Offset: 5000, Data: []byte{1}}, {Offset: 4999, Data: []byte{1, 2}}, {Offset: 1 << 62, Data: []byte{1}}} {
			if _, err := writeContents(m, &host.Contents{Patches: []host.Patch{bad}}); err == nil {
				t.Errorf("a patch of %d bytes at %d is taken", len(bad.Data), bad.Offset)
			}
		}
	}
}

// What cannot be written is refused before anything is.
func TestWriteContentsRefuses(t *testing.T) {
	testenv.Clean(t)
	good := host.Entry{Key: u32(0), Values: [][]byte{u32(1)}}
	full := func(e ...host.Entry) host.Contents { return host.Contents{Full: true, Entries: e} }
	for _, c := range []struct {
		typ  ebpf.MapType
		want host.Contents
		say  string
	}{
		{ebpf.Hash, full(good, host.Entry{Key: []byte{1}, Values: [][]byte{u32(1)}}), "entry 1: the key has 1 bytes"},
		{ebpf.Hash, full(good, host.Entry{Key: u32(1), Values: [][]byte{{1}}}), "entry 1: the value has 1 bytes"},
		{ebpf.Hash, full(good, host.Entry{Key: u32(1)}), "entry 1: 0 values"},
		{ebpf.Hash, full(good, host.Entry{Key: u32(1), Values: [][]byte{u32(1), u32(1)}}), "entry 1: 2 values"},
		{ebpf.PerCPUHash, full(good, host.Entry{Key: u32(1), Values: slices.Repeat([][]byte{u32(1)}, 4097)}), "entry 1: 4097 values"},
		{ebpf.Array, full(good, host.Entry{Key: u32(2), Values: [][]byte{u32(1)}}), "entry 1: index 2 is out of range"},
		{ebpf.DevMap, full(host.Entry{Key: u32(2), Values: [][]byte{u32(1)}}), "index 2 is out of range"},
		{ebpf.Hash, full(good, host.Entry{Key: u32(1), Values: [][]byte{u32(1)}}, host.Entry{Key: u32(2), Values: [][]byte{u32(1)}}), "3 entries do not fit"},
		{ebpf.Hash, host.Contents{Patches: []host.Patch{{Data: []byte{1}}}}, "not a data section"},
		{ebpf.DevMapHash, full(host.Entry{Key: u32(2), Values: [][]byte{u32(4000)}}), "no interface has the index 4000"},
	} {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: c.typ, KeySize: 4, ValueSize: 4, MaxEntries: 2})
		if err != nil {
			t.Fatal(err)
		}
		before := dump(t, m)
		n, err := writeContents(m, &c.want)
		if n != 0 || err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: changed %d: %v; want %q", c.typ, n, err, c.say)
		}
		if !equal(dump(t, m), before) {
			t.Errorf("%s: changed by %q", c.typ, c.say)
		}
		m.Close()
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := writeContents(m, &host.Contents{Full: true}); err == nil || !strings.Contains(err.Error(), "cannot be given contents") {
		t.Errorf("ring buffer: %v", err)
	}
}
