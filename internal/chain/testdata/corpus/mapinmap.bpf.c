// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Maps of maps, filled by the object; an inner map is used directly as well.
#include "corpus.h"

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} one SEC(".maps"), two SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = {.values = {&one, 0, &two}};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(values, struct inner);
} byname SEC(".maps") = {.values = {[5] = &two}};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct inner);
} empty SEC(".maps");

SEC("xdp") int mapinmap(CTX *ctx)
{
	__u32 which = byte(ctx, 15) & 3, slot = byte(ctx, 16) & 3, five = 5;
	__u64 *n = bpf_map_lookup_elem(&one, &slot);
	if (n)
		*n += 1;
	void *m = bpf_map_lookup_elem(&outer, &which);
	if (m && (n = bpf_map_lookup_elem(m, &slot))) {
		*n += 16;
		leave(ctx, 10, *n);
	}
	m = bpf_map_lookup_elem(&byname, &five);
	if (m && (n = bpf_map_lookup_elem(m, &slot))) {
		*n += 256;
		leave(ctx, 11, *n >> 8);
	}
	m = bpf_map_lookup_elem(&empty, &slot);
	if (m)
		return XDP_ABORTED;
	return verdict(ctx);
}
