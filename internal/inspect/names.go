package inspect

import (
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// TypeName is the name libbpf has for a type, the one bpftool prints and
// reads; of a type that is newer than the tables, its number.
type TypeName string

// MarshalJSON gives a string, but a number where there is no name.
func (n TypeName) MarshalJSON() ([]byte, error) {
	if n.Known() {
		return strconv.AppendQuote(nil, string(n)), nil
	}
	return []byte(n), nil
}

// Known says whether the type has a name.
func (n TypeName) Known() bool {
	_, err := strconv.ParseUint(string(n), 10, 64)
	return err != nil
}

// names are those of the types 0, 1, 2 and so on.
type names []string

func (ns names) of(n uint32) TypeName {
	if int64(n) < int64(len(ns)) {
		return TypeName(ns[n])
	}
	return TypeName(strconv.FormatUint(uint64(n), 10))
}

func (ns names) number(name string) (uint32, bool) {
	i := slices.Index(ns, name)
	if i >= 0 {
		return uint32(i), true
	}
	n, err := strconv.ParseUint(name, 10, 32)
	return uint32(n), err == nil
}

// ProgramType names a type of programs.
func ProgramType(t ebpf.ProgramType) TypeName { return programTypes.of(uint32(t)) }

// ParseProgramType knows the names of [ProgramType], and numbers.
func ParseProgramType(name string) (ebpf.ProgramType, bool) {
	n, ok := programTypes.number(name)
	return ebpf.ProgramType(n), ok
}

// ProgramTypes lists the names by number.
func ProgramTypes() []string { return slices.Clone(programTypes) }

// MapType names a type of maps.
func MapType(t ebpf.MapType) TypeName { return mapTypes.of(uint32(t)) }

// ParseMapType knows the names of [MapType], and numbers.
func ParseMapType(name string) (ebpf.MapType, bool) {
	n, ok := mapTypes.number(name)
	return ebpf.MapType(n), ok
}

// MapTypes lists the names by number.
func MapTypes() []string { return slices.Clone(mapTypes) }

// AttachType names a way to attach.
func AttachType(t ebpf.AttachType) TypeName { return attachTypes.of(uint32(t)) }

// ParseAttachType knows the names of [AttachType], those that bpftool had for
// cgroups before (ingress, egress, connect4 …), and numbers.
func ParseAttachType(name string) (ebpf.AttachType, bool) {
	n, ok := attachTypes.number(name)
	if old, known := oldAttachTypes[name]; !ok && known {
		return old, true
	}
	return ebpf.AttachType(n), ok
}

// AttachTypes lists the names by number.
func AttachTypes() []string { return slices.Clone(attachTypes) }

// LinkType names a type of links.
func LinkType(t link.Type) TypeName { return linkTypes.of(uint32(t)) }

// ParseLinkType knows the names of [LinkType], and numbers.
func ParseLinkType(name string) (link.Type, bool) {
	n, ok := linkTypes.number(name)
	return link.Type(n), ok
}

// LinkTypes lists the names by number.
func LinkTypes() []string { return slices.Clone(linkTypes) }

// The numbers are those of enum bpf_prog_type, bpf_map_type, bpf_attach_type
// and bpf_link_type in linux/bpf.h.
var (
	programTypes = names(strings.Fields(`unspec socket_filter kprobe sched_cls sched_act tracepoint xdp perf_event
		cgroup_skb cgroup_sock lwt_in lwt_out lwt_xmit sock_ops sk_skb cgroup_device
		sk_msg raw_tracepoint cgroup_sock_addr lwt_seg6local lirc_mode2 sk_reuseport flow_dissector cgroup_sysctl
		raw_tracepoint_writable cgroup_sockopt tracing struct_ops ext lsm sk_lookup syscall netfilter`))

	mapTypes = names(strings.Fields(`unspec hash array prog_array perf_event_array percpu_hash percpu_array stack_trace
		cgroup_array lru_hash lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap
		cpumap xskmap sockhash cgroup_storage reuseport_sockarray percpu_cgroup_storage queue stack
		sk_storage devmap_hash struct_ops ringbuf inode_storage task_storage bloom_filter user_ringbuf cgrp_storage arena`))

	attachTypes = names(strings.Fields(`cgroup_inet_ingress cgroup_inet_egress cgroup_inet_sock_create cgroup_sock_ops
		sk_skb_stream_parser sk_skb_stream_verdict cgroup_device sk_msg_verdict
		cgroup_inet4_bind cgroup_inet6_bind cgroup_inet4_connect cgroup_inet6_connect
		cgroup_inet4_post_bind cgroup_inet6_post_bind cgroup_udp4_sendmsg cgroup_udp6_sendmsg
		lirc_mode2 flow_dissector cgroup_sysctl cgroup_udp4_recvmsg cgroup_udp6_recvmsg cgroup_getsockopt cgroup_setsockopt
		trace_raw_tp trace_fentry trace_fexit modify_return lsm_mac trace_iter
		cgroup_inet4_getpeername cgroup_inet6_getpeername cgroup_inet4_getsockname cgroup_inet6_getsockname
		xdp_devmap cgroup_inet_sock_release xdp_cpumap sk_lookup xdp sk_skb_verdict
		sk_reuseport_select sk_reuseport_select_or_migrate perf_event trace_kprobe_multi lsm_cgroup struct_ops netfilter
		tcx_ingress tcx_egress trace_uprobe_multi cgroup_unix_connect cgroup_unix_sendmsg cgroup_unix_recvmsg
		cgroup_unix_getpeername cgroup_unix_getsockname netkit_primary netkit_peer trace_kprobe_session trace_uprobe_session`))

	linkTypes = names(strings.Fields(`unspec raw_tracepoint tracing cgroup iter netns xdp perf_event kprobe_multi
		struct_ops netfilter tcx uprobe_multi netkit sockmap`))
)

// oldAttachTypes are the names of bpftool before it took those of libbpf.
var oldAttachTypes = map[string]ebpf.AttachType{
	"ingress": ebpf.AttachCGroupInetIngress, "egress": ebpf.AttachCGroupInetEgress,
	"sock_create": ebpf.AttachCGroupInetSockCreate, "sock_ops": ebpf.AttachCGroupSockOps, "device": ebpf.AttachCGroupDevice,
	"bind4": ebpf.AttachCGroupInet4Bind, "bind6": ebpf.AttachCGroupInet6Bind,
	"connect4": ebpf.AttachCGroupInet4Connect, "connect6": ebpf.AttachCGroupInet6Connect,
	"post_bind4": ebpf.AttachCGroupInet4PostBind, "post_bind6": ebpf.AttachCGroupInet6PostBind,
	"sendmsg4": ebpf.AttachCGroupUDP4Sendmsg, "sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
	"recvmsg4": ebpf.AttachCGroupUDP4Recvmsg, "recvmsg6": ebpf.AttachCGroupUDP6Recvmsg,
	"sysctl": ebpf.AttachCGroupSysctl, "getsockopt": ebpf.AttachCGroupGetsockopt, "setsockopt": ebpf.AttachCGroupSetsockopt,
	"getpeername4": ebpf.AttachCgroupInet4GetPeername, "getpeername6": ebpf.AttachCgroupInet6GetPeername,
	"getsockname4": ebpf.AttachCgroupInet4GetSockname, "getsockname6": ebpf.AttachCgroupInet6GetSockname,
	"sock_release":   ebpf.AttachCgroupInetSockRelease,
	"stream_verdict": ebpf.AttachSkSKBStreamVerdict, "stream_parser": ebpf.AttachSkSKBStreamParser,
	"skb_verdict": ebpf.AttachSkSKBVerdict, "msg_verdict": ebpf.AttachSkMsgVerdict,
}
