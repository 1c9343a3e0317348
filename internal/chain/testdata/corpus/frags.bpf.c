// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Knows packets in fragments: reads and writes by helpers.
#include "corpus.h"

SEC("xdp.frags") int frags(CTX *ctx)
{
	__u8 buf[16] = {};
	if (bpf_xdp_load_bytes(ctx, 14, buf, sizeof(buf)))
		return XDP_DROP;
	buf[3] ^= bpf_xdp_get_buff_len(ctx);
	if (bpf_xdp_store_bytes(ctx, 30, buf, 4))
		return XDP_DROP;
	return verdict(ctx);
}

SEC("xdp") int whole(CTX *ctx)
{
	leave(ctx, 29, byte(ctx, 15));
	return verdict(ctx);
}
