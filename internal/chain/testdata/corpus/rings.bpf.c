// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Ring buffers: output, reserve and submit, reserve and discard, dynptr; perf events.
#include "corpus.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

SEC("xdp") int rings(CTX *ctx)
{
	__u64 *r = bpf_ringbuf_reserve(&ring, 16, 0);
	__u8 b = byte(ctx, 15);
	if (r) {
		r[0] = b;
		r[1] = ctx->data_end - ctx->data;
		if (b & 1)
			bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
		else
			bpf_ringbuf_discard(r, BPF_RB_NO_WAKEUP);
	}
	__u32 out = b;
	bpf_ringbuf_output(&ring, &out, sizeof(out), BPF_RB_NO_WAKEUP);
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &out, sizeof(out));
	struct bpf_dynptr p;
	if (!bpf_ringbuf_reserve_dynptr(&ring, 8 + (b & 7), 0, &p))
		bpf_dynptr_write(&p, 0, &out, sizeof(out), 0);
	bpf_ringbuf_discard_dynptr(&p, BPF_RB_NO_WAKEUP);
	return verdict(ctx);
}
