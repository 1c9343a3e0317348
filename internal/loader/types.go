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
	"tc":                    {Program: ebpf.SchedCLS},
	"tc/ingress":            {ebpf.SchedCLS, ebpf.AttachTCXIngress},
	"tc/egress":             {ebpf.SchedCLS, ebpf.AttachTCXEgress},
	"tcx/ingress":           {ebpf.SchedCLS, ebpf.AttachTCXIngress},
	"tcx/egress":            {ebpf.SchedCLS, ebpf.AttachTCXEgress},
	"netkit/primary":        {ebpf.SchedCLS, ebpf.AttachNetkitPrimary},
	"netkit/peer":           {ebpf.SchedCLS, ebpf.AttachNetkitPeer},
	"xdp":                   {ebpf.XDP, ebpf.AttachXDP},
	"xdp/devmap":            {ebpf.XDP, ebpf.AttachXDPDevMap},
	"xdp/cpumap":            {ebpf.XDP, ebpf.AttachXDPCPUMap},
	"sockops":               {ebpf.SockOps, ebpf.AttachCGroupSockOps},
	"sk_skb":                {Program: ebpf.SkSKB},
	"sk_skb/stream_parser":  {ebpf.SkSKB, ebpf.AttachSkSKBStreamParser},
	"sk_skb/stream_verdict": {ebpf.SkSKB, ebpf.AttachSkSKBStreamVerdict},
	"sk_skb/verdict":        {ebpf.SkSKB, ebpf.AttachSkSKBVerdict},
	"sk_msg":                {ebpf.SkMsg, ebpf.AttachSkMsgVerdict},
	"sk_reuseport":          {ebpf.SkReuseport, ebpf.AttachSkReuseportSelect},
	"sk_reuseport/migrate":  {ebpf.SkReuseport, ebpf.AttachSkReuseportSelectOrMigrate},
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

	"cgroup/connect_unix":     {ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixConnect},
	"cgroup/sendmsg_unix":     {ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixSendmsg},
	"cgroup/recvmsg_unix":     {ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixRecvmsg},
	"cgroup/getpeername_unix": {ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixGetpeername},
	"cgroup/getsockname_unix": {ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixGetsockname},
}

// attachUprobeSession is BPF_TRACE_UPROBE_SESSION, which cilium/ebpf does not name.
const attachUprobeSession = ebpf.AttachType(57)

// events are like sections, of names that go on with what the program is attached
// to, behind a slash: that is of no account for the type.
var events = map[string]Type{
	"kprobe": {Program: ebpf.Kprobe}, "kretprobe": {Program: ebpf.Kprobe}, "ksyscall": {Program: ebpf.Kprobe}, "kretsyscall": {Program: ebpf.Kprobe},
	"uprobe": {Program: ebpf.Kprobe}, "uretprobe": {Program: ebpf.Kprobe}, "usdt": {Program: ebpf.Kprobe},
	"tp": {Program: ebpf.TracePoint}, "tracepoint": {Program: ebpf.TracePoint},
	"raw_tp": {Program: ebpf.RawTracepoint}, "raw_tracepoint": {Program: ebpf.RawTracepoint},
	"raw_tp.w": {Program: ebpf.RawTracepointWritable}, "raw_tracepoint.w": {Program: ebpf.RawTracepointWritable},
	"kprobe.multi":    {ebpf.Kprobe, ebpf.AttachTraceKprobeMulti},
	"kretprobe.multi": {ebpf.Kprobe, ebpf.AttachTraceKprobeMulti},
	"kprobe.session":  {ebpf.Kprobe, ebpf.AttachTraceKprobeSession},
	"uprobe.multi":    {ebpf.Kprobe, ebpf.AttachTraceUprobeMulti},
	"uretprobe.multi": {ebpf.Kprobe, ebpf.AttachTraceUprobeMulti},
	"uprobe.session":  {ebpf.Kprobe, attachUprobeSession},
	"tp_btf":          {ebpf.Tracing, ebpf.AttachTraceRawTp},
	"fentry":          {ebpf.Tracing, ebpf.AttachTraceFEntry},
	"fexit":           {ebpf.Tracing, ebpf.AttachTraceFExit},
	"fmod_ret":        {ebpf.Tracing, ebpf.AttachModifyReturn},
	"iter":            {ebpf.Tracing, ebpf.AttachTraceIter},
	"freplace":        {Program: ebpf.Extension},
	"lsm":             {ebpf.LSM, ebpf.AttachLSMMac},
	"lsm_cgroup":      {ebpf.LSM, ebpf.AttachLSMCgroup},
	"struct_ops":      {Program: ebpf.StructOps},
}

// ParseType knows the names of types that bpftool takes: those of sections, and
// of programs in the kernel.
func ParseType(name string) (Type, bool) {
	name = strings.TrimSuffix(name, "/")
	if before, behind, ok := strings.Cut(name, "/"); before == "xdp.frags" {
		if name = "xdp"; ok {
			name += "/" + behind
		}
	}
	if t, ok := sections[name]; ok {
		return t, true
	}
	event, _, _ := strings.Cut(name, "/")
	if t, ok := events[strings.TrimSuffix(event, ".s")]; ok {
		return t, true
	}
	p, ok := inspect.ParseProgramType(name)
	return Type{Program: p}, ok
}

// Types lists the names that [ParseType] knows.
func Types() []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Keys(sections)), slices.Collect(maps.Keys(events)), inspect.ProgramTypes()))))
}
