// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Constants of every type, whose bytes the compiler lays out: the witness of
// what package value makes of the same constants written by people.
#include <linux/bpf.h>
#include <linux/in6.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#define __tag(x) __attribute__((btf_decl_tag(x)))

char _license[] SEC("license") = "Dual BSD/GPL";

const volatile __u8 a_u8 = 200;
const volatile __s8 a_s8 = -128;
const volatile __u16 a_u16 = 0xbeef;
const volatile __s32 a_s32 = -2;
const volatile __u64 a_u64 = 0xffffffffffffffff;
const volatile __s64 a_s64 = -9223372036854775807LL - 1;
const volatile unsigned __int128 an_u128 = ((unsigned __int128)0x0123456789abcdef << 64) | 0xfedcba9876543210;
const volatile __int128 an_s128 = -5;
const volatile bool a_bool = true;
const volatile float a_float = 1.5f;
const volatile double a_double = -2.25e100;
const volatile __be16 a_be16 = 0x5000; /* 80 on a little-endian machine */
const volatile __be32 a_be32 = 0x0100000a; /* 10.0.0.1 */
const volatile __u16 a_tagged __tag("l3af:be") = 0x5000;
const volatile char text[8] = "eth0";
const volatile char full[4] = { 'e', 't', 'h', '0' };
const volatile __u8 mac[6] = { 2, 0, 0, 0, 0xab, 1 };
const volatile __u8 v4[4] = { 192, 0, 2, 1 };
const volatile __u8 blob[3] = { 1, 0x80, 0xff };
const volatile __be32 words6[4] = { 0xb80d0120, 0, 0, 0x01000000 }; /* 2001:db8::1 */
const volatile struct in6_addr v6 = { .in6_u = { .u6_addr8 = { 0x20, 1, 0xd, 0xb8, [15] = 1 } } };
const volatile __u32 grid[2][3] = { { 1, 2 }, { 3 } };

enum color { COLOR_RED, COLOR_GREEN = 7, COLOR_BLUE = 0xfffffff0 };
const volatile enum color an_enum = COLOR_GREEN;
const volatile enum color high_enum = COLOR_BLUE;
enum level { LEVEL_LOW = -3, LEVEL_HIGH = 3 };
const volatile enum level a_signed_enum = LEVEL_LOW;

struct bits {
	__u32 a : 3;
	__s32 b : 5;
	__u32 c : 20;
	enum color d : 4;
	__u64 e : 40;
	bool f : 1;
};
const volatile struct bits bitfields = { .a = 5, .b = -9, .c = 0xabcde, .d = COLOR_GREEN, .e = 0x123456789a, .f = true };

typedef struct {
	__u8 kind;
	union {
		struct {
			__be32 addr;
			__be16 port;
		};
		__u8 mac[6];
	};
	struct {
		__s16 weight;
		char name[6];
	} peers[2];
	union {
		__u64 num;
		__u8 raw[8];
	} key;
	void *next;
} record_t;
const volatile record_t record = {
	.kind = 4,
	.addr = 0x0100000a,
	.port = 0x5000,
	.peers = { { -7, "a" }, { 300, "longer" } },
	.key = { .num = 99 },
};
const volatile record_t by_mac = { .mac = { 1, 2, 3, 4, 5, 6 } };

struct mapped {
	__u8 addr[16] __tag("l3af:v4mapped");
};
const volatile struct mapped a_mapped = { { [10] = 0xff, 0xff, 10, 0, 0, 1 } };

struct either {
	union {
		__be32 v4;
		struct in6_addr v6;
	} addr;
};
const volatile struct either either4 = { .addr = { .v4 = 0x0100000a } };
const volatile struct either either6 = { .addr = { .v6 = { .in6_u = { .u6_addr8 = { 0x20, 1, 0xd, 0xb8, [15] = 1 } } } } };

struct lpm4 {
	__u32 prefixlen;
	__be32 addr;
};
const volatile struct lpm4 trie4 = { 8, 0x0000000a };
struct lpm6 {
	__u32 prefixlen;
	__u8 addr[16];
} __tag("l3af:v4mapped");
const volatile struct lpm6 trie_mapped = { 104, { [10] = 0xff, 0xff, 10 } };
struct lpm_more {
	__u32 prefixlen;
	__u16 vlan;
	__u16 port;
};
const volatile struct lpm_more trie_more = { 16, 0x1234, 0 };

#define READ(x) sum += *(const volatile char *)&x

SEC("xdp")
int read_all(struct xdp_md *ctx)
{
	int sum = 0;

	READ(a_u8), READ(a_s8), READ(a_u16), READ(a_s32), READ(a_u64), READ(a_s64), READ(an_u128), READ(an_s128);
	READ(a_bool), READ(a_float), READ(a_double), READ(a_be16), READ(a_be32), READ(a_tagged), READ(text), READ(full);
	READ(mac), READ(v4), READ(blob), READ(words6), READ(v6), READ(grid), READ(an_enum), READ(high_enum);
	READ(a_signed_enum), READ(bitfields), READ(record), READ(by_mac), READ(a_mapped);
	READ(either4), READ(either6), READ(trie4), READ(trie_mapped), READ(trie_more);
	return sum;
}
