/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reads the headers of Ethernet frames, the same for XDP and TC: up to two VLAN
 * tags, IPv4 with options, IPv6 with extension headers, fragments, and the
 * ports of layer 4.
 */
#ifndef L3AF_PACKET_H
#define L3AF_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "prefix.h"

/* IP protocol numbers, by the names people give them. */
enum ip_protocol {
	any = 0,
	icmp = 1,
	igmp = 2,
	tcp = 6,
	udp = 17,
	dccp = 33,
	gre = 47,
	esp = 50,
	ah = 51,
	icmpv6 = 58,
	ospf = 89,
	pim = 103,
	vrrp = 112,
	sctp = 132,
	udplite = 136,
};

#define MAX_TAGS 2
#define MAX_EXTENSIONS 8	/* IPv6 extension headers */
#define MAX_EXTENSION_BYTES 512 /* all of them together */
/* Every header of a frame that is not malformed lies in its first bytes. */
#define MAX_HEADERS (sizeof(struct ethhdr) + MAX_TAGS * 4 + sizeof(struct ipv6hdr) + MAX_EXTENSION_BYTES + 20)

#define IP_OFFSET 0x1fff

enum parsed {
	PARSED,
	NOT_IP,
	MALFORMED,
	TRUNCATED, /* malformed, unless there are bytes after data_end */
};

struct packet {
	struct address from, to;
	__u16 ethertype; /* after the tags, host order */
	__u16 vlan;	 /* id of the outermost tag; 0 when there is none */
	__u16 from_port; /* host order; of no meaning unless has_ports and not fragment */
	__u16 to_port;
	__u8 protocol;	/* after the extension headers */
	__u8 has_ports; /* 1: the protocol is one with ports */
	__u8 fragment;	/* 1: not the first, the layer 4 header is elsewhere */
};

struct cursor {
	void *pos;
	void *end;
	__u32 big;   /* length of the frame above 64 KiB: such an aggregate (BIG TCP) has none in its IP header */
	__u32 noise; /* any number that the verifier does not know */
};

/* What parse_network leaves for parse_transport. */
struct network {
	__u32 left;	/* bytes after the cursor, as the IP header says */
	__u16 fragment; /* offset, in 8 bytes */
	__u8 next;
};

/*
 * Gives x, of which the verifier then only knows that it is at most mask. Paths
 * that differ in what is known of x become one again, so that the rest of the
 * program is verified once and not once for every way that leads there.
 */
static __always_inline __u32 forget(const struct cursor *c, __u32 x, __u32 mask)
{
	x ^= c->noise;
	opaque(x);
	return (x ^ c->noise) & mask;
}

/*
 * Reads up to the fixed IP header and, in IPv4, its options. tags is how many
 * VLAN tags may follow. from and to are set when it returns PARSED.
 */
static __always_inline enum parsed parse_network(struct cursor *c, int tags, struct packet *p, struct network *n)
{
	struct ethhdr *eth = c->pos;
	__u16 type;

	if ((void *)(eth + 1) > c->end)
		return TRUNCATED;
	type = eth->h_proto;
	c->noise = c->end - c->pos;
	c->pos = eth + 1;
	for (int i = 0; i < MAX_TAGS; i++) {
		struct {
			__be16 tci, type;
		} *tag = c->pos;

		if (i >= tags || (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD)))
			break;
		if ((void *)(tag + 1) > c->end)
			return TRUNCATED;
		if (tags == MAX_TAGS && i == 0)
			p->vlan = bpf_ntohs(tag->tci) & 0xfff;
		type = tag->type;
		c->pos = tag + 1;
	}
	p->ethertype = bpf_ntohs(type);
	c->pos = (void *)eth + forget(c, c->pos - (void *)eth, 31);
	p->vlan = forget(c, p->vlan, 0xfff);

	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = c->pos;
		__u32 head, total;

		if ((void *)(ip + 1) > c->end)
			return TRUNCATED;
		head = ip->ihl * 4;
		total = bpf_ntohs(ip->tot_len) + c->big;
		if (ip->version != 4 || head < sizeof(*ip) || total < head)
			return MALFORMED;
		if (c->pos + head > c->end)
			return TRUNCATED;
		map_ipv4(&p->from, ip->saddr, forget(c, 0, ~0));
		map_ipv4(&p->to, ip->daddr, forget(c, 0, ~0));
		n->left = total - head;
		n->fragment = bpf_ntohs(ip->frag_off) & IP_OFFSET;
		n->next = ip->protocol;
		c->pos += head;
		return PARSED;
	}
	if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = c->pos;

		if ((void *)(ip + 1) > c->end)
			return TRUNCATED;
		if (ip->version != 6)
			return MALFORMED;
		__builtin_memcpy(&p->from, &ip->saddr, sizeof(p->from));
		__builtin_memcpy(&p->to, &ip->daddr, sizeof(p->to));
		/* On the wire such an address could only pass for the IPv4 one. */
		if (is_ipv4(&p->from) || is_ipv4(&p->to))
			return MALFORMED;
		n->left = bpf_ntohs(ip->payload_len) + c->big;
		n->fragment = 0;
		n->next = ip->nexthdr;
		c->pos = ip + 1;
		return PARSED;
	}
	return NOT_IP;
}

