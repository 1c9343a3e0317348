// Package zoo has one of everything that tools which look at BPF must know, in
// the kernel for the length of a test: programs of many types, maps of all, BTF
// with every kind of value, and links of every kind that this kernel attaches.
package zoo

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af/internal/testenv"
)

//go:embed testdata/zoo.bpf.o
var object []byte

// LongName is the program whose name the kernel keeps 15 bytes of. It calls a
// subprogram and uses most maps that the others do not.
const LongName = "zoo_xdp_program_of_a_long_name"

// Zoo is what is in the kernel. The keys are the names in testdata/zoo.bpf.c; NoBTF is a
// hash that has no BTF.
type Zoo struct {
	Programs map[string]*ebpf.Program
	Maps     map[string]*ebpf.Map
	Links    map[string]link.Link // only what Attach attached
}

// Open loads the zoo and puts something into every map that takes it. Tests
// select by the ids of its objects: others may have a zoo at the same time.
func Open(t testing.TB) *Zoo {
	t.Helper()
	testenv.Root(t)
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps["zoo_no_btf"] = &ebpf.MapSpec{Name: "zoo_no_btf", Type: ebpf.Hash, KeySize: 3, ValueSize: 5, MaxEntries: 4}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("load the zoo: %+v", err)
	}
	testenv.Collect(t, coll)
	z := &Zoo{coll.Programs, coll.Maps, map[string]link.Link{}}
	if err := z.fill(); err != nil {
		t.Fatal(err)
	}
	return z
}

// Value is a struct value of testdata/zoo.bpf.c with something in every member.
func Value(packets uint64) []byte {
	b := make([]byte, 96)
	ne := binary.NativeEndian
	ne.PutUint64(b, packets)
	ne.PutUint32(b[8:], math.MaxUint32) // delta: -1
	ne.PutUint32(b[12:], 1)             // act: ACT_PASS
	b[16], b[17] = 5|17<<3, 0xfd        // f1: 5, f2: 17, f3: -3
	b[20] = 1                           // seen
	copy(b[21:], "eth0")
	copy(b[29:], []byte{0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}) // mac
	ne.PutUint32(b[36:], 0x0a000001)                         // u
	b[40], b[41] = 1, 2
	for i := range 8 { // path: 0, -1, 2, -3 …
		n := int16(i)
		if i%2 == 1 {
			n = -n
		}
		ne.PutUint16(b[42+2*i:], uint16(n))
	}
	ne.PutUint64(b[64:], 0xffff888000001000) // ptr
	ne.PutUint32(b[72:], math.Float32bits(1.5))
	ne.PutUint64(b[80:], math.Float64bits(-2.25e100))
	binary.BigEndian.PutUint32(b[88:], 7) // tagged
	return b
}

func (z *Zoo) fill() error {
	n := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	for _, e := range []struct {
		m          string
		key, value any
	}{
		{"zoo_hash", []byte{10, 0, 0, 1, 0x1f, 0x90, 6, 0}, Value(5)},
		{"zoo_hash", []byte{10, 0, 0, 2, 0, 80, 17, 0}, Value(1 << 60)},
		{"zoo_array", n(1), uint64(42)},
		{"zoo_array", n(3), uint64(math.MaxUint64)},
		{"zoo_lru", n(7), n(0)},
		{"zoo_lru", n(8), n(5)}, // no name
		{"zoo_pcpu_array", n(0), z.perCPU(func(cpu int) []byte { return Value(uint64(10 + cpu)) })},
		{"zoo_pcpu_hash", uint64(99), z.perCPU(func(cpu int) []byte { return n(uint32(100 + cpu)) })},
		{"zoo_lru_pcpu", n(5), z.perCPU(func(cpu int) []byte { return make([]byte, 8) })},
		{"zoo_lpm", append(n(24), 10, 1, 2, 0), n(1)},
		{"zoo_lpm", append(n(8), 10, 0, 0, 0), n(2)},
		{"zoo_hash_maps", n(1), z.Maps["zoo_inner"]},
		{"zoo_progs", n(2), z.Programs["zoo_pass"]},
		{"zoo_cpumap", n(0), n(64)},
		{"zoo_queue", nil, []byte{1, 0, 255, 255}},
		{"zoo_queue", nil, []byte{2, 0, 3, 0}},
		{"zoo_stack", nil, n(11)},
		{"zoo_stack", nil, n(12)},
		{"zoo_bloom", nil, n(21)},
		{"zoo_no_btf", []byte{1, 2, 3}, []byte{5, 4, 3, 2, 1}},
	} {
		m := z.Maps[e.m]
		if m == nil {
			return fmt.Errorf("the zoo has no map %s", e.m)
		}
		if err := m.Put(e.key, e.value); err != nil {
			return fmt.Errorf("fill %s: %w", e.m, err)
		}
	}
	return nil
}

