// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Writes a record for each descriptor of each process that is a BPF object.
// What a descriptor is tells its table of operations. The kernel gives no program
// the addresses of these, so a first pass learns them from descriptors of the
// process that reads, which knows what they are.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char _license[] SEC("license") = "Dual BSD/GPL";

/* The parts of the kernel's types that are read. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct seq_file;
struct task_struct {
	int tgid;
	char comm[16];
	struct task_struct *group_leader;
};
struct file {
	const void *f_op;
	void *private_data;
};
struct bpf_prog_aux {
	__u32 id;
};
struct bpf_prog {
	struct bpf_prog_aux *aux;
};
struct bpf_map {
	__u32 id;
};
struct bpf_link {
	__u32 id;
};
struct btf {
	__u32 id;
};
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};
#pragma clang attribute pop

enum kind { PROG, MAP, BTF, LINK, KINDS };

__u32 learn;            /* the pass */
__u32 own[KINDS];       /* descriptors of the reader */
const void *ops[KINDS]; /* what they have as operations */

struct holder {
	__u32 kind;
	__u32 id;
	__u32 pid;
	char comm[16];
};

SEC("iter/task_file")
int holders(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct holder h = {};
	const void *op, *object;
	__u32 tgid;

	if (!task || !file)
		return 0;
	op = BPF_CORE_READ(file, f_op);
	tgid = BPF_CORE_READ(task, tgid);
	if (tgid == bpf_get_current_pid_tgid() >> 32) {
		for (int i = 0; learn && i < KINDS; i++)
			if (ctx->fd == own[i])
				ops[i] = op;
		return 0;
	}
	if (learn || !op)
		return 0;
	object = BPF_CORE_READ(file, private_data);
	if (op == ops[PROG]) {
		h.kind = PROG;
		h.id = BPF_CORE_READ((struct bpf_prog *)object, aux, id);
	} else if (op == ops[MAP]) {
		h.kind = MAP;
		h.id = BPF_CORE_READ((struct bpf_map *)object, id);
	} else if (op == ops[LINK]) {
		h.kind = LINK;
		h.id = BPF_CORE_READ((struct bpf_link *)object, id);
	} else if (op == ops[BTF]) {
		h.kind = BTF;
		h.id = BPF_CORE_READ((struct btf *)object, id);
	} else {
		return 0;
	}
	h.pid = tgid;
	BPF_CORE_READ_STR_INTO(&h.comm, task, group_leader, comm);
	bpf_seq_write(ctx->meta->seq, &h, sizeof(h));
	return 0;
}
