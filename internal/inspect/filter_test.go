package inspect

import (
	"encoding/binary"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// filterMessage is what the kernel sends of a filter with two actions, of
// which one is a BPF program.
func filterMessage() []byte {
	u32 := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	add := func(a *nl.RtAttr, kind int, value []byte) *nl.RtAttr { return a.AddRtAttr(kind, value) }
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	add(options, nl.TCA_BPF_NAME, []byte("cls\x00"))
	add(options, nl.TCA_BPF_ID, u32(7))
	add(options, nl.TCA_BPF_FLAGS, u32(1))
	acts := add(options, nl.TCA_BPF_ACT, nil)
	mirred := add(acts, 1, nil)
	add(mirred, actKind, []byte("mirred\x00"))
	act := add(acts, 2, nil)
	add(act, actKind, []byte("bpf\x00"))
	params := add(act, actOptions, nil)
	add(params, actBPFName, []byte("act\x00"))
	add(params, actBPFID, u32(8))
	m := (&nl.TcMsg{Ifindex: 2, Handle: 3, Info: 5<<16 | uint32(unix.ETH_P_IPV6>>8|unix.ETH_P_IPV6&0xff<<8)}).Serialize()
	m = append(m, nl.NewRtAttr(nl.TCA_KIND, []byte("bpf\x00")).Serialize()...)
	m = append(m, nl.NewRtAttr(nl.TCA_CHAIN, u32(9)).Serialize()...)
	return append(m, options.Serialize()...)
}

// Actions, which this machine's kernel may not have, are those of the message.
func TestParseFilter(t *testing.T) {
	f, name, err := parseFilter(filterMessage())
	if err != nil || f == nil {
		t.Fatal(f, err)
	}
	want := TCFilter{ID: 7, Prio: 5, Protocol: "ipv6", Handle: 3, DirectAction: true, TCChain: 9}
	acts := f.Act
	f.Act = nil
	if name != "cls" || f.ID != want.ID || f.Prio != want.Prio || f.Protocol != want.Protocol || f.Handle != want.Handle || !f.DirectAction || f.TCChain != want.TCChain {
		t.Errorf("%s: %+v, want %+v", name, f, want)
	}
	if len(acts) != 1 || acts[0] != (TCAction{"act", 8}) {
		t.Errorf("actions: %+v", acts)
	}
}

// What is damaged is an error, or is left out.
func FuzzParseFilter(f *testing.F) {
	f.Add(filterMessage())
	f.Add([]byte{})
	f.Add(make([]byte, nl.SizeofTcMsg))
	f.Fuzz(func(t *testing.T, m []byte) {
		if parsed, name, err := parseFilter(m); err != nil && (parsed != nil || name != "") {
			t.Errorf("%+v and %v", parsed, err)
		}
	})
}

// Names of /proc's lines lead to their values, whatever the lines are.
func TestParseFdinfo(t *testing.T) {
	got := parseFdinfo("pos:\t0\nmemlock:\t4096\nbroken\nprog_id:\t7\n:\n")
	if got["memlock"] != "4096" || got["prog_id"] != "7" || got["broken"] != "" {
		t.Errorf("got %q", got)
	}
}
