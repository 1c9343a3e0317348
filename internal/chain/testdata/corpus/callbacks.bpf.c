// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// bpf_loop, nested, and bpf_for_each_map_elem over an array and a hash.
#include "corpus.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 5);
	__type(key, __u32);
	__type(value, __u64);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct state {
	CTX *ctx;
	__u32 sum, n;
};

static long second(__u32 i, void *arg)
{
	struct state *s = arg;
	s->sum = s->sum * 5 + i;
	return 0;
}

static long first(__u32 i, void *arg)
{
	struct state *s = arg;
	s->sum += byte(s->ctx, i + 14);
	bpf_loop(i & 3, second, s, 0);
	return s->n++ > 20;
}

static long add(void *map, const void *key, void *value, void *arg)
{
	struct state *s = arg;
	s->sum += *(__u64 *)value;
	*(__u64 *)value += *(__u32 *)key + 1;
	return 0;
}

SEC("xdp") int callbacks(CTX *ctx)
{
	struct state s = {.ctx = ctx};
	__u32 key = byte(ctx, 15) & 31;
	__u64 one = 1;
	bpf_map_update_elem(&seen, &key, &one, BPF_NOEXIST);
	bpf_loop(byte(ctx, 16) & 31, first, &s, 0);
	bpf_for_each_map_elem(&slots, add, &s, 0);
	bpf_for_each_map_elem(&seen, add, &s, 0);
	leave(ctx, 2, s.sum);
	return verdict(ctx);
}
