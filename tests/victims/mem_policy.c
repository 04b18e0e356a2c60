/* Memory policies: of each thread, of areas private and shared, and of an area that a child has other than its parent. */
#include "victim.h"

enum { DEFAULT, PREFERRED, BIND, INTERLEAVE, LOCAL, STATIC = 1 << 15, OF_ADDRESS = 2, LENGTH = 8 * 4096 };

/* Mode and first word of the nodes: of this task, or of an address. */
static void policy_at(const void *address, int *mode, unsigned long *nodes)
{
	unsigned long mask[16] = {0};
	if (syscall(SYS_get_mempolicy, mode, mask, 1025UL, address, address == NULL ? 0 : OF_ADDRESS) != 0)
		wrong("get_mempolicy: %s", strerror(errno));
	*nodes = mask[0];
}

static void expect_policy(const char *what, const void *address, int mode, unsigned long nodes)
{
	int found;
	unsigned long mask;
	policy_at(address, &found, &mask);
	expect_equal(what, mode, found);
	expect_equal(what, nodes, mask);
}

static void bind_area(void *start, size_t length, int mode)
{
	unsigned long nodes = 1;
	must(syscall(SYS_mbind, start, length, mode, mode == DEFAULT || mode == LOCAL ? NULL : &nodes,
		     mode == DEFAULT || mode == LOCAL ? 0UL : 65UL, 0));
}

static pthread_barrier_t met;
static atomic_bool go;

static void *with_policy(void *mode)
{
	unsigned long nodes = 1;
	must(syscall(SYS_set_mempolicy, (int)(long)mode, &nodes, 65UL));
	pthread_barrier_wait(&met);
	while (!atomic_load(&go))
		victim_nap(1000);
	expect_policy("policy of a thread", NULL, (int)(long)mode, 1);
	return NULL;
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	unsigned long nodes = 1;
	if (syscall(SYS_set_mempolicy, INTERLEAVE | STATIC, &nodes, 65UL) != 0)
		skip("set_mempolicy: %s", strerror(errno));
	char *private = map_anonymous(4 * LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *shared = map_anonymous(4 * LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED);
	char *plain = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
	bind_area(private + LENGTH, LENGTH, BIND);
	bind_area(private + 2 * LENGTH, LENGTH, LOCAL);
	bind_area(shared, LENGTH, PREFERRED);
	fill_pattern(private, 4 * LENGTH, 1);
	fill_pattern(shared, 4 * LENGTH, 2);
	fill_pattern(plain, LENGTH, 3);
	pid_t child = must(fork());
	if (child == 0) {
		bind_area(private + LENGTH, LENGTH, DEFAULT);
		bind_area(plain, LENGTH, BIND | STATIC);
		arrive(&arrivals);
		victim_wait();
		expect_policy("policy of the child", NULL, INTERLEAVE | STATIC, 1);
		expect_policy("area without a policy in the child", private + LENGTH, DEFAULT, 0);
		expect_policy("local area in the child", private + 2 * LENGTH, LOCAL, 0);
		expect_policy("area with a policy in the child", plain, BIND | STATIC, 1);
		check_pattern("private memory in the child", private, 4 * LENGTH, 1);
		_exit(0);
	}
	await_arrivals(&arrivals, 1);
	pthread_t threads[2];
	pthread_barrier_init(&met, NULL, 3);
	must_zero(pthread_create(&threads[0], NULL, with_policy, (void *)(long)BIND));
	must_zero(pthread_create(&threads[1], NULL, with_policy, (void *)(long)PREFERRED));
	pthread_barrier_wait(&met);

	victim_ready();
	victim_wait();

	atomic_store(&go, true);
	join_child(child);
	for (int index = 0; index < 2; index++)
		must_zero(pthread_join(threads[index], NULL));
	expect_policy("policy of the first thread", NULL, INTERLEAVE | STATIC, 1);
	expect_policy("private area before them", private, DEFAULT, 0);
	expect_policy("bound area", private + LENGTH, BIND, 1);
	expect_policy("local area", private + 2 * LENGTH, LOCAL, 0);
	expect_policy("private area after them", private + 3 * LENGTH, DEFAULT, 0);
	expect_policy("shared area", shared, PREFERRED, 1);
	expect_policy("rest of the shared area", shared + LENGTH, DEFAULT, 0);
	expect_policy("area without a policy", plain, DEFAULT, 0);
	check_pattern("private memory", private, 4 * LENGTH, 1);
	check_pattern("shared memory", shared, 4 * LENGTH, 2);
	check_pattern("memory without a policy", plain, LENGTH, 3);
	victim_ok();
}
