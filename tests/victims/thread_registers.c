/*
 * Registers: a thread fills general, vector and mask registers, the x87 stack and its control words, then spins on a
 * word in memory or (argument "calls") sleeps in raw system calls, touching none of them, and checks them afterwards.
 */
#include "victim.h"

enum { GENERAL = 9, WIDE = 32, MASKS = 8 };

static volatile int go_word;
static uint64_t general_set[GENERAL], general_found[GENERAL];
static uint8_t vectors_set[WIDE][64] __attribute__((aligned(64))), vectors_found[WIDE][64] __attribute__((aligned(64)));
static uint64_t masks_set[MASKS], masks_found[MASKS];
/* Rounding, denormal and flush bits that are not the usual ones. */
static const uint32_t mxcsr_set = 0x1f80 | 3 << 13 | 0x8040, mxcsr_usual = 0x1f80;
static const uint16_t control_set = 0x0e7f;
static uint32_t mxcsr_found;
static uint16_t control_found;
static double floats_found[4];
static const struct timespec nap = {0, 1000000};

#define SPIN "1: cmpl $0, %[go]\n jne 2f\n pause\n jmp 1b\n 2:\n"
/* nanosleep is call 35; whatever it returns but 0 ends the program. */
#define SLEEP                                                                                                          \
	"1: cmpl $0, %[go]\n jne 2f\n movl $35, %%eax\n leaq %[nap], %%rdi\n xorl %%esi, %%esi\n syscall\n"           \
	"testq %%rax, %%rax\n jz 1b\n ud2\n 2:\n"

#define LOAD_GENERAL                                                                                                   \
	"movq 0+%[general], %%rbx\n movq 8+%[general], %%rdx\n movq 16+%[general], %%r8\n"                             \
	"movq 24+%[general], %%r9\n movq 32+%[general], %%r10\n movq 40+%[general], %%r12\n"                           \
	"movq 48+%[general], %%r13\n movq 56+%[general], %%r14\n movq 64+%[general], %%r15\n"
#define STORE_GENERAL                                                                                                  \
	"movq %%rbx, 0+%[general_out]\n movq %%rdx, 8+%[general_out]\n movq %%r8, 16+%[general_out]\n"                 \
	"movq %%r9, 24+%[general_out]\n movq %%r10, 32+%[general_out]\n movq %%r12, 40+%[general_out]\n"               \
	"movq %%r13, 48+%[general_out]\n movq %%r14, 56+%[general_out]\n movq %%r15, 64+%[general_out]\n"

#define LOAD_CONTROL "ldmxcsr %[mxcsr]\n fninit\n fldcw %[control]\n fldpi\n fldl2e\n fldln2\n fld1\n"
#define STORE_CONTROL                                                                                                  \
	"stmxcsr %[mxcsr_out]\n ldmxcsr %[mxcsr_usual]\n fnstcw %[control_out]\n"                                      \
	"fstpl 0+%[floats]\n fstpl 8+%[floats]\n fstpl 16+%[floats]\n fstpl 24+%[floats]\n fninit\n"

#define SIXTEEN ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n "
#define THIRTY_TWO                                                                                                     \
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n "
#define LOAD_SSE SIXTEEN "movdqu 64*\\n+%[vectors], %%xmm\\n\n .endr\n"
#define STORE_SSE SIXTEEN "movdqu %%xmm\\n, 64*\\n+%[vectors_out]\n .endr\n"
#define LOAD_AVX SIXTEEN "vmovdqu 64*\\n+%[vectors], %%ymm\\n\n .endr\n"
#define STORE_AVX SIXTEEN "vmovdqu %%ymm\\n, 64*\\n+%[vectors_out]\n .endr\n vzeroupper\n"
#define LOAD_AVX512                                                                                                    \
	THIRTY_TWO "vmovdqu64 64*\\n+%[vectors], %%zmm\\n\n .endr\n"                                                   \
		   ".irp n,0,1,2,3,4,5,6,7\n kmovq 8*\\n+%[masks], %%k\\n\n .endr\n"
