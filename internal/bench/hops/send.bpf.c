// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What makes live packets in a test run: send sends them out of the interface
// they are said to come from, give gives them to the stack as received there.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("xdp")
int send(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp")
int give(struct xdp_md *ctx)
{
	return XDP_PASS;
}
