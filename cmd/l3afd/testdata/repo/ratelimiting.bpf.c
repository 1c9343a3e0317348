// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The maps and names of L3AF's ratelimiting, and of its work only this: the
 * counter of received packets counts only once somebody has made it.
 */
#include "l3af.h"

MAP(rl_config_map, ARRAY, __u32, __u64, 1);
MAP(rl_window_map, LRU_HASH, __u64, __u64, 1000);
MAP(rl_recv_count_map, HASH, __u64, __u64, 1);
MAP(rl_drop_count_map, HASH, __u64, __u64, 1);
MAP(rl_ports_map, HASH, __u16, __u8, 50);
NEXT(xdp_rl_ingress_next_prog);

SEC("xdp_ratelimiting")
int _xdp_ratelimiting(struct xdp_md *ctx)
{
	__u16 port = udp_port((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	__u64 first = 0, window = 1;
	__u32 key = 0;
	__u64 *rate = bpf_map_lookup_elem(&rl_config_map, &key);

	add(&rl_recv_count_map, &first);
	if (port && bpf_map_lookup_elem(&rl_ports_map, &port) && rate && !*rate) {
		add(&rl_drop_count_map, &first);
		return XDP_DROP;
	}
	bpf_map_update_elem(&rl_window_map, &window, &first, BPF_ANY);
	bpf_tail_call(ctx, &xdp_rl_ingress_next_prog, 0);
	return XDP_PASS;
}
