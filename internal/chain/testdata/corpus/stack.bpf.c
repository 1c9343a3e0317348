// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// All 512 bytes of stack.
#include "corpus.h"

SEC("xdp") int stack(CTX *ctx)
{
	__u64 b = byte(ctx, 15);
	asm volatile("*(u64 *)(r10 - 8) = %[b]\n"
		     "%[b] += 3\n"
		     "*(u64 *)(r10 - 512) = %[b]\n"
		     "%[b] = *(u64 *)(r10 - 8)\n"
		     "r0 = *(u64 *)(r10 - 512)\n"
		     "%[b] += r0\n"
		     : [b] "+r"(b)
		     :
		     : "r0", "memory");
	leave(ctx, 23, b);
	return verdict(ctx);
}
