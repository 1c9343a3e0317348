// cflags: -g0
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Compiled without -g: no BTF, no lines, and maps of the old kind.
#include "corpus.h"

struct bpf_map_def {
	unsigned int type, key_size, value_size, max_entries, map_flags;
};

struct bpf_map_def SEC("maps") old = {
	.type = BPF_MAP_TYPE_HASH,
	.key_size = 4,
	.value_size = 8,
	.max_entries = 32,
};

struct bpf_map_def SEC("maps") oldarray = {BPF_MAP_TYPE_ARRAY, 4, 4, 2, 0};

static __u64 hidden;
__u32 factor = 3;
const volatile __u32 constant = 4;

static __noinline __u32 mix(__u32 a) { return a * 33 + (a >> 3) + constant; }

SEC("xdp") int plain(CTX *ctx)
{
	__u32 key = byte(ctx, 15) & 7, zero = 0, *m;
	__u64 one = 1, *n = bpf_map_lookup_elem(&old, &key);
	if (n)
		*n += 1;
	else
		bpf_map_update_elem(&old, &key, &one, BPF_ANY);
	if ((m = bpf_map_lookup_elem(&oldarray, &zero)))
		*m += mix(key);
	hidden += key * factor;
	leave(ctx, 16, hidden);
	return verdict(ctx);
}
