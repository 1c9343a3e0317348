// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Maps of every type that has entries, with types that are hard to print. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

typedef char letter;

enum act { ACT_PASS, ACT_DROP = 5 };
enum sign { SIGN_MINUS = -1, SIGN_NONE, SIGN_PLUS };

struct flow {
	__u32 ip;
	__u16 port;
	__u8 proto;
	__u8 pad;
};

struct all {
	__u64 packets;
	long long delta;
	short small;
	enum act act, other;
	enum sign sign;
	unsigned f1 : 3, f2 : 7;
	int f3 : 5;
	unsigned long long wide : 42;
	bool seen;
	char comm[16];
	letter letters[4];
	signed char sc;
	__u8 mac[6];
	union {
		__u32 v4;
		__u16 h[2];
	} u;
	union {
		int x;
		char y[4];
	};
	struct {
		short q;
	};
	int grid[2][3];
	void *ptr;
	struct all *self;
	__int128 big;
	unsigned __int128 ubig;
	const volatile int cv;
	__u8 tagged __attribute__((btf_decl_tag("l3af:test")));
	int __attribute__((btf_type_tag("user"))) *user;
	char none[0];
};

struct prefix {
	__u32 prefixlen;
	__u8 addr[4];
};

struct real {
	float f;
	double d;
	__u32 n;
};

#define MAP(name, kind, entries, k, v)           \
	struct {                                 \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(max_entries, entries);    \
		__type(key, k);                  \
		__type(value, v);                \
	} name SEC(".maps")

MAP(hash, HASH, 64, struct flow, struct all);
MAP(array, ARRAY, 3, __u32, struct all);
MAP(lru, LRU_HASH, 64, struct flow, struct flow);
MAP(percpu_array, PERCPU_ARRAY, 3, __u32, struct all);
MAP(percpu_hash, PERCPU_HASH, 64, struct flow, __u32);
MAP(lru_percpu, LRU_PERCPU_HASH, 64, __u64, struct flow);
MAP(devmap, DEVMAP, 2, __u32, __u32);
MAP(devhash, DEVMAP_HASH, 2, __u32, __u32);
MAP(cpumap, CPUMAP, 2, __u32, __u32);
MAP(jumps, PROG_ARRAY, 3, __u32, __u32);
MAP(events, PERF_EVENT_ARRAY, 2, __u32, __u32);
MAP(real, HASH, 4, __u32, struct real);

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, enum act);
} trie SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, struct flow);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 4);
	__type(value, struct flow);
} stack SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 4);
	__type(value, struct flow);
} bloom SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct inner);
} arrays SEC(".maps") = { .values = { [1] = &inner } };

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct inner);
} hashes SEC(".maps");

/* Without types. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(key_size, 6);
	__uint(value_size, 20);
} plain SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 64);
	__uint(key_size, 4);
	__uint(value_size, 8);
} plain_percpu SEC(".maps");

const volatile __u32 limit = 7;
const volatile char version[8] = "1.2.3";
int counts[3];
struct flow last = { .ip = 1 };

SEC("xdp")
int send(struct xdp_md *ctx)
{
	struct flow *f = &last;

	counts[1] += limit + version[0] + f->ip;
	bpf_perf_event_output(ctx, &events, 0, f, sizeof(*f));
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
