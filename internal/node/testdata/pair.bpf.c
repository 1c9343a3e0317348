// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// tiny, and programs that use one of its maps, and none.
#include "tiny.bpf.c"

SEC("xdp")
int one(struct xdp_md *ctx)
{
	__u32 key = 7;

	return bpf_map_lookup_elem(&table, &key) ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int bare(struct xdp_md *ctx)
{
	return XDP_PASS;
}
