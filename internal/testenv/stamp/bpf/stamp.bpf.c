// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Programs for the test of changes under load. Each puts its mark on a numbered
// packet: XDP in the metadata before it, TC in the mark and control block of
// the skb. A program checks that those before it in the chain, and no others,
// were here; the last writes what all found into the packet.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#ifndef VERSION
#define VERSION 1
#endif
#define PORT 4243

const volatile __u32 generation; // of the chain
const volatile __u32 position;   // in the chain, from 0
const volatile __u32 total;      // programs of the chain
const volatile __u32 salt;       // of this program

__u64 seen; // numbered packets

// What is found on the way, and in the packet behind its number and the
// oldest generation it may meet.
struct stamp {
	__u32 generation;
	__u32 count; // programs that ran
	__u32 odd;   // MIXED, MISPLACED
	__u32 sum;   // of what each program adds
};
#define MIXED 1     // a program of another generation was here
#define MISPLACED 2 // another number of programs than lie before this one was here

struct numbered {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__u64 number;
	__u32 floor;
	struct stamp stamp;
} __attribute__((packed));

static __always_inline int is_numbered(struct numbered *p)
{
	return p->eth.h_proto == bpf_htons(ETH_P_IP) && p->ip.ihl == 5 && p->ip.protocol == IPPROTO_UDP &&
	       p->udp.dest == bpf_htons(PORT);
}

#if VERSION == 1
static __always_inline __u32 adds(void)
{
	return salt + 1;
}
#else
// The same in another way, with a function and a loop.
static __noinline __u32 adds(void)
{
	volatile __u32 n = salt;

	for (int i = 0; i < VERSION; i++)
		n++;
	return n;
}
#endif

static __always_inline void mark(struct stamp *s)
{
	__sync_fetch_and_add(&seen, 1);
	if (position == 0) {
		if (s->count)
			s->odd |= MISPLACED;
		s->generation = generation;
	}
	if (s->generation != generation)
		s->odd |= MIXED;
	if (s->count != position)
		s->odd |= MISPLACED;
	s->count++;
	s->sum += adds();
}

static __always_inline int mark_xdp(struct xdp_md *ctx)
{
	struct numbered *p = (void *)(long)ctx->data;
	struct stamp *s = (void *)(long)ctx->data_meta;

	if ((void *)(p + 1) > (void *)(long)ctx->data_end || !is_numbered(p))
		return XDP_PASS;
	if ((void *)(s + 1) > (void *)p) {
		if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*s)))
			return XDP_ABORTED;
		p = (void *)(long)ctx->data;
		s = (void *)(long)ctx->data_meta;
		if ((void *)(p + 1) > (void *)(long)ctx->data_end || (void *)(s + 1) > (void *)p)
			return XDP_ABORTED;
		__builtin_memset(s, 0, sizeof(*s));
	}
	mark(s);
	if (position + 1 == total)
		__builtin_memcpy(&p->stamp, s, sizeof(*s));
	return XDP_PASS;
}

static __always_inline int mark_tc(struct __sk_buff *ctx)
{
	struct numbered p;
	struct stamp s = {};

	if (bpf_skb_load_bytes(ctx, 0, &p, sizeof(p)) || !is_numbered(&p))
		return TC_ACT_UNSPEC;
	if (ctx->mark) {
		s.generation = ctx->cb[0];
		s.odd = ctx->cb[1];
		s.sum = ctx->cb[2];
		s.count = ctx->mark;
	}
	mark(&s);
	ctx->cb[0] = s.generation;
	ctx->cb[1] = s.odd;
	ctx->cb[2] = s.sum;
	ctx->mark = s.count;
	if (position + 1 == total) {
		ctx->mark = 0;
		if (bpf_skb_store_bytes(ctx, offsetof(struct numbered, stamp), &s, sizeof(s), 0))
			return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}

SEC("xdp")
int stamp(struct xdp_md *ctx)
{
	return mark_xdp(ctx);
}

SEC("tc")
int stamp_tc(struct __sk_buff *ctx)
{
	return mark_tc(ctx);
}

// The same with so many maps that a segment has room for one of them.
#define EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15) \
	M(16) M(17) M(18) M(19) M(20) M(21) M(22) M(23) M(24) M(25) M(26) M(27) M(28) M(29) M(30)
#define MAP(n)                                       \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_ARRAY);    \
		__uint(max_entries, 1);              \
		__type(key, __u32);                  \
		__type(value, __u32);                \
	} map_##n SEC(".maps");
EACH(MAP)

#define TOUCH(n) bpf_map_lookup_elem(&map_##n, &zero);

SEC("xdp")
int wide(struct xdp_md *ctx)
{
	__u32 zero = 0;

	EACH(TOUCH)
	return mark_xdp(ctx);
}

SEC("tc")
int wide_tc(struct __sk_buff *ctx)
{
	__u32 zero = 0;

	EACH(TOUCH)
	return mark_tc(ctx);
}
