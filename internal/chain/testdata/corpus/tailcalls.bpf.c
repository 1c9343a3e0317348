// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Tail calls into an array that the object fills; some slots are empty.
#include "corpus.h"

__u64 trail;

int first(CTX *ctx);
int second(CTX *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, int(void *));
} programs SEC(".maps") = {.values = {[0] = (void *)&first, [2] = (void *)&second}};

static __noinline __u32 mix(__u32 a) { return a * 33 + 1; }

SEC("xdp") int first(CTX *ctx)
{
	trail = trail * 3 + 1;
	leave(ctx, 24, mix(trail));
	if (byte(ctx, 17) & 1)
		bpf_tail_call(ctx, &programs, 2);
	return verdict(ctx);
}

SEC("xdp") int second(CTX *ctx)
{
	trail = trail * 3 + 2;
	leave(ctx, 25, trail);
	return byte(ctx, 16) & 1 ? XDP_DROP : verdict(ctx);
}

SEC("xdp") int tailcalls(CTX *ctx)
{
	trail++;
	bpf_tail_call(ctx, &programs, byte(ctx, 15) & 3);
	trail += 1000;
	return verdict(ctx);
}
