// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Head, metadata and tail are moved, and the packet is read anew each time.
#include "corpus.h"

SEC("xdp") int moves(CTX *ctx)
{
	__u8 b = byte(ctx, 15);
	if (b & 1 && bpf_xdp_adjust_head(ctx, -8))
		return XDP_DROP;
	if (b & 1) {
		__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
		if (data + 8 > end)
			return XDP_DROP;
		for (int i = 0; i < 8; i++)
			data[i] = b + i;
	}
	if (b & 2)
		bpf_xdp_adjust_tail(ctx, -1);
	if (b & 4 && !bpf_xdp_adjust_meta(ctx, -4)) {
		__u32 *meta = (void *)(long)ctx->data_meta, *data = (void *)(long)ctx->data;
		if (meta + 1 <= data)
			*meta = b;
	}
	if (b & 8)
		bpf_xdp_adjust_head(ctx, 8);
	return verdict(ctx);
}
