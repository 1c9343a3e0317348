// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The maps and names of L3AF's ipfix-flow-exporter at TC egress: the last records
 * are its agent's, the program does not use them.
 */
#include "l3af.h"

struct flow {
	__u64 data[11];
};

MAP(egress_flow_record_info_map, HASH, __u32, struct flow, 30000);
MAP(last_egress_flow_record_info_map, HASH, __u32, struct flow, 30000);
NEXT(ipfix_egress_jmp_table);

__u64 frames;

SEC("tc_egress_flow_monitoring")
int _egress_flow_monitoring(struct __sk_buff *skb)
{
	struct flow flow = {{ skb->len }};
	__u32 key = skb->protocol;

	if (skb->len < ETH_HLEN)
		return TC_ACT_OK;
	frames++;
	bpf_map_update_elem(&egress_flow_record_info_map, &key, &flow, BPF_ANY);
	bpf_tail_call(skb, &ipfix_egress_jmp_table, 0);
	return TC_ACT_OK;
}
