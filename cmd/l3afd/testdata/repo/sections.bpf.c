// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Programs in sections that L3AF's root programs cannot be followed by, with
 * maps that L3AF does not load or writes past: per-CPU ones, wide ones.
 */
#include "l3af.h"

struct wide {
	__u64 a, b, packets;
};

MAP(seen_percpu, PERCPU_ARRAY, __u32, __u64, 4);
MAP(seen_wide, ARRAY, __u32, struct wide, 2);
__u64 seen;

static __always_inline void see(void)
{
	__u32 key = 0;
	struct wide *w = bpf_map_lookup_elem(&seen_wide, &key);

	if (w)
		__sync_fetch_and_add(&w->packets, 1);
	add(&seen_percpu, &key);
	__sync_fetch_and_add(&seen, 1);
}

SEC("xdp.frags")
int see_frags(struct xdp_md *ctx)
{
	see();
	return XDP_PASS;
}

SEC("tcx/ingress")
int see_ingress(struct __sk_buff *skb)
{
	see();
	return TC_ACT_UNSPEC;
}

SEC("tcx/egress")
int see_egress(struct __sk_buff *skb)
{
	see();
	return TC_ACT_UNSPEC;
}
