// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Tells of every packet in two ways. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum way { WAY_PERF, WAY_RING };

struct event {
	__u64 number;
	enum way way;
	char comm[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} perf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

/* So that BTF has the type. */
struct event last;

SEC("xdp")
int tell(struct xdp_md *ctx)
{
	last.number++;
	last.way = WAY_PERF;
	__builtin_memcpy(last.comm, "tell", 5);
	struct event e = last;

	bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &e, sizeof(e));
	e.way = WAY_RING;
	bpf_ringbuf_output(&ring, &e, sizeof(e), 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
