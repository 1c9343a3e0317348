// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Programs for the tests of internal/kernel: UDP to a port in the map deny is
// dropped, all else gets the verdict of the global; events are counted.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile int verdict = 2; // XDP_PASS; TC_ACT_SHOT

__u64 seen;                // .bss
volatile __u32 knob = 7;   // .data
volatile __u32 level = 9;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u16);
	__type(value, __u32);
} deny SEC(".maps");

static __always_inline int denied(void *data, void *end)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);

	__sync_fetch_and_add(&seen, 1);
	if (knob == level)
		return 0;
	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) ||
	    ip->ihl != 5 || ip->protocol != IPPROTO_UDP)
		return 0;
	__u16 port = bpf_ntohs(udp->dest);
	__u32 *hit = bpf_map_lookup_elem(&deny, &port);
	if (!hit)
		return 0;
	__sync_fetch_and_add(hit, 0);
	return 1;
}

SEC("xdp")
int gate(struct xdp_md *ctx)
{
	if (denied((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return XDP_DROP;
	return verdict;
}

SEC("tc")
int gate_tc(struct __sk_buff *ctx)
{
	bpf_skb_pull_data(ctx, sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct udphdr));
	if (denied((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return TC_ACT_SHOT;
	return verdict;
}

// Reads the packet without looking where it ends: the verifier rejects it.
SEC("xdp")
int careless(struct xdp_md *ctx)
{
	return *(__u8 *)(long)ctx->data;
}

SEC("tracepoint/sched/sched_process_exec")
int execs(void *ctx)
{
	__sync_fetch_and_add(&seen, 1);
	return 0;
}

SEC("uprobe")
int calls(void *ctx)
{
	__sync_fetch_and_add(&seen, 1);
	return 0;
}

SEC("raw_tracepoint/sched_process_exec")
int raw_execs(void *ctx)
{
	__sync_fetch_and_add(&seen, 1);
	return 0;
}
