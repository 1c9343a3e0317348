// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs, maps and globals of every kind that a document may name.
#include <linux/bpf.h>
#include <linux/in6.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#define __tag(x) __attribute__((btf_decl_tag(x)))

char _license[] SEC("license") = "Dual BSD/GPL";

enum verdict { VERDICT_PASS, VERDICT_DROP };

const volatile enum verdict verdict = VERDICT_PASS;
const volatile __u16 port = 53;
const volatile __u16 net_port __tag("l3af:be") = 0;
const volatile struct in6_addr gateway;
static const volatile __u32 hidden = 7;
__u64 budget = 1000;
char label[16] = "none";
__u32 counter;
bool verbose;
__u32 unused SEC(".data.unused") = 1;

struct prefix4 {
	__u32 prefixlen;
	__be32 addr;
};
struct prefix6 {
	__u32 prefixlen;
	__u8 addr[16] __tag("l3af:v4mapped");
};
struct flow {
	struct in6_addr addr;
	__be16 port;
	__u16 pad;
};
struct limit {
	__u32 rate;
	__u32 burst;
};

#define MAP(NAME, TYPE, KEY, VALUE, MAX, FLAGS)      \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_##TYPE);   \
		__uint(max_entries, MAX);            \
		__uint(map_flags, FLAGS);            \
		__type(key, KEY);                    \
		__type(value, VALUE);                \
	} NAME SEC(".maps")
#define BLIND(NAME, TYPE, KEY, VALUE, MAX, FLAGS)    \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_##TYPE);   \
		__uint(max_entries, MAX);            \
		__uint(map_flags, FLAGS);            \
		__uint(key_size, KEY);               \
		__uint(value_size, VALUE);           \
	} NAME SEC(".maps")

MAP(hash, HASH, struct flow, struct limit, 8, 0);
MAP(lru, LRU_HASH, __u32, __u64, 8, 0);
MAP(array, ARRAY, __u32, struct limit, 4, 0);
MAP(by_verdict, ARRAY, enum verdict, __u64, 2, 0);
MAP(percpu, PERCPU_ARRAY, __u32, struct limit, 2, 0);
typedef __u8 triple[3];
MAP(percpu_list, PERCPU_HASH, __u16, triple, 2, 0);
MAP(percpu_hash, PERCPU_HASH, __u32, __u16, 4, 0);
MAP(percpu_lru, LRU_PERCPU_HASH, __u32, __u32, 64, 0);
MAP(deny4, LPM_TRIE, struct prefix4, bool, 8, BPF_F_NO_PREALLOC);
MAP(deny, LPM_TRIE, struct prefix6, __u32, 8, BPF_F_NO_PREALLOC);
MAP(readonly, HASH, __u32, __u32, 8, BPF_F_RDONLY);
MAP(ports, DEVMAP, __u32, __u32, 4, 0);
MAP(ports_hash, DEVMAP_HASH, __u32, struct bpf_devmap_val, 4, 0);
MAP(cpus, CPUMAP, __u32, struct bpf_cpumap_val, 2, 0);
MAP(not_used, HASH, __u32, __u32, 8, 0);
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} not_used_named SEC(".maps");
BLIND(blind, HASH, 4, 8, 8, 0);
BLIND(blind_deny, LPM_TRIE, 8, 1, 8, BPF_F_NO_PREALLOC);
BLIND(huge, HASH, 4, 1 << 30, 8, 0);
BLIND(jumps, PROG_ARRAY, 4, 4, 4, 0);
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

#define READ(x) sum += *(const volatile char *)&x
#define LOOK(m) sum += !!bpf_map_lookup_elem(&m, key)

static __always_inline int globals(void)
{
	int sum = hidden;

	READ(verdict), READ(port), READ(net_port), READ(gateway), READ(budget), READ(label), READ(verbose);
	__sync_fetch_and_add(&counter, 1);
	return sum;
}

SEC("xdp")
int all(struct xdp_md *ctx)
{
	char key[24] = {};
	int sum = globals();

	LOOK(hash), LOOK(lru), LOOK(array), LOOK(by_verdict), LOOK(percpu), LOOK(percpu_list), LOOK(percpu_hash);
	LOOK(percpu_lru), LOOK(deny4), LOOK(deny), LOOK(readonly), LOOK(blind), LOOK(blind_deny), LOOK(huge);
	bpf_tail_call(ctx, &jumps, 1);
	bpf_ringbuf_output(&events, key, 8, 0);
	if (sum == 99)
		return bpf_redirect_map(&ports, 0, 0);
	if (sum == 98)
		return bpf_redirect_map(&ports_hash, 0, 0);
	if (sum == 97)
		return bpf_redirect_map(&cpus, 0, 0);
	return sum == 96 ? XDP_DROP : XDP_PASS;
}

SEC("xdp/devmap")
int in_devmap(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("tc/ingress")
int tc_in(struct __sk_buff *skb)
{
	return 0;
}

SEC("tc/egress")
int tc_out(struct __sk_buff *skb)
{
	return 0;
}

SEC("raw_tp/sys_enter")
int raw(void *ctx)
{
	return 0;
}

SEC("kprobe/do_exit")
int other(void *ctx)
{
	return 0;
}

SEC("unknown")
int mystery(void *ctx)
{
	return unused;
}
