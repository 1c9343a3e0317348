// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Dynamic pointers into memory and into the packet.
#include "corpus.h"

extern int bpf_dynptr_from_xdp(CTX *ctx, __u64 flags, struct bpf_dynptr *p) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *p, __u32 offset, void *buf, __u32 size) __ksym;

__u8 room[32];

SEC("xdp") int dynptrs(CTX *ctx)
{
	struct bpf_dynptr mem, packet;
	__u8 buf[8] = {}, b = byte(ctx, 15), *at;
	bpf_dynptr_from_mem(room, sizeof(room), 0, &mem);
	bpf_dynptr_write(&mem, b & 15, &b, 1, 0);
	bpf_dynptr_read(buf, 4, &mem, b & 7, 0);
	if (bpf_dynptr_from_xdp(ctx, 0, &packet))
		return XDP_ABORTED;
	at = bpf_dynptr_slice(&packet, 18, buf + 4, 4);
	if (at)
		buf[0] ^= at[3];
	leave(ctx, 13, buf[0] + buf[1]);
	return verdict(ctx);
}
