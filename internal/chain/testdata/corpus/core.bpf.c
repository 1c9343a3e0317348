// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// CO-RE relocations of every kind: offsets, sizes, existence, enum values.
#include "corpus.h"
#include <bpf/bpf_core_read.h>

struct net_device___l3af {
	unsigned int mtu;
	int ifindex;
	int no_such_field;
} __attribute__((preserve_access_index));

struct no_such_type {
	int a;
} __attribute__((preserve_access_index));

enum bpf_map_type___l3af {
	BPF_MAP_TYPE_RINGBUF___l3af = 1000,
	BPF_MAP_TYPE_GONE___l3af = 1001,
};

SEC("xdp") int core(CTX *ctx)
{
	struct net_device___l3af *dev = 0;
	__u32 n = __builtin_preserve_field_info(dev->mtu, BPF_FIELD_BYTE_OFFSET) +
		  __builtin_preserve_field_info(dev->ifindex, BPF_FIELD_BYTE_SIZE) * 3 +
		  bpf_core_type_size(struct net_device___l3af) * 5;
	if (bpf_core_field_exists(dev->no_such_field) || bpf_core_type_exists(struct no_such_type) ||
	    bpf_core_enum_value_exists(enum bpf_map_type___l3af, BPF_MAP_TYPE_GONE___l3af))
		return XDP_ABORTED;
	n += bpf_core_enum_value(enum bpf_map_type___l3af, BPF_MAP_TYPE_RINGBUF___l3af);
	leave(ctx, 5, n ^ n >> 8);
	return verdict(ctx);
}
