// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Maps to redirect to, all empty: the verdict is what the flags say.
#include "corpus.h"

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 8);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} sockets SEC(".maps");

SEC("xdp") int redirects(CTX *ctx)
{
	__u8 b = byte(ctx, 15);
	switch (b & 3) {
	case 0: return bpf_redirect_map(&devices, b >> 6, XDP_PASS);
	case 1: return bpf_redirect_map(&cpus, b >> 6, b & 0x10 ? XDP_DROP : XDP_PASS);
	case 2: return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
	}
	return verdict(ctx);
}
