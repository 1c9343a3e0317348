package loader

import (
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"l3af/internal/inspect"
)

// Type is what a program is made for.
type Type struct {
	Program ebpf.ProgramType
	Attach  ebpf.AttachType
}

// sections are the names of sections that say a type, as libbpf has them, where
// that is not the type's own name.
var sections = map[string]Type{
	"socket": {Program: ebpf.SocketFilter}, "classifier": {Program: ebpf.SchedCLS}, "action": {Program: ebpf.SchedACT},
	"tc": {Program: ebpf.SchedCLS}, "kretprobe": {Program: ebpf.Kprobe}, "uprobe": {Program: ebpf.Kprobe}, "uretprobe": {Program: ebpf.Kprobe},
	"raw_tp": {Program: ebpf.RawTracepoint}, "tp": {Program: ebpf.TracePoint}, "xdp": {ebpf.XDP, ebpf.AttachXDP},
	"sockops":               {ebpf.SockOps, ebpf.AttachCGroupSockOps},
	"sk_skb":                {Program: ebpf.SkSKB},
	"sk_skb/stream_parser":  {ebpf.SkSKB, ebpf.AttachSkSKBStreamParser},
	"sk_skb/stream_verdict": {ebpf.SkSKB, ebpf.AttachSkSKBStreamVerdict},
	"sk_msg":                {ebpf.SkMsg, ebpf.AttachSkMsgVerdict},
	"sk_reuseport":          {ebpf.SkReuseport, ebpf.AttachSkReuseportSelect},
	"sk_lookup":             {ebpf.SkLookup, ebpf.AttachSkLookup},
	"lirc_mode2":            {ebpf.LircMode2, ebpf.AttachLircMode2},
	"flow_dissector":        {ebpf.FlowDissector, ebpf.AttachFlowDissector},
	"netfilter":             {ebpf.Netfilter, ebpf.AttachNetfilter},
	"cgroup/skb":            {Program: ebpf.CGroupSKB},
	"cgroup_skb/ingress":    {ebpf.CGroupSKB, ebpf.AttachCGroupInetIngress},
	"cgroup_skb/egress":     {ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress},
	"cgroup/sock":           {ebpf.CGroupSock, ebpf.AttachCGroupInetSockCreate},
	"cgroup/sock_create":    {ebpf.CGroupSock, ebpf.AttachCGroupInetSockCreate},
	"cgroup/sock_release":   {ebpf.CGroupSock, ebpf.AttachCgroupInetSockRelease},
	"cgroup/post_bind4":     {ebpf.CGroupSock, ebpf.AttachCGroupInet4PostBind},
	"cgroup/post_bind6":     {ebpf.CGroupSock, ebpf.AttachCGroupInet6PostBind},
	"cgroup/dev":            {ebpf.CGroupDevice, ebpf.AttachCGroupDevice},
	"cgroup/sysctl":         {ebpf.CGroupSysctl, ebpf.AttachCGroupSysctl},
	"cgroup/getsockopt":     {ebpf.CGroupSockopt, ebpf.AttachCGroupGetsockopt},
	"cgroup/setsockopt":     {ebpf.CGroupSockopt, ebpf.AttachCGroupSetsockopt},
	"cgroup/bind4":          {ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Bind},
	"cgroup/bind6":          {ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Bind},
	"cgroup/connect4":       {ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect},
	"cgroup/connect6":       {ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Connect},
	"cgroup/getpeername4":   {ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetPeername},
	"cgroup/getpeername6":   {ebpf.CGroupSockAddr, ebpf.AttachCgroupInet6GetPeername},
	"cgroup/getsockname4":   {ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetSockname},
	"cgroup/getsockname6":   {ebpf.CGroupSockAddr, ebpf.AttachCgroupInet6GetSockname},
	"cgroup/sendmsg4":       {ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Sendmsg},
	"cgroup/sendmsg6":       {ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP6Sendmsg},
	"cgroup/recvmsg4":       {ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Recvmsg},
	"cgroup/recvmsg6":       {ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP6Recvmsg},
}

// ParseType knows the names of types that bpftool takes: those of sections, and
// of programs in the kernel.
func ParseType(name string) (Type, bool) {
	if t, ok := sections[strings.TrimSuffix(name, "/")]; ok {
		return t, true
	}
	p, ok := inspect.ParseProgramType(name)
	return Type{Program: p}, ok
}

// Types lists the names that [ParseType] knows.
func Types() []string {
	return slices.Compact(slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(sections)), inspect.ProgramTypes()...))))
}
