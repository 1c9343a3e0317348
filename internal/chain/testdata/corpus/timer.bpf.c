// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A timer with a callback: a function that the program points to and never calls.
#include "corpus.h"

struct value {
	struct bpf_timer timer;
	__u64 started;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct value);
} timers SEC(".maps");

__u64 fired;

static int fire(void *map, __u32 *key, struct value *v)
{
	__sync_fetch_and_add(&fired, 1);
	return 0;
}

SEC("xdp") int timer(CTX *ctx)
{
	__u32 zero = 0;
	struct value *v = bpf_map_lookup_elem(&timers, &zero);
	if (!v)
		return XDP_ABORTED;
	if (!v->started++) {
		bpf_timer_init(&v->timer, &timers, 1);
		bpf_timer_set_callback(&v->timer, fire);
	}
	bpf_timer_start(&v->timer, 3600000000000ull, 0);
	leave(ctx, 3, v->started);
	return verdict(ctx);
}
