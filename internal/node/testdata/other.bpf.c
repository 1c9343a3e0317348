// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A second package for the tests of the node, without maps.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("xdp")
int other(struct xdp_md *ctx)
{
	return ctx->data_end - ctx->data > 60000 ? XDP_DROP : XDP_PASS;
}

SEC("tc")
int other_tc(struct __sk_buff *skb)
{
	return skb->len > 60000 ? 2 /* TC_ACT_SHOT */ : 0 /* TC_ACT_OK */;
}
