// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Helpers of the network: checksums, routes, sockets whose reference is given back.
#include "corpus.h"


SEC("xdp") int kinds(CTX *ctx)
{
	__u32 words[4] = {byte(ctx, 15), byte(ctx, 16), 7, 9};
	__s64 sum = bpf_csum_diff(0, 0, words, sizeof(words), 0);
	struct bpf_fib_lookup route = {.family = 2, .ifindex = 1, .ipv4_dst = words[0]};
	sum += bpf_fib_lookup(ctx, &route, sizeof(route), 0) < 0;
	struct bpf_sock_tuple tuple = {};
	tuple.ipv4.daddr = words[1];
	struct bpf_sock *sk = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (sk) {
		sum += sk->family;
		bpf_sk_release(sk);
	}
	leave(ctx, 28, sum ^ sum >> 8);
	return verdict(ctx);
}
