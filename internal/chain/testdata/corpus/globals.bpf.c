// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Variables in every kind of section, custom ones and string literals too.
#include "corpus.h"

const volatile __u32 factor = 3;
static const __u8 table[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};
__u64 start = 1000;
__u32 counts[8];
static __u64 hidden;
__u32 custom SEC(".data.custom") = 77;
__u32 zeroed;
const volatile __u32 fixed SEC(".rodata.custom") = 11;

SEC("xdp") int globals(CTX *ctx)
{
	__u8 b = byte(ctx, 15);
	static const char text[] = "a text of the program";
	start += b * factor + table[b & 15];
	counts[b & 7]++;
	hidden = hidden * 31 + b;
	custom ^= hidden;
	zeroed += fixed + text[b & 15];
	leave(ctx, 6, start + hidden + custom + zeroed);
	return verdict(ctx);
}
