/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Comparisons, shifts, divisions and byte swaps, for files that compile them for one version of the instructions each. */
#include "corpus.h"

__u64 TOTAL = 9;

static __noinline __s32 signs(__s32 a, __s32 b)
{
	__s64 wide = (__s64)a * b;
	if (a < b && a > -100)
		return (__u64)wide / (__u32)(b | 1);
	if ((__u32)a > (__u32)b)
		return (__u32)a % ((b & 7) + 1);
	return a >= 0 ? a >> 1 : -a;
}

SEC("xdp") int ENTRY(CTX *ctx)
{
	__s32 a = (__s8)byte(ctx, 15), b = (__s8)byte(ctx, 16);
	__u32 c = signs((__u32)a & 0xff, (__u32)b & 0x7f);
	if ((__s32)c < a || (c & 0x80000001) == 1)
		c ^= 0x55;
	switch (c & 15) {
	case 0: c += 3; break;
	case 1: c *= 7; break;
	case 2: c ^= TOTAL; break;
	case 3: c = __builtin_bswap32(c); break;
	case 4: c = __builtin_bswap16(c); break;
	case 7: TOTAL += c; break;
	case 9: return XDP_DROP;
	case 11: c <<= b & 31; break;
	case 13: c = (__s32)c >> 3; break;
	}
	TOTAL += c;
	leave(ctx, 15, TOTAL);
	return verdict(ctx);
}
