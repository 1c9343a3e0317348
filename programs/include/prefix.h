/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses and prefixes of both families in one form: IPv4 is written as the
 * IPv6 address mapped from it, ::ffff:a.b.c.d, and its prefixes are 96 bits
 * longer. So 10.0.0.0/8 is ::ffff:10.0.0.0/104, and ::/0 is every address.
 */
#ifndef L3AF_PREFIX_H
#define L3AF_PREFIX_H

#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define v4mapped __attribute__((btf_decl_tag("l3af:v4mapped")))

/* Hides from the compiler what it knows of a value. */
#define opaque(x) asm volatile("" : "+r"(x))

struct address {
	__u32 word[4]; /* network order */
};

/* Key of a longest prefix match; written as 10.0.0.0/8 or fd00::/8 wherever it stands. */
struct prefix {
	__u32 prefixlen; /* 0 to 128 */
	__u8 addr[16] v4mapped;
} __attribute__((btf_decl_tag("l3af:prefix")));

/* zero is what its name says; it need not look so to the verifier. */
static __always_inline void map_ipv4(struct address *a, __be32 ip, __u32 zero)
{
	a->word[0] = zero;
	a->word[1] = zero;
	a->word[2] = zero | bpf_htonl(0xffff);
	a->word[3] = ip;
}

static __always_inline bool is_ipv4(const struct address *a)
{
	__u32 differ = a->word[0] | a->word[1] | (a->word[2] ^ bpf_htonl(0xffff));

	opaque(differ); /* one branch, from which nothing is learnt of the words */
	return !differ;
}

/* The bits of a prefix that are in the word at index i. */
static __always_inline __u32 prefix_mask(__u32 prefixlen, __u32 i)
{
	if (prefixlen >= 32 * (i + 1))
		return ~0;
	if (prefixlen <= 32 * i)
		return 0;
	return bpf_htonl(~0U << (32 * (i + 1) - prefixlen));
}

/* The key that finds the most specific prefix of an address. */
static __always_inline void prefix_of(struct prefix *p, const struct address *a)
{
	p->prefixlen = 128;
	__builtin_memcpy(p->addr, a, sizeof(p->addr));
}

#endif