#define STORE_AVX512                                                                                                   \
	THIRTY_TWO "vmovdqu64 %%zmm\\n, 64*\\n+%[vectors_out]\n .endr\n"                                               \
		   ".irp n,0,1,2,3,4,5,6,7\n kmovq %%k\\n, 8*\\n+%[masks_out]\n .endr\n vzeroupper\n"

#define DEFINE(name, LOAD, LOOP, STORE)                                                                                \
	__attribute__((noinline)) static void name(void)                                                               \
	{                                                                                                              \
		__asm__ volatile(LOAD_CONTROL LOAD LOAD_GENERAL LOOP STORE_GENERAL STORE STORE_CONTROL                 \
				 : [general_out] "=m"(general_found), [vectors_out] "=m"(vectors_found),               \
				   [masks_out] "=m"(masks_found), [mxcsr_out] "=m"(mxcsr_found),                       \
				   [control_out] "=m"(control_found), [floats] "=m"(floats_found)                      \
				 : [general] "m"(general_set), [vectors] "m"(vectors_set), [masks] "m"(masks_set),     \
				   [mxcsr] "m"(mxcsr_set), [mxcsr_usual] "m"(mxcsr_usual),                             \
				   [control] "m"(control_set), [go] "m"(go_word), [nap] "m"(nap)                       \
				 : "rax", "rbx", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "r12", "r13",   \
				   "r14", "r15", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",       \
				   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",        \
				   "xmm15", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");      \
	}

DEFINE(spin_sse, LOAD_SSE, SPIN, STORE_SSE)
DEFINE(sleep_sse, LOAD_SSE, SLEEP, STORE_SSE)
DEFINE(spin_avx, LOAD_AVX, SPIN, STORE_AVX)
DEFINE(sleep_avx, LOAD_AVX, SLEEP, STORE_AVX)
DEFINE(spin_avx512, LOAD_AVX512, SPIN, STORE_AVX512)
DEFINE(sleep_avx512, LOAD_AVX512, SLEEP, STORE_AVX512)

static void *watch(void *argument)
{
	victim_ready();
	victim_wait();
	go_word = 1;
	return argument;
}

int main(int count, char **arguments)
{
	bool calls = count > 1 && strcmp(arguments[1], "calls") == 0;
	size_t vectors = 16, width = 16;
	pthread_t watcher;
	__builtin_cpu_init();
	fill_pattern(general_set, sizeof general_set, 1);
	fill_pattern(vectors_set, sizeof vectors_set, 2);
	fill_pattern(masks_set, sizeof masks_set, 3);
	must_zero(pthread_create(&watcher, NULL, watch, NULL));
	if (__builtin_cpu_supports("avx512bw")) {
		vectors = 32;
		width = 64;
		calls ? sleep_avx512() : spin_avx512();
		for (int index = 0; index < MASKS; index++)
			expect_equal("mask register", masks_set[index], masks_found[index]);
	} else if (__builtin_cpu_supports("avx")) {
		width = 32;
		calls ? sleep_avx() : spin_avx();
	} else {
		calls ? sleep_sse() : spin_sse();
	}
	for (int index = 0; index < GENERAL; index++)
		expect_equal("general register", general_set[index], general_found[index]);
	for (size_t index = 0; index < vectors; index++)
		for (size_t byte = 0; byte < width; byte++)
			if (vectors_set[index][byte] != vectors_found[index][byte])
				wrong("byte %zu of vector register %zu: expected 0x%x, found 0x%x", byte, index,
				      vectors_set[index][byte], vectors_found[index][byte]);
	expect_equal("MXCSR", mxcsr_set, mxcsr_found & 0xffffffc0u);
	expect_equal("x87 control word", control_set, control_found);
	static const double floats[] = {1.0, 0.693147180559945309, 1.442695040888963407, 3.141592653589793238};
	for (int index = 0; index < 4; index++) {
		double difference = floats_found[index] - floats[index];
		if (difference > 1e-15 || difference < -1e-15)
			wrong("x87 register %d: expected %.17g, found %.17g", index, floats[index],
			      floats_found[index]);
	}
	expect_equal("error of pthread_join", 0, pthread_join(watcher, NULL));
	victim_ok();
}
