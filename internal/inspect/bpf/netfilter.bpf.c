// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Writes a record for each link at netfilter: in which network namespace it is,
// which the kernel tells nobody else.
//
// Where the members of the kernel's structs are is set before the program is
// loaded: the loader of CO-RE takes longer than all the rest.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

#define LINK_TYPE_NETFILTER 10 /* of enum bpf_link_type, which older headers do not have */

/* Byte offsets of members. */
const volatile __u32 link_id, link_type, nf_link_net, nf_link_dead, net_ns, ns_inum;

struct place {
	__u32 id;
	__u32 inode; /* of the network namespace; 0: it was detached, and holds none */
};

struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__bpf_link {
	struct bpf_iter_meta *meta;
	void *link;
};

SEC("iter/bpf_link")
int places(struct bpf_iter__bpf_link *ctx)
{
	const void *link = ctx->link, *net = 0;
	struct place p = {};
	__u32 type = 0;
	__u8 dead = 0;

	if (!link)
		return 0;
	bpf_probe_read_kernel(&type, sizeof(type), link + link_type);
	if (type != LINK_TYPE_NETFILTER)
		return 0;
	bpf_probe_read_kernel(&p.id, sizeof(p.id), link + link_id);
	bpf_probe_read_kernel(&dead, sizeof(dead), link + nf_link_dead);
	if (!dead) {
		bpf_probe_read_kernel(&net, sizeof(net), link + nf_link_net);
		bpf_probe_read_kernel(&p.inode, sizeof(p.inode), net + net_ns + ns_inum);
	}
	bpf_seq_write(ctx->meta->seq, &p, sizeof(p));
	return 0;
}
