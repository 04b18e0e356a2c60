/*
 * The torture victim: processes with threads that pass numbers through pipes, meet at mutexes in shared memory, are
 * interrupted by alarms, and check themselves all the time.
 *
 *     torture SECONDS [PROCESSES [THREADS]]
 *
 * It does a fixed amount of work, which takes about SECONDS on two processors, so that its last line, a digest, depends
 * on the arguments only and never on when or how often it was interrupted. VICTIM_GO plays no part.
 */
#include "victim.h"

enum { MOST_PROCESSES = 16, MOST_THREADS = 16, PAGE_WORDS = 512, PAGES = 64, ROUNDS_PER_SECOND = 8000 };

struct process_state {
	pthread_mutex_t lock;
	uint64_t entries, sum;
	uint64_t digests[MOST_THREADS];
	atomic_long round;
};

static struct process_state *states;
static int processes, threads, rounds, number;
static int ring[MOST_PROCESSES][2];
static volatile sig_atomic_t alarms;
static uint64_t *memory;
static pthread_barrier_t barrier;
static pid_t ids[MOST_PROCESSES];

static void on_alarm(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if (signal != SIGALRM || info->si_code != SI_KERNEL)
		wrong("signal handler: expected SIGALRM of the kernel, found signal %d code %d", signal, info->si_code);
	alarms++;
}

static uint64_t mix(uint64_t digest, uint64_t word)
{
	digest = (digest ^ word) * 0x100000001b3u;
	return digest << 23 | digest >> 41;
}

/* One thread's share of a page is written, and read again a round later. */
static uint64_t work_on_memory(int thread, long round, uint64_t digest)
{
	uint64_t *page = memory + (size_t)((thread * PAGES / threads + round % (PAGES / threads)) * PAGE_WORDS);
	long before = round - PAGES / threads;
	uint64_t seed = (uint64_t)number << 40 | (uint64_t)thread << 32;
	for (uint64_t place = 0; place < PAGE_WORDS; place++) {
		uint64_t wanted = before < 0 ? 0 : pattern_word(seed | (uint64_t)before, place);
		if (page[place] != wanted)
			wrong("process %d thread %d round %ld word %llu: expected 0x%llx, found 0x%llx", number, thread,
			      round, (unsigned long long)place, (unsigned long long)wanted,
			      (unsigned long long)page[place]);
		page[place] = pattern_word(seed | (uint64_t)round, place);
		digest = mix(digest, page[place]);
	}
	return digest;
}

/* Floating point that must come out the same to the last bit. */
static uint64_t work_on_numbers(double *vector, long round, uint64_t digest)
{
	for (int step = 0; step < 200; step++)
		for (int index = 0; index < 32; index++)
			vector[index] = vector[index] * 0.99 + vector[(index + 7) % 32] * 0.0099 + (double)(round % 17) * 1e-3;
	for (int index = 0; index < 32; index++) {
		uint64_t word;
		memcpy(&word, &vector[index], sizeof word);
		digest = mix(digest, word);
	}
	return digest;
}

/* A number is sent around the ring of processes by the first thread of each. */
static uint64_t work_on_ring(long round, uint64_t digest)
{
	uint64_t sent[2] = {(uint64_t)number, (uint64_t)round}, got[2];
	int next = (number + 1) % processes;
	ssize_t done;
	while ((done = write(ring[next][1], sent, sizeof sent)) < 0 && errno == EINTR)
		;
	expect_equal("bytes to the ring", (long)sizeof sent, done);
	while ((done = read(ring[number][0], got, sizeof got)) < 0 && errno == EINTR)
		;
	expect_equal("bytes from the ring", (long)sizeof got, done);
	expect_equal("sender in the ring", (number + processes - 1) % processes, got[0]);
	expect_equal("round in the ring", round, got[1]);
	return mix(digest, got[0] + got[1]);
}

static void work_on_locks(int thread, long round)
{
	struct process_state *state = &states[(number + thread) % processes];
	expect_equal("error of locking", 0, pthread_mutex_lock(&state->lock));
	uint64_t entries = state->entries;
	state->sum += (uint64_t)round;
	state->entries = entries + 1;
	expect_equal("entries under the lock", entries + 1, state->entries);
	expect_equal("error of unlocking", 0, pthread_mutex_unlock(&state->lock));
}

