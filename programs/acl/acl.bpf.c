// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Access control by prefix, protocol, port and VLAN, in this order:
 *
 *   1. A frame that is not IP gets non_ip_verdict, a malformed one
 *      malformed_verdict.
 *   2. The first rule that matches decides.
 *   3. Of the most specific matching entry of each of the four lists, the one
 *      with the highest value decides; among equals deny wins.
 *   4. default_verdict.
 *
 * Lists change while the program runs. The rules are part of the program, so
 * that a new set of rules takes effect as a whole.
 */
#include <linux/pkt_cls.h>

#include "packet.h"

/* As XDP codes. */
enum acl_verdict {
	unset = 0,
	drop = XDP_DROP,
	pass = XDP_PASS,
};

/* Of a range of ports, both included. LAST 0: FIRST alone; both 0: any. */
enum port_range {
	FIRST,
	LAST,
};

struct acl_rule {
	/* unset: no more rules; in a document that would be a slip. */
	enum acl_verdict action __attribute__((btf_decl_tag("l3af:required")));
	enum ip_protocol protocol;
	struct prefix src;
	struct prefix dst;
	__u16 src_port[2];
	__u16 dst_port[2];
	__u16 vlan; /* id of the outermost tag; 0 is any, or none */
};

#define RULES 64

const volatile enum acl_verdict default_verdict = pass;
const volatile enum acl_verdict non_ip_verdict = pass;
const volatile enum acl_verdict malformed_verdict = drop;
const volatile struct acl_rule rules[RULES] = {};

#define LIST(name)                                  \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE); \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__uint(max_entries, 1 << 17);       \
		__type(key, struct prefix);         \
		__type(value, __u32);               \
	} name SEC(".maps")

LIST(allow);
LIST(allow_dst);
LIST(deny);
LIST(deny_dst);

/*
 * What follows says 0 for a match. It branches on the rule, which the verifier
 * knows, and not on the packet: so it has one state to follow from each rule to
 * the next, however many there are.
 */

static __always_inline __u32 port_differs(const volatile __u16 *range, __u32 port)
{
	__u32 first = range[FIRST], last = range[LAST];

	if (last)
		return ((port - first) | (last - port)) >> 31;
	return first ? port ^ first : 0;
}

/*
 * A fragment that is not the first has no ports. A pass rule with ports takes
 * it for one of a flow it lets through; a drop rule does not: without its
 * first fragment no host can use it.
 */
static __always_inline __u32 ports_differ(const volatile struct acl_rule *r, const struct packet *p)
{
	__u32 differ, fragment = p->fragment, has_ports = p->has_ports;

	if (!(r->src_port[FIRST] | r->src_port[LAST] | r->dst_port[FIRST] | r->dst_port[LAST]))
		return 0;
	opaque(fragment);
	opaque(has_ports);
	differ = port_differs(r->src_port, p->from_port) | port_differs(r->dst_port, p->to_port);
	if (r->action == pass)
		differ &= fragment - 1;
	else
		differ |= fragment;
	return differ | (has_ports ^ 1);
}

static __always_inline __u32 prefix_differs(const volatile struct prefix *prefix, const struct address *a)
{
	const volatile __u32 *want = (const volatile __u32 *)prefix->addr;
	__u32 len = prefix->prefixlen, differ = 0;

	for (__u32 i = 0; i < 4; i++)
		differ |= (want[i] ^ a->word[i]) & prefix_mask(len, i);
	return differ;
}

static __always_inline bool rule_matches(const volatile struct acl_rule *r, const struct packet *p)
{
	__u32 differ = ports_differ(r, p);

	if (r->protocol != any)
		differ |= r->protocol ^ p->protocol;
	if (r->vlan)
		differ |= r->vlan ^ p->vlan;
	opaque(differ);
	if (differ)
		return false;
	if (r->src.prefixlen)
		differ |= prefix_differs(&r->src, &p->from);
	if (r->dst.prefixlen)
		differ |= prefix_differs(&r->dst, &p->to);
	opaque(differ);
	return !differ;
}

static __always_inline __u32 higher(__u32 best, const __u32 *found)
{
	return found && *found > best ? *found : best;
}

static __always_inline enum acl_verdict judge_lists(const struct packet *p)
{
	struct prefix key;
	__u32 yes, no;

	prefix_of(&key, &p->from);
	yes = higher(0, bpf_map_lookup_elem(&allow, &key));
	no = higher(0, bpf_map_lookup_elem(&deny, &key));
	prefix_of(&key, &p->to);
	yes = higher(yes, bpf_map_lookup_elem(&allow_dst, &key));
	no = higher(no, bpf_map_lookup_elem(&deny_dst, &key));
	if (!yes && !no)
		return default_verdict;
	return yes > no ? pass : drop;
}

static __always_inline enum acl_verdict judge(enum parsed parsed, const struct packet *p)
{
	if (parsed == NOT_IP)
		return non_ip_verdict;
	if (parsed != PARSED)
		return malformed_verdict;
	for (int i = 0; i < RULES; i++) {
		const volatile struct acl_rule *r = &rules[i];

		if (r->action == unset)
			break;
		if (rule_matches(r, p))
			return r->action;
	}
	return judge_lists(p);
}

SEC("xdp.frags")
int acl(struct xdp_md *ctx)
{
	struct packet p = {};

	return judge(parse_xdp(ctx, TRANSPORT, &p), &p) == pass ? XDP_PASS : XDP_DROP;
}

static __always_inline int acl_tc(struct __sk_buff *skb)
{
	struct packet p = {};

	return judge(parse_skb(skb, TRANSPORT, &p), &p) == pass ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tcx/ingress")
int acl_ingress(struct __sk_buff *skb)
{
	return acl_tc(skb);
}

SEC("tcx/egress")
int acl_egress(struct __sk_buff *skb)
{
	return acl_tc(skb);
}

char _license[] SEC("license") = "Dual BSD/GPL";
