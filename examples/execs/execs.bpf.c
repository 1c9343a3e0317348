// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts the programs that the machine executes, by the name each then has. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define COMM_LEN 16 /* TASK_COMM_LEN of the kernel */

struct comm {
	char name[COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct comm);
	__type(value, __u64);
} execs_by_comm SEC(".maps");

static __always_inline int count(void)
{
	struct comm comm = {};
	__u64 *n, one = 1;

	bpf_get_current_comm(&comm, sizeof(comm));
	n = bpf_map_lookup_elem(&execs_by_comm, &comm);
	if (!n && !bpf_map_update_elem(&execs_by_comm, &comm, &one, BPF_NOEXIST))
		return 0;
	if (!n) /* another CPU was first */
		n = bpf_map_lookup_elem(&execs_by_comm, &comm);
	if (n)
		__sync_fetch_and_add(n, 1);
	return 0;
}

SEC("tracepoint/sched/sched_process_exec")
int execs(void *ctx)
{
	return count();
}

SEC("raw_tracepoint/sched_process_exec")
int execs_raw(void *ctx)
{
	return count();
}

char _license[] SEC("license") = "Dual BSD/GPL";
