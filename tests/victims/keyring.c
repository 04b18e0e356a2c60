/* Keys of its own: in its process keyring. */
#include "victim.h"

int main(void)
{
	char value[8];
	long key = syscall(SYS_add_key, "user", "victim", "value", 5, -2 /* KEY_SPEC_PROCESS_KEYRING */);
	if (key < 0)
		skip("no keys: %s", strerror(errno));
	victim_ready();
	victim_wait();
	expect_equal("length of the key", 5, syscall(SYS_keyctl, 11 /* KEYCTL_READ */, key, value, sizeof value));
	expect_equal("difference of the key", 0, memcmp(value, "value", 5));
	victim_ok();
}
