// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// One object of each kind that tools which look at BPF must know: programs of
// many types, maps of all, and BTF with every kind of value.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

const volatile char bpf_metadata_version[] SEC(".rodata") = "1.2.3";
const volatile __u32 bpf_metadata_rev SEC(".rodata") = 42;
const volatile __u32 limit = 7;
__u64 seen; /* .bss */
__u32 step = 3; /* .data */

enum action { ACT_DROP, ACT_PASS, ACT_LOG = 9 };
typedef __u8 mac_t[6];
struct point {
	__s16 x, y;
};
struct flow {
	__u32 ip;
	__u16 port;
	__u8 proto;
	__u8 pad;
};
struct value {
	__u64 packets;
	__s32 delta;
	enum action act;
	__u32 f1 : 3;
	__u32 f2 : 5;
	__s32 f3 : 8;
	bool seen;
	char comm[8];
	mac_t mac;
	union {
		__u32 v4;
		__u16 half[2];
	} u;
	struct {
		__u8 anonymous;
		__u8 member;
	};
	struct point path[2][2];
	void *ptr;
	float ratio;
	double exact;
	__u32 tagged __attribute__((btf_decl_tag("l3af:be")));
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, struct flow);
	__type(value, struct value);
} zoo_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} zoo_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, enum action);
} zoo_lru SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct value);
} zoo_pcpu_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8);
	__type(key, __u64);
	__type(value, __u32);
} zoo_pcpu_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__uint(value_size, 8);
} zoo_lru_pcpu SEC(".maps");

struct lpm_key {
	__u32 prefixlen;
	__u8 addr[4];
};
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lpm_key);
	__type(value, __u32);
} zoo_lpm SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} zoo_inner SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct inner);
} zoo_maps SEC(".maps") = { .values = { [1] = &zoo_inner } };
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct inner);
} zoo_hash_maps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} zoo_progs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} zoo_devmap SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} zoo_devhash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} zoo_cpumap SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} zoo_xskmap SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} zoo_sockmap SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} zoo_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} zoo_perf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, struct point);
} zoo_queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 4);
	__uint(value_size, 4);
} zoo_stack SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 8);
	__type(value, __u32);
} zoo_bloom SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__uint(value_size, 64);
} zoo_stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} zoo_cgroups SEC(".maps");

struct event {
	__u64 at;
	enum action act;
	char comm[16];
};
/* Types that no map has are not in the BTF otherwise. */
struct event *unused_event __attribute__((unused));

static __noinline int count(struct xdp_md *ctx, __u32 by)
{
	__u32 zero = 0;
	struct value *v = bpf_map_lookup_elem(&zoo_pcpu_array, &zero);

	if (!v)
		return XDP_ABORTED;
	v->packets += by;
	v->act = ACT_PASS;
	seen += limit;
	return ctx->data_end > ctx->data ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int zoo_xdp_program_of_a_long_name(struct xdp_md *ctx)
{
	__u32 key = 1;
	__u64 *n = bpf_map_lookup_elem(&zoo_array, &key);

	if (n)
		__sync_fetch_and_add(n, step);
	if (bpf_metadata_rev == 0 || bpf_metadata_version[0] == 0)
		bpf_tail_call(ctx, &zoo_progs, 0);
	return count(ctx, 2);
}

SEC("xdp")
int zoo_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("tc")
int zoo_tc(struct __sk_buff *skb)
{
	__u32 key = skb->ifindex;
	enum action act = ACT_LOG;

	bpf_map_update_elem(&zoo_lru, &key, &act, BPF_ANY);
	return TC_ACT_OK;
}

SEC("tracepoint/syscalls/sys_enter_getpid")
int zoo_tracepoint(void *ctx)
{
	struct event *e = bpf_ringbuf_reserve(&zoo_ring, sizeof(*e), 0);

	if (!e)
		return 0;
	e->at = bpf_ktime_get_ns();
	e->act = ACT_LOG;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
	return 0;
}

SEC("raw_tp/sched_switch")
int zoo_raw_tp(void *ctx)
{
	return 0;
}

SEC("tp_btf/sched_switch")
int zoo_tp_btf(void *ctx)
{
	return 0;
}

SEC("perf_event")
int zoo_perf_event(void *ctx)
{
	return 0;
}

SEC("uprobe")
int zoo_uprobe(void *ctx)
{
	return 0;
}

SEC("uprobe.multi")
int zoo_uprobes(void *ctx)
{
	return 0;
}

SEC("cgroup_skb/egress")
int zoo_cgroup(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup/connect4")
int zoo_connect(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("socket")
int zoo_socket(struct __sk_buff *skb)
{
	return 0;
}

SEC("sk_lookup")
int zoo_sk_lookup(struct bpf_sk_lookup *ctx)
{
	return SK_PASS;
}

SEC("flow_dissector")
int zoo_dissector(struct __sk_buff *skb)
{
	return BPF_OK;
}

SEC("netfilter")
int zoo_netfilter(void *ctx)
{
	return 1; /* NF_ACCEPT */
}

SEC("sk_skb/stream_verdict")
int zoo_sk_skb(struct __sk_buff *skb)
{
	return SK_PASS;
}

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));
struct bpf_iter__bpf_map {
	struct bpf_iter_meta *meta;
} __attribute__((preserve_access_index));

SEC("iter/bpf_map")
int zoo_iter(struct bpf_iter__bpf_map *ctx)
{
	static const char line[] = "map\n";

	bpf_seq_write(ctx->meta->seq, line, sizeof(line) - 1);
	return 0;
}

SEC("iter/bpf_map_elem")
int zoo_elements(void *ctx)
{
	return 0;
}

SEC("iter/task")
int zoo_tasks(void *ctx)
{
	return 0;
}
