// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define CTX struct __sk_buff
#define SECTION SEC("tc")

static __always_inline long load(CTX *ctx, __u32 at, void *to, __u32 n)
{
	return bpf_skb_load_bytes(ctx, at, to, n);
}

static __always_inline long store(CTX *ctx, __u32 at, void *from, __u32 n)
{
	return bpf_skb_store_bytes(ctx, at, from, n, 0);
}

// change moves the packet's head or tail.
static __always_inline long change(CTX *ctx, __u8 by)
{
	switch (by & 3) {
	case 0:
		return bpf_skb_change_tail(ctx, ctx->len - 3, 0);
	case 1:
		return bpf_skb_change_tail(ctx, ctx->len + 5, 0);
	case 2:
		return bpf_skb_change_head(ctx, 4, 0);
	default:
		return bpf_skb_pull_data(ctx, 0);
	}
}

// inspect reads and changes what else the context has.
static __always_inline long inspect(CTX *ctx)
{
	ctx->mark = ctx->mark * 3 + ctx->len;
	ctx->priority ^= ctx->cb[1];
	ctx->cb[0]++;
	ctx->cb[4] = ctx->mark;
	return ctx->mark & 1;
}

#include "bodies.h"

SECTION int absolute(CTX *ctx)
{
	unsigned long long load_byte(void *skb, unsigned long long off) asm("llvm.bpf.load.byte");
	return load_byte(ctx, 1000) ? verdicts[0] : verdict(ctx);
}
