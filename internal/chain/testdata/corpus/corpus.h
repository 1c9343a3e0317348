// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What every program of the corpus starts with. TC is defined for tc programs.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifdef TC
#define CTX struct __sk_buff
#else
#define CTX struct xdp_md
#endif

char _license[] SEC("license") = "Dual BSD/GPL";

// byte is a byte of the packet, 0xff beyond its end.
static __always_inline __u8 byte(CTX *ctx, __u32 at)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	at &= 0xff;
	return data + at + 1 <= end ? data[at] : 0xff;
}

// verdict lets packets pass, but for some of those whose byte at 14 is high.
static __always_inline int verdict(CTX *ctx)
{
	__u8 b = byte(ctx, 14);
#ifdef TC
	return b >= 0xf8 ? b & 3 : 0;
#else
	return b >= 0xf8 ? b & 3 : XDP_PASS;
#endif
}

// leave writes a result where the test sees it: into the packet.
static __always_inline void leave(CTX *ctx, __u32 at, __u8 b)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (data + 64 <= end)
		data[16 + (at & 31)] ^= b;
}
