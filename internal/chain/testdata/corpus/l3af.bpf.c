// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Written for L3AF: after its work a program goes on with the next one through
// an array of its own, which whoever chains programs fills.
#include "corpus.h"

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, int);
} next_program SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

__u32 runs;

SEC("xdp") int l3af_xdp(CTX *ctx)
{
	__u32 key = byte(ctx, 15) & 3;
	__u64 *n = bpf_map_lookup_elem(&packets, &key);
	runs++;
	if (n)
		*n += 1;
	if (byte(ctx, 16) & 1)
		return XDP_DROP;
	leave(ctx, 30, runs);
	bpf_tail_call(ctx, &next_program, 0);
	return XDP_PASS;
}

// What stands behind the call is reached only where there is no next program.
SEC("xdp") int l3af_last(CTX *ctx)
{
	bpf_tail_call(ctx, &next_program, 0);
	return byte(ctx, 17) & 1 ? XDP_TX : XDP_PASS;
}
