// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The maps and names of L3AF's connection-limit: a program at XDP that calls
 * no next one, and one at a tracepoint whose maps it shares.
 */
#include "l3af.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
	__uint(max_entries, 1);
} cl_conn_count SEC(".maps");
MAP(cl_max_conn, ARRAY, __u32, __u64, 1);
MAP(cl_tcp_conns, HASH, __u16, __u32, 200);
MAP(cl_conn_info, HASH, __u64, __u32, 30000);
MAP(cl_recv_count_map, HASH, __u32, __u64, 1);
MAP(cl_drop_count_map, HASH, __u32, __u64, 1);
NEXT(xdp_cl_ingress_next_prog);

SEC("xdp_limit_conn")
int _xdp_limit_conn(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u16 port = udp_port((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	__u64 *most = bpf_map_lookup_elem(&cl_max_conn, &key);
	__u64 *now = bpf_map_lookup_elem(&cl_conn_count, &key);

	add(&cl_recv_count_map, &key);
	if (bpf_map_lookup_elem(&cl_tcp_conns, &port) && most && now && *now > *most) {
		add(&cl_drop_count_map, &key);
		return XDP_DROP;
	}
	return XDP_PASS;
}

struct set_state {
	__u64 common;
	const void *skaddr;
	int oldstate, newstate;
};

SEC("tracepoint/sock/inet_sock_set_state")
int trace_inet_sock_set_state(struct set_state *args)
{
	__u32 key = 0, one = 1;
	__u64 sk = (__u64)args->skaddr;

	if (args->newstate == 1 /* TCP_ESTABLISHED */) {
		bpf_map_update_elem(&cl_conn_info, &sk, &one, BPF_ANY);
		add(&cl_conn_count, &key);
	}
	return 0;
}
