// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Atomic operations of both sizes, on maps and on the stack.
#include "corpus.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} words SEC(".maps");

__u32 half = 5;

SEC("xdp") int atomics(CTX *ctx)
{
	__u32 key = byte(ctx, 15) & 3;
	__u64 b = byte(ctx, 16), onstack = 7, *w = bpf_map_lookup_elem(&words, &key);
	if (!w)
		return XDP_ABORTED;
	__u64 was = __sync_fetch_and_add(w, b);
	was += __sync_fetch_and_or(w, 0x10);
	was ^= __sync_fetch_and_and(w, ~0x2ull);
	was += __sync_fetch_and_xor(w, b << 3);
	was += __sync_lock_test_and_set(&onstack, b);
	was += __sync_val_compare_and_swap(w, was & 1 ? *w : 0, was);
	was += __sync_fetch_and_add(&half, 3);
	was += __sync_val_compare_and_swap(&half, 20, 1);
	leave(ctx, 14, was + onstack);
	return verdict(ctx);
}
