// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// bpf_printk with few and with many arguments: formats are read-only data.
#include "corpus.h"

SEC("xdp") int printk(CTX *ctx)
{
	__u8 b = byte(ctx, 15);
	if (b == 0x77) {
		bpf_printk("byte %d", b);
		bpf_printk("%d %d %d %d %d", b, b + 1, b + 2, b + 3, b + 4);
	}
	char text[16];
	__u64 args[] = {b, b * 2};
	static const char fmt[] = "%u-%u";
	long n = bpf_snprintf(text, sizeof(text), fmt, args, sizeof(args));
	leave(ctx, 9, n + text[1]);
	return verdict(ctx);
}
