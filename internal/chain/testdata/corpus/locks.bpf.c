// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Spin locks in a map and in a global variable.
#include "corpus.h"

struct value {
	__u64 n;
	struct bpf_spin_lock lock;
	__u32 sum;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct value);
} values SEC(".maps");

struct bpf_spin_lock lock SEC(".data.guard");
__u64 guarded SEC(".data.guard");

SEC("xdp") int locks(CTX *ctx)
{
	__u32 key = byte(ctx, 15) & 3;
	struct value first = {}, *v = bpf_map_lookup_elem(&values, &key);
	if (!v) {
		bpf_map_update_elem(&values, &key, &first, BPF_NOEXIST);
		v = bpf_map_lookup_elem(&values, &key);
	}
	if (!v)
		return XDP_ABORTED;
	bpf_spin_lock(&v->lock);
	v->n++;
	v->sum += key;
	bpf_spin_unlock(&v->lock);
	bpf_spin_lock(&lock);
	guarded += key;
	bpf_spin_unlock(&lock);
	leave(ctx, 12, guarded);
	return verdict(ctx);
}
