// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A program that says something, and one that its section attaches.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

SEC("xdp")
int speaks(struct xdp_md *ctx)
{
	bpf_printk("l3af test: packet of %u bytes", ctx->data_end - ctx->data);
	return XDP_PASS;
}

SEC("tracepoint/syscalls/sys_enter_getpgid")
int counts(void *ctx)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&calls, &zero);

	if (n)
		__sync_fetch_and_add(n, 1);
	return 0;
}
