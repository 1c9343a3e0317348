// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Asks the device about the packet: the kernel loads it for one device only.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

extern int bpf_xdp_metadata_rx_timestamp(const struct xdp_md *ctx, __u64 *timestamp) __ksym;

SEC("xdp") int timestamp(struct xdp_md *ctx)
{
	__u64 when = 0;

	if (bpf_xdp_metadata_rx_timestamp(ctx, &when))
		return XDP_DROP;
	return when ? XDP_PASS : XDP_ABORTED;
}
