/* Protection keys (pkey_alloc): of a mapping, and what a thread may do by them. */
#include "victim.h"

int main(void)
{
	int key = pkey_alloc(0, PKEY_DISABLE_WRITE);
	if (key < 0)
		skip("this processor has no protection keys: %s", strerror(errno));
	char *area = map_anonymous(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	must(pkey_mprotect(area, 4096, PROT_READ | PROT_WRITE, key));

	victim_ready();
	victim_wait();

	char value[32];
	expect_true(smaps_field(area, "ProtectionKey", value, sizeof value));
	expect_equal("key of the mapping", key, atoi(value));
	expect_equal("rights of the thread", PKEY_DISABLE_WRITE, pkey_get(key));
	expect_success(pkey_set(key, 0));
	area[0] = 'x';
	victim_ok();
}
