// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Counts packets and bytes by direction, layer 3 and layer 4 protocol, and
 * lets everything through. Every CPU counts for itself.
 */
#include <linux/pkt_cls.h>

#include "packet.h"

enum stats_direction {
	ingress,
	egress,
};

enum stats_network {
	other,
	arp,
	ipv4,
	ipv6,
	malformed,
};

struct traffic_key {
	enum stats_direction direction;
	enum stats_network network;
	enum ip_protocol protocol; /* any unless IP */
};

struct traffic {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 2 * (2 * 256 + 3)); /* every key there can be */
	__type(key, struct traffic_key);
	__type(value, struct traffic);
} traffic SEC(".maps");

static __always_inline void count(enum stats_direction direction, enum parsed parsed, const struct packet *p, __u64 bytes)
{
	struct traffic_key key = {.direction = direction, .network = malformed};
	struct traffic *t;

	if (parsed == PARSED) {
		key.network = p->ethertype == ETH_P_IP ? ipv4 : ipv6;
		key.protocol = p->protocol;
	} else if (parsed == NOT_IP) {
		key.network = p->ethertype == ETH_P_ARP ? arp : other;
	}
	t = bpf_map_lookup_elem(&traffic, &key);
	if (!t) {
		struct traffic zero = {};

		bpf_map_update_elem(&traffic, &key, &zero, BPF_NOEXIST);
		t = bpf_map_lookup_elem(&traffic, &key);
		if (!t)
			return;
	}
	t->packets++;
	t->bytes += bytes;
}

SEC("xdp.frags")
int stats(struct xdp_md *ctx)
{
	struct packet p = {};
	enum parsed parsed = parse_xdp(ctx, TRANSPORT, &p);

	count(ingress, parsed, &p, bpf_xdp_get_buff_len(ctx));
	return XDP_PASS;
}

static __always_inline int stats_tc(struct __sk_buff *skb, enum stats_direction direction)
{
	struct packet p = {};
	enum parsed parsed = parse_skb(skb, TRANSPORT, &p);

	/* The tag that is not in the bytes was, or will be, on the wire. */
	count(direction, parsed, &p, skb->len + (skb->vlan_present ? 4 : 0));
	return TC_ACT_UNSPEC;
}

SEC("tcx/ingress")
int stats_ingress(struct __sk_buff *skb)
{
	return stats_tc(skb, ingress);
}

SEC("tcx/egress")
int stats_egress(struct __sk_buff *skb)
{
	return stats_tc(skb, egress);
}

char _license[] SEC("license") = "Dual BSD/GPL";
