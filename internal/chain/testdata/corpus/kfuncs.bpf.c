// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Functions of the kernel: iterators, RCU, casts of the context.
#include "corpus.h"

struct bpf_iter_num {
	__u64 opaque;
} __attribute__((aligned(8)));

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym;
extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

struct xdp_buff {
	void *data, *data_end;
} __attribute__((preserve_access_index));

SEC("xdp") int kfuncs(CTX *ctx)
{
	struct bpf_iter_num it;
	__u32 sum = 0;
	int *i;
	bpf_iter_num_new(&it, 0, 10);
	while ((i = bpf_iter_num_next(&it)))
		sum += *i;
	bpf_iter_num_destroy(&it);
	struct xdp_buff *kernel = bpf_cast_to_kern_ctx(ctx);
	bpf_rcu_read_lock();
	sum += kernel->data_end - kernel->data;
	bpf_rcu_read_unlock();
	leave(ctx, 4, sum);
	return verdict(ctx);
}
