// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define CTX struct xdp_md
#define SECTION SEC("xdp")

static __always_inline long load(CTX *ctx, __u32 at, void *to, __u32 n)
{
	return bpf_xdp_load_bytes(ctx, at, to, n);
}

static __always_inline long store(CTX *ctx, __u32 at, void *from, __u32 n)
{
	return bpf_xdp_store_bytes(ctx, at, from, n);
}

// change moves the packet's head, tail or metadata.
static __always_inline long change(CTX *ctx, __u8 by)
{
	switch (by & 7) {
	case 0:
		return bpf_xdp_adjust_head(ctx, 4);
	case 1:
	case 2: {
		if (bpf_xdp_adjust_head(ctx, -4))
			return -1;
		__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
		if (data + 4 > end)
			return -1;
		data[0] = by;
		data[1] = data[2] = data[3] = 0;
		return 0;
	}
	case 3:
		return bpf_xdp_adjust_tail(ctx, -3);
	case 4:
		return bpf_xdp_adjust_tail(ctx, 5);
	default: {
		if (bpf_xdp_adjust_meta(ctx, -4))
			return -1;
		__u8 *meta = (void *)(long)ctx->data_meta, *data = (void *)(long)ctx->data;
		if (meta + 4 > data)
			return -1;
		meta[0] = by;
		meta[1] = meta[2] = meta[3] = 7;
		return 0;
	}
	}
}

// inspect reads and changes what else the context has.
static __always_inline long inspect(CTX *ctx)
{
	__u8 *meta = (void *)(long)ctx->data_meta, *data = (void *)(long)ctx->data;
	__u32 len = ctx->data - ctx->data_meta;
	if (meta + 4 <= data) {
		meta[3] ^= ctx->rx_queue_index + meta[0];
		return meta[3] & 1;
	}
	return len;
}

#include "bodies.h"

SEC("xdp.frags") int frags(CTX *ctx) { return verdict(ctx); }

SEC("xdp/devmap") int devmap(CTX *ctx) { return verdict(ctx); }
