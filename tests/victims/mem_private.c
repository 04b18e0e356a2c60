/* Private anonymous memory: every byte of densely, sparsely and read-only filled mappings, and their addresses. */
#include "victim.h"

enum { DENSE = 3 * 1024 * 1024 + 4096, SPARSE = 64 * 1024 * 1024, STRIDE = 1024 * 1024 };

int main(void)
{
	char *dense = map_anonymous(DENSE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *sparse = map_anonymous(SPARSE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *constant = map_anonymous(8192, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill_pattern(dense, DENSE, 1);
	for (size_t place = 0; place < SPARSE; place += STRIDE)
		fill_pattern(sparse + place, 4096, place);
	fill_pattern(constant, 8192, 2);
	must(mprotect(constant, 8192, PROT_READ));

	victim_ready();
	victim_wait();

	check_pattern("dense memory", dense, DENSE, 1);
	for (size_t place = 0; place < SPARSE; place += STRIDE) {
		check_pattern("sparse memory", sparse + place, 4096, place);
		check_zeros("hole of sparse memory", sparse + place + 4096, 8192);
	}
	check_pattern("read-only memory", constant, 8192, 2);
	fill_pattern(dense, DENSE, 3);
	check_pattern("dense memory, written again", dense, DENSE, 3);
	victim_ok();
}