static void *work(void *argument)
{
	int thread = (int)(intptr_t)argument;
	uint64_t digest = (uint64_t)(number * 100 + thread);
	double vector[32];
	pid_t self = thread_id();
	for (int index = 0; index < 32; index++)
		vector[index] = 1.0 / (1 + index + thread);
	for (long round = 0; round < rounds; round++) {
		digest = work_on_memory(thread, round, digest);
		digest = work_on_numbers(vector, round, digest);
		if (thread == 0)
			digest = work_on_ring(round, digest);
		work_on_locks(thread, round);
		if (round % 16 == 0)
			pthread_barrier_wait(&barrier);
		if (round % 8 == thread % 8) {
			/* SIGALRM is blocked in all threads but the first. */
			struct timespec nap = {0, 200000};
			int result = nanosleep(&nap, NULL);
			if (result != 0 && (errno != EINTR || thread != 0))
				wrong("nanosleep in thread %d: %s", thread, strerror(errno));
		}
		if (thread == 0)
			atomic_store(&states[number].round, round);
		expect_equal("thread id", self, thread_id());
		expect_equal("process id", ids[number], getpid());
	}
	states[number].digests[thread] = digest;
	return NULL;
}

static void run_process(void)
{
	pthread_t handles[MOST_THREADS];
	struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct itimerval every = {{0, 7000}, {0, 7000}};
	sigset_t alarm_set;
	ids[number] = getpid();
	memory = map_anonymous(PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	sigemptyset(&alarm_set);
	sigaddset(&alarm_set, SIGALRM);
	must(sigaction(SIGALRM, &action, NULL));
	must_zero(pthread_barrier_init(&barrier, NULL, (unsigned)threads));
	must(sigprocmask(SIG_BLOCK, &alarm_set, NULL));
	for (int thread = 1; thread < threads; thread++)
		must_zero(pthread_create(&handles[thread], NULL, work, (void *)(intptr_t)thread));
	must(sigprocmask(SIG_UNBLOCK, &alarm_set, NULL));
	must(setitimer(ITIMER_REAL, &every, NULL));
	work((void *)0);
	for (int thread = 1; thread < threads; thread++)
		expect_equal("error of pthread_join", 0, pthread_join(handles[thread], NULL));
	struct itimerval last;
	expect_success(getitimer(ITIMER_REAL, &last));
	expect_equal("period of the alarm", 7000, last.it_interval.tv_usec);
	expect_true(alarms > 0 || rounds < 100);
	struct itimerval off = {{0, 0}, {0, 0}};
	expect_success(setitimer(ITIMER_REAL, &off, NULL));
}

static void report(void)
{
	uint64_t digest = 0;
	for (int process = 0; process < processes; process++) {
		uint64_t wanted = (uint64_t)rounds * (uint64_t)(rounds - 1) / 2 * (uint64_t)threads;
		expect_equal("entries of a lock", rounds * threads, states[process].entries);
		expect_equal("sum under a lock", wanted, states[process].sum);
		for (int thread = 0; thread < threads; thread++)
			digest = mix(digest, states[process].digests[thread]);
	}
	char line[64];
	int length = snprintf(line, sizeof line, "DIGEST %016llx\n", (unsigned long long)digest);
	victim_write(line, (size_t)length);
}

int main(int count, char **arguments)
{
	double seconds = count > 1 ? atof(arguments[1]) : 1;
	pthread_mutexattr_t attributes;
	pid_t children[MOST_PROCESSES];
	processes = count > 2 ? atoi(arguments[2]) : 4;
	threads = count > 3 ? atoi(arguments[3]) : 4;
	rounds = (int)(seconds * ROUNDS_PER_SECOND);
	if (processes < 1 || processes > MOST_PROCESSES || threads < 1 || threads > MOST_THREADS || rounds < 1)
		broken("usage: torture SECONDS [PROCESSES [THREADS]]");
	states = map_anonymous(MOST_PROCESSES * sizeof *states, PROT_READ | PROT_WRITE, MAP_SHARED);
	must_zero(pthread_mutexattr_init(&attributes));
	must_zero(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED));
	for (int process = 0; process < processes; process++) {
		must_zero(pthread_mutex_init(&states[process].lock, &attributes));
		must(pipe2(ring[process], O_CLOEXEC));
	}
	victim_ready();
	for (int process = 1; process < processes; process++) {
		children[process] = must(fork());
		if (children[process] == 0) {
			number = process;
			run_process();
			_exit(0);
		}
	}
	run_process();
	for (int process = 1; process < processes; process++)
		join_child(children[process]);
	report();
	victim_ok();
}
