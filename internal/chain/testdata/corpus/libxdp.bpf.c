// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Written for libxdp: what it proceeds on, and where it wants to run, is in BTF.
#include "corpus.h"

#define RUN_CONFIG(name) _##name SEC(".xdp_run_config")

struct {
	__uint(priority, 10);
	__uint(XDP_PASS, 1);
	__uint(XDP_TX, 1);
	__uint(XDP_DROP, 0);
} RUN_CONFIG(libxdp_tx);

SEC("xdp") int libxdp_tx(CTX *ctx)
{
	leave(ctx, 31, byte(ctx, 15));
	return byte(ctx, 16) & 1 ? XDP_TX : XDP_PASS;
}

SEC("xdp") int libxdp_silent(CTX *ctx) { return verdict(ctx); }
