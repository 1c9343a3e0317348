/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What programs written for L3AF have in common: maps that are pinned by
 * name, and an array of their own by which they call the next program.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

#define MAP(NAME, TYPE, KEY, VALUE, ENTRIES)		\
	struct {					\
		__uint(type, BPF_MAP_TYPE_##TYPE);	\
		__uint(key_size, sizeof(KEY));		\
		__uint(value_size, sizeof(VALUE));	\
		__uint(max_entries, ENTRIES);		\
		__uint(pinning, LIBBPF_PIN_BY_NAME);	\
	} NAME SEC(".maps")

#define NEXT(NAME) MAP(NAME, PROG_ARRAY, __u32, __u32, 1)

/* The destination port of a UDP packet over IPv4, in host byte order; 0 of others. */
static __always_inline __u16 udp_port(void *data, void *end)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != IPPROTO_UDP)
		return 0;
	return bpf_ntohs(udp->dest);
}

static __always_inline void add(void *map, void *key)
{
	__u64 *n = bpf_map_lookup_elem(map, key);

	if (n)
		__sync_fetch_and_add(n, 1);
}
