// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs of other kinds: another license, and probes.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Proprietary";

volatile const __u32 limit = 3;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

static __noinline void run(void)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&runs, &zero);
	if (n && *n < limit)
		*n += 1;
}

SEC("xdp") int closed(struct xdp_md *ctx) { return XDP_PASS; }

SEC("raw_tracepoint/sys_enter") int enter(struct bpf_raw_tracepoint_args *ctx)
{
	run();
	return 0;
}

SEC("tracepoint/sched/sched_process_exec") int exec(void *ctx)
{
	run();
	return 0;
}
