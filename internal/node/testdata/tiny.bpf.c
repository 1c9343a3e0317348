// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Small programs for the tests of the node: every kind of thing a chain has.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef TABLE
#define TABLE 64
#endif

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 fixed = 1; // read-only: another value is another chain
volatile __u32 live = 1;        // data: another value is a write

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TABLE);
	__type(key, __u32);
	__type(value, __u64);
#ifdef PINNING
	__uint(pinning, PINNING);
#endif
} table SEC(".maps");

static __always_inline __u64 look(void)
{
	__u32 key = fixed + live;
	__u64 *v = bpf_map_lookup_elem(&table, &key);
	return v ? *v : 0;
}

SEC("xdp")
int tiny(struct xdp_md *ctx)
{
	return look() == 1 ? XDP_DROP : XDP_PASS;
}

SEC("tc")
int tiny_tc(struct __sk_buff *skb)
{
	return look() == 1 ? 2 /* TC_ACT_SHOT */ : 0 /* TC_ACT_OK */;
}

SEC("raw_tracepoint/sched_process_exec")
int tiny_probe(void *ctx)
{
	return look();
}
