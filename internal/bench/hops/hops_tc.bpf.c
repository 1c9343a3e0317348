// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// hops.bpf.c for TC: alone (one_N) and merged by hand (merged_N), up to the 63
// programs that the kernel lets one TCX hook have.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include "hops.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int hop(struct __sk_buff *ctx, __u32 bound)
{
	void *data, *end;

	// Where it sees the loads clang shares the address of their fields among merged
	// programs, which the verifier refuses; and see hops.bpf.c.
	asm volatile("%[end] = *(u32 *)(%[ctx] + %[at_end])\n\t"
		     "%[data] = *(u32 *)(%[ctx] + %[at_data])"
		     : [data] "=r"(data), [end] "=&r"(end)
		     : [ctx] "r"(ctx), [at_data] "i"(offsetof(struct __sk_buff, data)),
		       [at_end] "i"(offsetof(struct __sk_buff, data_end)));
	return data + bound > end ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#define ONE(n) SEC("tc") int one_##n(struct __sk_buff *ctx) { return hop(ctx, BOUND(n)); }
SIXTY_THREE(ONE)

#define MERGE(n) if (hop(ctx, BOUND(n)) != TC_ACT_UNSPEC) return TC_ACT_SHOT;
#define CHAIN(name, body) SEC("tc") int name(struct __sk_buff *ctx) { body return TC_ACT_UNSPEC; }
CHAIN(merged_1, MERGE(10))
CHAIN(merged_2, MERGE(10) MERGE(11))
CHAIN(merged_5, FIVE(MERGE))
CHAIN(merged_10, TEN(MERGE, 1))
CHAIN(merged_20, TEN(MERGE, 1) TEN(MERGE, 2))
CHAIN(merged_50, FIFTY(MERGE))
CHAIN(merged_63, SIXTY_THREE(MERGE))
