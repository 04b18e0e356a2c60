/* Seccomp filters for victims. */
#ifndef VICTIM_SECCOMP_H
#define VICTIM_SECCOMP_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "victim.h"

/* Calls that no victim needs otherwise. */
enum { JUDGED = SYS_getpgid, ALSO_JUDGED = SYS_sched_get_priority_max, PUNISHED = SYS_sched_get_priority_min };

/* A filter that decides so for one call, and allows all others. */
VICTIM_UNUSED static int judge(unsigned call, unsigned decision, unsigned flags)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, decision),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {sizeof program / sizeof *program, program};
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter);
}

/* A filter that kills the process for any call but these. */
VICTIM_UNUSED static int allow_only(const unsigned *calls, size_t count)
{
	struct sock_filter program[64];
	size_t used = 0;
	program[used++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t call = 0; call < count; call++) {
		program[used++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[call], 0, 1);
		program[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	program[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	struct sock_fprog filter = {(unsigned short)used, program};
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

/* Expects a judged call to fail with this error; 0 for a call that is allowed. */
VICTIM_UNUSED static void expect_judgement(long call, int error)
{
	errno = 0;
	long found = syscall(call, 0);
	expect_equal("result of a judged call fails", error != 0, found == -1);
	expect_equal("error of a judged call", error, errno);
}

VICTIM_UNUSED static int own_status(const char *field)
{
	char text[8192], line[64];
	char path[64];
	snprintf(path, sizeof path, "/proc/self/task/%d/status", thread_id());
	read_text(path, text, sizeof text);
	snprintf(line, sizeof line, "\n%s:", field);
	char *found = strstr(text, line);
	return found == NULL ? -1 : atoi(found + strlen(line));
}

#endif