/* Extension headers by their number: hop-by-hop, routing, fragment, authentication and destination options. */
#define EXTENSIONS (1ULL << 0 | 1ULL << 43 | 1ULL << 44 | 1ULL << 51 | 1ULL << 60)

/* 1 when a byte is this number, else 0; without a branch, which would double the verifier's work at each header. */
static __always_inline __u32 equal(__u32 byte, __u32 number)
{
	byte ^= number;
	opaque(byte);
	byte = (byte - 1) >> 31;
	opaque(byte);
	return byte;
}

static __always_inline enum parsed skip_extensions(struct cursor *c, struct network *n)
{
	__u64 extensions = EXTENSIONS;
	__u32 all = 0;

	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		struct {
			__u8 next, len;
			__be16 fragment;
			__be32 id;
		} *ext = c->pos;
		__u32 is_fragment, is_auth, len;

		opaque(extensions);
		if (n->next > 63 || !(extensions >> n->next & 1) || n->fragment)
			return PARSED;
		if (i == MAX_EXTENSIONS || n->left < sizeof(*ext))
			return MALFORMED;
		if ((void *)(ext + 1) > c->end)
			return TRUNCATED;
		is_fragment = equal(n->next, 44);
		is_auth = equal(n->next, 51);
		n->fragment = bpf_ntohs(ext->fragment) >> 3 & -is_fragment;
		/* In 8 bytes, less one (RFC 8200); authentication: in 4, less two (RFC 4302); a fragment's is reserved. */
		len = ((ext->len & (is_fragment - 1)) + 1 + is_auth) * (8 - 4 * is_auth);
		all += len;
		if (all > MAX_EXTENSION_BYTES || len > n->left)
			return MALFORMED;
		if (c->pos + len > c->end)
			return TRUNCATED;
		n->next = ext->next;
		n->left -= len;
		c->pos += len;
	}
	return MALFORMED;
}

/* Reads from the end of the IP header to the ports. */
static __always_inline enum parsed parse_transport(struct cursor *c, struct packet *p, struct network *n)
{
	struct {
		__be16 from, to;
	} *ports;
	__u32 need;

	n->left = forget(c, n->left, ~0);
	if (p->ethertype == ETH_P_IPV6) {
		enum parsed r = skip_extensions(c, n);

		if (r != PARSED)
			return r;
	}
	p->protocol = forget(c, n->next, 0xff);
	n->left = forget(c, n->left, ~0);
	switch (n->next) {
	case tcp:
		need = 20;
		break;
	case sctp:
	case dccp:
		need = 12;
		break;
	case udp:
	case udplite:
		need = 8;
		break;
	default:
		p->fragment = n->fragment != 0;
		return PARSED;
	}
	p->has_ports = 1;
	if (n->fragment) {
		p->fragment = 1;
		/* It could overwrite the flags of a header already let through (RFC 3128). */
		return n->next == tcp && n->fragment == 1 ? MALFORMED : PARSED;
	}
	need = forget(c, need, 31);
	if (n->left < need)
		return MALFORMED;
	ports = c->pos;
	if ((void *)(ports + 1) > c->end)
		return TRUNCATED;
	if (c->pos + need > c->end)
		return TRUNCATED;
	p->from_port = bpf_ntohs(ports->from);
	p->to_port = bpf_ntohs(ports->to);
	return PARSED;
}

/* How much of a frame is read. */
enum depth {
	NETWORK,   /* addresses */
	TRANSPORT, /* and ports */
};

static __always_inline enum parsed parse(struct cursor *c, int tags, enum depth depth, struct packet *p)
{
	struct network n = {};
	enum parsed r = parse_network(c, tags, p, &n);

	if (r != PARSED || depth == NETWORK)
		return r;
	r = parse_transport(c, p, &n);
	p->from_port = forget(c, p->from_port, 0xffff);
	p->to_port = forget(c, p->to_port, 0xffff);
	p->has_ports = forget(c, p->has_ports, 1);
	p->fragment = forget(c, p->fragment, 1);
	return r;
}

static __always_inline enum parsed parse_xdp(struct xdp_md *ctx, enum depth depth, struct packet *p)
{
	struct cursor c = {
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};

	return parse(&c, MAX_TAGS, depth, p);
}

/*
 * The outermost tag is in the socket buffer, not in the bytes, where the
 * kernel or the device has taken it out. When the headers go on after the
 * linear data, it is pulled and they are read once more.
 */
static __always_inline enum parsed parse_skb(struct __sk_buff *skb, enum depth depth, struct packet *p)
{
	enum parsed r = TRUNCATED;

	for (int i = 0; i < 2; i++) {
		struct cursor c = {
			.pos = (void *)(long)skb->data,
			.end = (void *)(long)skb->data_end,
			.big = skb->len & ~0xffff,
		};
		__u32 linear = c.end - c.pos, len = skb->len;
		__u32 out = skb->vlan_present & 1;

		*p = (struct packet){.vlan = skb->vlan_tci & 0xfff & -out};
		r = parse(&c, MAX_TAGS - out, depth, p);
		if (r != TRUNCATED || linear >= len || linear >= MAX_HEADERS)
			break;
		if (bpf_skb_pull_data(skb, len < MAX_HEADERS ? len : MAX_HEADERS))
			break;
	}
	return r;
}

#endif
