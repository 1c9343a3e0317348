// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The same small program a hundred times over, composed in every way there is:
// alone (one_N), merged by hand (merged_N), as tail calls (tail_N), as calls
// of global functions (calls_N). Each reads the packet's bounds and drops what is
// too short for it: what is measured is the way from program to program.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "hops.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int hop(struct xdp_md *ctx, __u32 bound)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	// Keeps the checks of merged programs apart and in order: clang would make
	// one expression of them that the verifier gives up on.
	asm volatile("");
	return data + bound > end ? XDP_DROP : XDP_PASS;
}

#define ONE(n) SEC("xdp") int one_##n(struct xdp_md *ctx) { return hop(ctx, BOUND(n)); }
HUNDRED(ONE)

#define TAIL(n)                                                        \
	struct {                                                       \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);                 \
		__uint(max_entries, 1);                                \
		__type(key, __u32);                                    \
		__type(value, __u32);                                  \
	} next_##n SEC(".maps");                                       \
	SEC("xdp") int tail_##n(struct xdp_md *ctx)                    \
	{                                                              \
		int verdict = hop(ctx, BOUND(n));                    \
		if (verdict != XDP_PASS)                               \
			return verdict;                                \
		bpf_tail_call(ctx, &next_##n, 0);                      \
		return XDP_PASS;                                       \
	}
TEN(TAIL, 1) TEN(TAIL, 2) TEN(TAIL, 3) TAIL(40) TAIL(41) TAIL(42)

#define FUNCTION(n) __noinline int function_##n(struct xdp_md *ctx) { return hop(ctx, BOUND(n)); }
HUNDRED(FUNCTION)

#define CALL(n) if (function_##n(ctx) != XDP_PASS) return XDP_DROP;
#define MERGE(n) if (hop(ctx, BOUND(n)) != XDP_PASS) return XDP_DROP;

#define CHAIN(name, body) SEC("xdp") int name(struct xdp_md *ctx) { body return XDP_PASS; }
CHAIN(merged_1, MERGE(10))
CHAIN(merged_2, MERGE(10) MERGE(11))
CHAIN(merged_5, FIVE(MERGE))
CHAIN(merged_10, TEN(MERGE, 1))
CHAIN(merged_20, TEN(MERGE, 1) TEN(MERGE, 2))
CHAIN(merged_50, FIFTY(MERGE))
CHAIN(merged_100, HUNDRED(MERGE))
CHAIN(calls_1, CALL(10))
CHAIN(calls_2, CALL(10) CALL(11))
CHAIN(calls_5, FIVE(CALL))
CHAIN(calls_10, TEN(CALL, 1))
CHAIN(calls_20, TEN(CALL, 1) TEN(CALL, 2))
CHAIN(calls_50, FIFTY(CALL))
CHAIN(calls_100, HUNDRED(CALL))
