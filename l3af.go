// Package l3af holds the words of the Lightweight eBPF Application
// Foundation: the state a node is told, the hooks and verdicts of its
// chains, and the status it reports. It imports the standard library only,
// so that every client can import it.
package l3af

import (
	"fmt"
	"slices"
	"strings"
)

// APIVersion is the apiVersion of the state document.
const APIVersion = "l3af/v1"

// HookKind is a place in the packet path of an interface.
type HookKind string

// The hook kinds.
const (
	XDP       HookKind = "xdp"        // BPF_PROG_TYPE_XDP, on receive, before the socket buffer exists
	TCIngress HookKind = "tc-ingress" // BPF_PROG_TYPE_SCHED_CLS on TCX ingress
	TCEgress  HookKind = "tc-egress"  // BPF_PROG_TYPE_SCHED_CLS on TCX egress
)

// HookKinds lists every hook kind in the order the document names them.
func HookKinds() []HookKind { return []HookKind{XDP, TCIngress, TCEgress} }

// Verdict is a program's return code by name.
type Verdict string

// The verdicts of XDP (enum xdp_action in linux/bpf.h).
const (
	Aborted  Verdict = "aborted"
	Drop     Verdict = "drop"
	Pass     Verdict = "pass"
	TX       Verdict = "tx"
	Redirect Verdict = "redirect" // of TC as well
)

// The verdicts of TC (TC_ACT_* in linux/pkt_cls.h).
const (
	Unspec     Verdict = "unspec"
	OK         Verdict = "ok"
	Reclassify Verdict = "reclassify"
	Shot       Verdict = "shot"
	Pipe       Verdict = "pipe"
	Stolen     Verdict = "stolen"
	Queued     Verdict = "queued"
	Repeat     Verdict = "repeat"
	Trap       Verdict = "trap"
)

// Other stands in reports for every return code that has no name.
const Other Verdict = "other"

var (
	xdpVerdicts = []Verdict{Aborted, Drop, Pass, TX, Redirect}
	tcVerdicts  = []Verdict{Unspec, OK, Reclassify, Shot, Pipe, Stolen, Queued, Repeat, Redirect, Trap}
)

// Verdicts lists the named verdicts of a hook kind in order of their return
// codes. The first has the code [HookKind.FirstCode].
func (k HookKind) Verdicts() []Verdict {
	if k == XDP {
		return slices.Clone(xdpVerdicts)
	}
	return slices.Clone(tcVerdicts)
}

// FirstCode is the lowest named return code: 0 (XDP_ABORTED) for XDP, -1
// (TC_ACT_UNSPEC) for TC.
func (k HookKind) FirstCode() int32 {
	if k == XDP {
		return 0
	}
	return -1
}

// Code is the return code of a verdict at this hook kind.
func (k HookKind) Code(v Verdict) (int32, bool) {
	i := slices.Index(k.Verdicts(), v)
	return int32(i) + k.FirstCode(), i >= 0
}

// Verdict names a return code; [Other] when it has no name.
func (k HookKind) Verdict(code int32) Verdict {
	vs := k.Verdicts()
	if i := int(code - k.FirstCode()); i >= 0 && i < len(vs) {
		return vs[i]
	}
	return Other
}

// DefaultProceed is the proceed set of a program that names none: XDP pass;
// TC unspec, ok and pipe.
func (k HookKind) DefaultProceed() []Verdict {
	if k == XDP {
		return []Verdict{Pass}
	}
	return []Verdict{Unspec, OK, Pipe}
}

// Hook is one place where a chain runs.
type Hook struct {
	// Netns is a name under /run/netns, an absolute path of a network
	// namespace file, or "" for the daemon's own namespace.
	Netns     string
	Interface string
	Kind      HookKind
}

// String gives "xdp/eth0", or "xdp/blue:eth0" in the network namespace blue.
func (h Hook) String() string {
	if h.Netns != "" {
		return fmt.Sprintf("%s/%s:%s", h.Kind, h.Netns, h.Interface)
	}
	return fmt.Sprintf("%s/%s", h.Kind, h.Interface)
}

// Compare orders hooks by namespace, interface and kind.
func (h Hook) Compare(o Hook) int {
	if c := strings.Compare(h.Netns, o.Netns); c != 0 {
		return c
	}
	if c := strings.Compare(h.Interface, o.Interface); c != 0 {
		return c
	}
	return strings.Compare(string(h.Kind), string(o.Kind))
}

// Mode is how an XDP chain runs.
type Mode string

// The modes. Auto is only ever asked for: status names what it became.
const (
	Auto    Mode = "auto"    // native, else generic
	Native  Mode = "native"  // in the driver
	Generic Mode = "generic" // in the network core, for any device
	Offload Mode = "offload" // on the device
)
