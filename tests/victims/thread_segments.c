/* The bases of the segments: gs set by each thread, fs (thread-local storage) by the C library. */
#include "victim.h"
#include <asm/prctl.h>

enum { THREADS = 3 };

static uint64_t blocks[THREADS][16];
static __thread uint64_t local;
static atomic_int running;

static void *live(void *argument)
{
	intptr_t number = (intptr_t)argument;
	uint64_t read_back, base = 0;
	blocks[number][3] = pattern_word(5, (uint64_t)number);
	local = pattern_word(6, (uint64_t)number);
	must(syscall(SYS_arch_prctl, ARCH_SET_GS, blocks[number]));
	atomic_fetch_add(&running, 1);
	victim_wait();
	__asm__ volatile("movq %%gs:24, %0" : "=r"(read_back));
	expect_equal("word read through gs", blocks[number][3], read_back);
	expect_success(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
	expect_equal("base of gs", (uint64_t)blocks[number], base);
	expect_equal("thread-local word", pattern_word(6, (uint64_t)number), local);
	return NULL;
}

int main(void)
{
	pthread_t handles[THREADS];
	for (intptr_t number = 1; number < THREADS; number++)
		must_zero(pthread_create(&handles[number], NULL, live, (void *)number));
	while (atomic_load(&running) != THREADS - 1)
		victim_nap(1000);
	victim_ready();
	live((void *)0);
	for (int number = 1; number < THREADS; number++)
		expect_equal("error of pthread_join", 0, pthread_join(handles[number], NULL));
	victim_ok();
}
