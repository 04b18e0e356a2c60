/* Sixty-four mebibytes of noise in one mapping, found again byte by byte. */
#include "victim.h"

enum { LENGTH = 64 * 1024 * 1024 };

int main(void)
{
	char *body = map_anonymous(LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(body, LENGTH, 1);
	victim_ready();
	victim_wait();
	check_pattern("large memory", body, LENGTH, 1);
	victim_ok();
}
