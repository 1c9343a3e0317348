package programs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"

	"l3af/internal/packet"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// spec reads a shipped object.
func spec(t testing.TB, name string) *ebpf.CollectionSpec {
	t.Helper()
	b, err := FS.ReadFile(name + "/" + name + ".bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// load loads a shipped object with these globals.
func load(t testing.TB, name string, globals map[string]any) *ebpf.Collection {
	t.Helper()
	testenv.Root(t)
	s := spec(t, name)
	for k, v := range globals {
		if s.Variables[k] == nil {
			t.Fatalf("%s has no global %s", name, k)
		}
		if err := s.Variables[k].Set(v); err != nil {
			t.Fatal(err)
		}
	}
	c, err := ebpf.NewCollection(s)
	if err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			t.Fatalf("%+v", ve)
		}
		t.Fatal(err)
	}
	testenv.Collect(t, c)
	return c
}

// run runs a program on a frame and returns its code. The frame must come out
// as it went in.
func run(t testing.TB, p *ebpf.Program, frame []byte) int32 {
	t.Helper()
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64)}
	code, err := p.Run(&opts)
	if err != nil {
		t.Fatalf("%s: run on %d bytes: %v", p, len(frame), err)
	}
	if !bytes.Equal(opts.DataOut, frame) {
		t.Fatalf("%s changed the packet:\n%x\n%x", p, frame, opts.DataOut)
	}
	return int32(code)
}

// runsOnTC says whether BPF_PROG_TEST_RUN makes a socket buffer of the frame:
// it wants a whole Ethernet header and, where that announces IP, a whole fixed
// IP header (bpf_prog_test_run_skb in net/bpf/test_run.c). A VLAN tag before IP
// gets shorter ones in.
func runsOnTC(frame []byte) bool {
	if len(frame) <= 14 {
		return false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case packet.TypeIPv4:
		return len(frame) >= 14+20
	case packet.TypeIPv6:
		return len(frame) >= 14+40
	}
	return true
}

// The codes of TC programs that let a packet on, or drop it.
const (
	tcUnspec = -1
	tcShot   = 2
)

// prefix is struct prefix of include/prefix.h.
type prefix struct {
	Len  uint32
	Addr [16]byte
}

// mapped gives a prefix in the form of the programs' maps.
func mapped(p netip.Prefix) prefix {
	n := p.Bits()
	if p.Addr().Is4() {
		n += 96
	}
	return prefix{uint32(n), p.Addr().As16()}
}

func pfx(s string) netip.Prefix  { return netip.MustParsePrefix(s) }
func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
func addr(s string) netip.Addr   { return netip.MustParseAddr(s) }
func put(t testing.TB, m *ebpf.Map, k, v any) {
	t.Helper()
	if err := m.Put(k, v); err != nil {
		t.Fatalf("%s: put %v: %v", m, k, err)
	}
}