func (z *Zoo) perCPU(value func(cpu int) []byte) [][]byte {
	all := make([][]byte, ebpf.MustPossibleCPU())
	for cpu := range all {
		all[cpu] = value(cpu)
	}
	return all
}

// Interface is that at which Attach attaches, in the test's own network
// namespace.
const Interface = "zoo0"

// Attach makes a link of every kind. Links of the same programs elsewhere are
// the caller's.
func (z *Zoo) Attach(t testing.TB) {
	t.Helper()
	testenv.Tracefs(t)
	testenv.Veth(t, testenv.End{Name: Interface}, testenv.End{Name: "zoo1"})
	index := testenv.Interface(t, "", Interface).Index
	exe := filepath.Join(t.TempDir(), "true")
	code, err := os.ReadFile("/bin/true")
	if err == nil {
		err = os.WriteFile(exe, code, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	ex, err := link.OpenExecutable(exe)
	if err != nil {
		t.Fatal(err)
	}
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer netns.Close()
	p := z.Programs
	for name, attach := range map[string]func() (link.Link, error){
		LongName: func() (link.Link, error) {
			return link.AttachXDP(link.XDPOptions{Program: p[LongName], Interface: index})
		},
		"zoo_tc": func() (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Program: p["zoo_tc"], Interface: index, Attach: ebpf.AttachTCXIngress})
		},
		"zoo_tracepoint": func() (link.Link, error) {
			return link.Tracepoint("syscalls", "sys_enter_getpid", p["zoo_tracepoint"], &link.TracepointOptions{Cookie: 77})
		},
		"zoo_raw_tp": func() (link.Link, error) {
			return link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_switch", Program: p["zoo_raw_tp"]})
		},
		"zoo_tp_btf": func() (link.Link, error) {
			return link.AttachTracing(link.TracingOptions{Program: p["zoo_tp_btf"]})
		},
		"zoo_perf_event": func() (link.Link, error) { return attachFaults(p["zoo_perf_event"]) },
		"zoo_uprobe": func() (link.Link, error) {
			return ex.Uprobe("", p["zoo_uprobe"], &link.UprobeOptions{Address: 0x2000, Cookie: 9})
		},
		"zoo_uprobes": func() (link.Link, error) {
			return ex.UprobeMulti(nil, p["zoo_uprobes"], &link.UprobeMultiOptions{Addresses: []uint64{0x2000, 0x2010}, Cookies: []uint64{1, 2}})
		},
		"zoo_cgroup": func() (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: testenv.Cgroup(t), Attach: ebpf.AttachCGroupInetEgress, Program: p["zoo_cgroup"]})
		},
		"zoo_dissector": func() (link.Link, error) { return link.AttachNetNs(int(netns.Fd()), p["zoo_dissector"]) },
		"zoo_sk_lookup": func() (link.Link, error) { return link.AttachNetNs(int(netns.Fd()), p["zoo_sk_lookup"]) },
		"zoo_netfilter": func() (link.Link, error) {
			return link.AttachNetfilter(link.NetfilterOptions{
				Program: p["zoo_netfilter"], ProtocolFamily: unix.NFPROTO_IPV4, Hook: link.NetfilterInetLocalIn, Priority: -50,
			})
		},
		"zoo_sk_skb": func() (link.Link, error) {
			return link.AttachRawLink(link.RawLinkOptions{Target: z.Maps["zoo_sockmap"].FD(), Program: p["zoo_sk_skb"], Attach: ebpf.AttachSkSKBStreamVerdict})
		},
		"zoo_iter":  func() (link.Link, error) { return link.AttachIter(link.IterOptions{Program: p["zoo_iter"]}) },
		"zoo_tasks": func() (link.Link, error) { return link.AttachIter(link.IterOptions{Program: p["zoo_tasks"]}) },
		"zoo_elements": func() (link.Link, error) {
			return link.AttachIter(link.IterOptions{Program: p["zoo_elements"], Map: z.Maps["zoo_array"]})
		},
	} {
		l, err := attach()
		if err != nil {
			t.Fatalf("attach %s: %v", name, err)
		}
		t.Cleanup(func() { l.Close() })
		z.Links[name] = l
	}
}

// attachFaults attaches to the page faults of CPU 0, of which a test never sees enough.
func attachFaults(p *ebpf.Program) (link.Link, error) {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_PAGE_FAULTS, Sample: 1 << 60,
	}, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) // the link holds it
	return link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: p, Attach: ebpf.AttachPerfEvent})
}
