// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Writes a record for each descriptor of each process that is a BPF object.
// What a descriptor is tells its table of operations. The kernel gives no program
// the addresses of these, so a first pass learns them from descriptors of the
// process that reads, which knows what they are.
//
// Where the members of the kernel's structs are is set before the program is
// loaded: the loader of CO-RE takes longer than all the rest.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

/* Byte offsets of members. */
const volatile __u32 task_tgid, task_comm, task_group_leader, file_f_op, file_private_data;
const volatile __u32 prog_aux, prog_pages, aux_id, map_id, btf_id, link_id;

enum kind { PROG, MAP, BTF, LINK, KINDS };

struct {
	__u32 learn;            /* the pass */
	__u32 own[KINDS];       /* descriptors of the reader */
	const void *ops[KINDS]; /* what they have as operations */
} state;

struct holder {
	__u32 kind;
	__u32 id;
	__u32 pid;
	char comm[16];
};

struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	void *task;
	__u32 fd __attribute__((aligned(8)));
	void *file;
};

static __always_inline const void *pointer(const void *object, __u32 offset)
{
	const void *p = 0;

	bpf_probe_read_kernel(&p, sizeof(p), object + offset);
	return p;
}

static __always_inline __u32 number(const void *object, __u32 offset)
{
	__u32 n = 0;

	bpf_probe_read_kernel(&n, sizeof(n), object + offset);
	return n;
}

SEC("iter/task_file")
int holders(struct bpf_iter__task_file *ctx)
{
	const void *task = ctx->task, *file = ctx->file, *op, *object;
	struct holder h = {};

	if (!task || !file)
		return 0;
	op = pointer(file, file_f_op);
	h.pid = number(task, task_tgid);
	if (h.pid == bpf_get_current_pid_tgid() >> 32) {
		for (int i = 0; state.learn && i < KINDS; i++)
			if (ctx->fd == state.own[i])
				state.ops[i] = op;
		return 0;
	}
	if (state.learn || !op)
		return 0;
	object = pointer(file, file_private_data);
	if (op == state.ops[PROG]) {
		h.kind = PROG;
		h.id = number(pointer(object, prog_aux), aux_id);
	} else if (op == state.ops[MAP]) {
		h.kind = MAP;
		h.id = number(object, map_id);
	} else if (op == state.ops[LINK]) {
		h.kind = LINK;
		h.id = number(object, link_id);
	} else if (op == state.ops[BTF]) {
		h.kind = BTF;
		h.id = number(object, btf_id);
	} else {
		return 0;
	}
	bpf_probe_read_kernel_str(h.comm, sizeof(h.comm), pointer(task, task_group_leader) + task_comm);
	bpf_seq_write(ctx->meta->seq, &h, sizeof(h));
	return 0;
}

/* What fdinfo calls memlock of each program, without opening it for that. */
struct size {
	__u32 id;
	__u32 pages;
};

struct bpf_iter__bpf_prog {
	struct bpf_iter_meta *meta;
	void *prog;
};

SEC("iter/bpf_prog")
int sizes(struct bpf_iter__bpf_prog *ctx)
{
	const void *prog = ctx->prog;
	struct size s = {};
	__u16 pages = 0;

	if (!prog)
		return 0;
	s.id = number(pointer(prog, prog_aux), aux_id);
	bpf_probe_read_kernel(&pages, sizeof(pages), prog + prog_pages);
	s.pages = pages;
	bpf_seq_write(ctx->meta->seq, &s, sizeof(s));
	return 0;
}
