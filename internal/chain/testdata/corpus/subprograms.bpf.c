// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Static and global subprograms, three deep, with context and memory arguments.
#include "corpus.h"

struct pair {
	__u32 a, b;
};

static __noinline __u32 inner(__u32 a)
{
	volatile __u32 room[4] = {a, a * 3, 5, 7};
	return room[a & 3];
}

static __noinline __u32 middle(CTX *ctx, __u32 a) { return inner(a) + byte(ctx, a) + inner(a + 1); }

__noinline int mixed(CTX *ctx, __u32 a) { return middle(ctx, a) * 31 + inner(a ^ 1); }

__noinline int into(struct pair *p)
{
	if (!p)
		return 0;
	p->b += p->a * 7;
	return p->b;
}

SEC("xdp") int subprograms(CTX *ctx)
{
	struct pair p = {byte(ctx, 15), byte(ctx, 16)};
	__u32 n = mixed(ctx, p.a) + middle(ctx, p.b) + into(&p);
	leave(ctx, 0, n + p.b);
	return verdict(ctx);
}

// The second program of the object shares the first one's functions.
SEC("xdp") int subprograms_too(CTX *ctx)
{
	leave(ctx, 1, mixed(ctx, byte(ctx, 17)));
	return verdict(ctx);
}
