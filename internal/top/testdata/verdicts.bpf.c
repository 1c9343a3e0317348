// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs that drop packets by their length.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

SEC("xdp")
int even(struct xdp_md *ctx)
{
	return (ctx->data_end - ctx->data) & 1 ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int small(struct xdp_md *ctx)
{
	return ctx->data_end - ctx->data > 100 ? XDP_DROP : XDP_PASS;
}
