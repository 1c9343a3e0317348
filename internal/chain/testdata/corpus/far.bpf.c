// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A jump over more than 16 bits tell (gotol) and a loop that the verifier need
// not understand (may_goto), in bytes: this compiler knows neither.
#include "corpus.h"

SEC("xdp") int far(CTX *ctx)
{
	__u64 n = 0;
	asm volatile("%[n] = 1\n"
		     "if %[b] s> 100 goto +1\n"
		     ".byte 0x06, 0, 0, 0, 1, 0, 0, 0\n" // gotol +1
		     "%[n] = 2\n"
		     ".byte 0xe5, 0, 2, 0, 0, 0, 0, 0\n" // may_goto +2
		     "%[n] += 1\n"
		     "if %[n] < 100 goto -3\n"
		     : [n] "+r"(n)
		     : [b] "r"((__u64)byte(ctx, 15)));
	leave(ctx, 26, n);
	return verdict(ctx);
}
