// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs of tc: every name of section, packet rewrites, sockets, clones.
#define TC
#include "corpus.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} marks SEC(".maps");

SEC("tc") int tc_rewrite(CTX *ctx)
{
	__u8 b = byte(ctx, 15), out[2] = {b, b + 1};
	if (bpf_skb_store_bytes(ctx, 20, out, 2, BPF_F_RECOMPUTE_CSUM))
		return 2;
	bpf_l3_csum_replace(ctx, 24, b, b + 1, 2);
	if (b & 1)
		bpf_skb_change_tail(ctx, ctx->len + 2, 0);
	if (b & 2)
		bpf_skb_change_head(ctx, 4, 0);
	if (bpf_skb_pull_data(ctx, 0))
		return 2;
	leave(ctx, 3, byte(ctx, 16));
	return verdict(ctx);
}

SEC("classifier") int tc_classifier(CTX *ctx)
{
	__u32 key = byte(ctx, 15) & 1;
	__u64 *n = bpf_map_lookup_elem(&marks, &key);
	ctx->mark += ctx->len;
	ctx->cb[1] ^= ctx->mark;
	if (n)
		*n += ctx->mark;
	return verdict(ctx);
}

SEC("classifier/x") int tc_slash(CTX *ctx)
{
	ctx->priority += byte(ctx, 17);
	return byte(ctx, 16) & 1 ? 3 : verdict(ctx);
}

SEC("tc_any") int tc_named(CTX *ctx)
{
	ctx->cb[2]++;
	return verdict(ctx);
}

SEC("classifier_old") int tc_old(CTX *ctx)
{
	ctx->cb[3] += ctx->cb[2];
	return verdict(ctx);
}

SEC("action") int tc_action(CTX *ctx)
{
	ctx->mark ^= 0x10;
	return verdict(ctx);
}

SEC("tcx/ingress") int tc_ingress(CTX *ctx)
{
	ctx->cb[4] += ctx->ingress_ifindex + 1;
	return byte(ctx, 18) & 1 ? -1 : verdict(ctx);
}

SEC("tcx/egress") int tc_egress(CTX *ctx)
{
	leave(ctx, 4, ctx->mark);
	return verdict(ctx);
}
