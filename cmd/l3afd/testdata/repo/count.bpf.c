// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts packets, as a program written for L3AF: at XDP and at TC, with
 * globals besides. Packets for the ports in count_ports are dropped.
 */
#include "l3af.h"

MAP(count_hits, ARRAY, __u32, __u64, 4);
MAP(count_ports, HASH, __u16, __u8, 50);
NEXT(count_next);

const volatile __u32 step = 1;
__u64 seen;

static __always_inline int drops(void *data, void *end)
{
	__u16 port = udp_port(data, end);
	__u32 key = 0;
	__u64 *n = bpf_map_lookup_elem(&count_hits, &key);

	if (n)
		__sync_fetch_and_add(n, step);
	seen++;
	return port && bpf_map_lookup_elem(&count_ports, &port);
}

SEC("xdp-count")
int _xdp_count(struct xdp_md *ctx)
{
	if (drops((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return XDP_DROP;
	bpf_tail_call(ctx, &count_next, 0);
	return XDP_PASS;
}

SEC("tc-count")
int _tc_count(struct __sk_buff *skb)
{
	if (drops((void *)(long)skb->data, (void *)(long)skb->data_end))
		return TC_ACT_SHOT;
	bpf_tail_call(skb, &count_next, 0);
	return TC_ACT_OK;
}
