package chain

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	packets "l3af/internal/packet"
	"l3af/internal/testenv"
)

// xdpTool reads an object of Debian's package libxdp1, which xdp-tools needs.
// The test is skipped where it is not installed; with CI=true it fails.
func xdpTool(t *testing.T, name string) *ebpf.CollectionSpec {
	t.Helper()
	files, _ := filepath.Glob("/usr/lib/*/bpf/" + name + ".o")
	if len(files) == 0 {
		const why = "needs the objects of xdp-tools (apt-get install xdp-tools)"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	spec, err := ebpf.LoadCollectionSpec(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// The filters of xdp-tools, unmodified, do their work in one chain.
func TestXDPTools(t *testing.T) {
	testenv.Clean(t)
	var members []Member
	for _, name := range []string{"xdpfilt_alw_all", "xdpfilt_alw_eth", "xdpfilt_alw_ip", "xdpfilt_alw_tcp", "xdpfilt_alw_udp", "xsk_def_xdp_prog", "xdpdump_xdp", "xdpfilt_dny_all"} {
		spec := xdpTool(t, name)
		for entry, p := range spec.Programs {
			if p.Type == ebpf.XDP {
				members = append(members, Member{Name: strings.TrimPrefix(name, "xdpfilt_"), Spec: spec, Entry: entry})
			}
		}
	}
	if len(members) != 8 {
		t.Fatalf("%d programs", len(members))
	}
	c := compose(t, l3af.XDP, members...)
	l := load(t, c)
	const src, dst, tcp, udp = 1, 2, 4, 8 // MAP_FLAG_* of xdp-filter
	put := func(member, name string, key any, flags uint64) {
		t.Helper()
		m := l.maps[ref(member, name)]
		if m == nil {
			t.Fatalf("no map %s/%s", member, name)
		}
		values := make([]uint64, ebpf.MustPossibleCPU())
		for i := range values {
			values[i] = flags
		}
		if err := m.Put(key, values); err != nil {
			t.Fatal(err)
		}
	}
	network := func(port uint16) uint32 { return uint32(port>>8 | port<<8) }
	put("alw_ip", "filter_ipv4", netip.MustParseAddr("10.0.0.66").As4(), src)
	put("alw_udp", "filter_ports", network(53), dst|udp)
	put("alw_all", "filter_ports", network(99), src|udp)
	put("dny_all", "filter_ipv4", netip.MustParseAddr("10.0.0.1").As4(), src|dst)
	put("dny_all", "filter_ports", network(7), dst|udp|tcp)

	for _, p := range []struct {
		src, dst     string
		sport, dport uint16
		want         uint32
		by           string
	}{
		{"10.0.0.1", "10.0.0.9", 1000, 80, 2, "dny_all"},
		{"10.0.0.66", "10.0.0.1", 1000, 80, 1, "alw_ip"},
		{"10.0.0.1", "10.0.0.2", 1000, 53, 1, "alw_udp"},
		{"10.0.0.1", "10.0.0.2", 99, 53, 1, "alw_all"},
		{"10.0.0.2", "10.0.0.3", 1000, 80, 1, "dny_all"},
		{"10.0.0.2", "10.0.0.3", 1000, 7, 2, "dny_all"},
	} {
		before := map[string]uint64{}
		verdict := map[uint32]l3af.Verdict{1: "drop", 2: "pass"}[p.want]
		for _, c := range counts(t, l) {
			before[c.Name] = c.Verdicts[verdict]
		}
		data := packets.UDP(netip.AddrPortFrom(netip.MustParseAddr(p.src), p.sport), netip.AddrPortFrom(netip.MustParseAddr(p.dst), p.dport), []byte("l3af"))
		got, _, err := l.Test(data)
		if err != nil || got != p.want {
			t.Errorf("%+v: got %d, %v", p, got, err)
		}
		for _, c := range counts(t, l) {
			if c.Name == p.by && c.Verdicts[verdict] != before[c.Name]+1 {
				t.Errorf("%+v: %s said %v", p, c.Name, c.Verdicts)
			}
		}
	}
}

// All filters of xdp-filter, those that deny by default too, do in one chain
// what each does alone: the next one runs whatever they say.
func TestXDPFilters(t *testing.T) {
	testenv.Clean(t)
	var members []Member
	for _, what := range []string{"alw", "dny"} {
		for _, of := range []string{"all", "eth", "ip", "tcp", "udp"} {
			name := what + "_" + of
			spec := xdpTool(t, "xdpfilt_"+name)
			for _, m := range spec.Maps {
				m.Pinning = ebpf.PinNone // each has its own
			}
			for entry, p := range spec.Programs {
				if p.Type == ebpf.XDP {
					members = append(members, Member{Name: name, Spec: spec, Entry: entry, Proceed: []l3af.Verdict{l3af.Pass, l3af.Drop}})
				}
			}
		}
	}
	if len(members) != 10 {
		t.Fatalf("%d programs", len(members))
	}
	r := rand.New(rand.NewPCG(3, 14))
	agree(t, r, l3af.XDP, members, 200)
	slices.Reverse(members)
	if c := agree(t, r, l3af.XDP, members, 200); c != nil {
		for _, p := range c.Programs {
			if p.Linkage != Inlined {
				t.Errorf("%s is %s: %s", p.Name, p.Linkage, p.Why)
			}
		}
	}
}
