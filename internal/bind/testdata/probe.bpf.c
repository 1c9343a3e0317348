// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A probe alone, and a tc program alone.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

__u64 count;

SEC("tp/sched/sched_process_exec")
int execs(void *ctx)
{
	__sync_fetch_and_add(&count, 1);
	return 0;
}

SEC("tc/egress")
int out(struct __sk_buff *skb)
{
	return 0;
}
