// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The other kinds of maps: tries, queues, stacks, bloom filters, per-CPU and LRU.
#include "corpus.h"

struct address {
	__u32 bits;
	__u8 addr[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u32);
} trie SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 8);
	__type(value, __u32);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 8);
	__type(value, __u32);
} pile SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 100);
	__uint(map_extra, 3);
	__type(value, __u32);
} bloom SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} percpu SEC(".maps");

SEC("xdp") int tables(CTX *ctx)
{
	struct address a = {24, {10, 0, byte(ctx, 15) & 3, 0}};
	__u32 one = 1, n = byte(ctx, 16), out = 0, *v = bpf_map_lookup_elem(&trie, &a);
	if (v)
		*v += 1;
	else
		bpf_map_update_elem(&trie, &a, &one, BPF_ANY);
	bpf_map_push_elem(&queue, &n, BPF_EXIST);
	bpf_map_push_elem(&pile, &n, BPF_EXIST);
	if (n & 1)
		bpf_map_pop_elem(&queue, &out);
	if (n & 2)
		bpf_map_peek_elem(&pile, &out);
	bpf_map_push_elem(&bloom, &one, BPF_ANY);
	out += bpf_map_peek_elem(&bloom, &one);
	__u64 *p = bpf_map_lookup_elem(&percpu, &one);
	if (p)
		*p += out;
	leave(ctx, 27, out);
	return verdict(ctx);
}
