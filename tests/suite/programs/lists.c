/*
 * lists ROUNDS: sorted lists that grow and shrink in the heap, for valgrind to watch; two threads. The same rounds give the
 * same output, and no memory is lost.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct node {
	struct node *next;
	uint32_t value;
};

struct work {
	uint32_t state;
	unsigned rounds;
	uint64_t sum;
};

static void *go(void *argument)
{
	struct work *work = argument;
	struct node *list = NULL;

	for (unsigned round = 0; round < work->rounds; round++) {
		struct node **place = &list;
		struct node *node = malloc(sizeof *node);

		work->state = work->state * 1664525u + 1013904223u;
		node->value = work->state >> 16;
		while (*place && (*place)->value < node->value)
			place = &(*place)->next;
		node->next = *place;
		*place = node;
		if (round >= 200) {
			struct node *first = list;

			work->sum = work->sum * 31 + first->value;
			list = first->next;
			free(first);
		}
	}
	while (list) {
		struct node *first = list;

		work->sum = work->sum * 31 + first->value;
		list = first->next;
		free(first);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 100;

	printf("READY\n");
	fflush(stdout);
	for (unsigned part = 0; part < 10; part++) {
		struct work works[2] = {{part + 1, rounds, 0}, {part + 77, rounds, 0}};
		pthread_t threads[2];

		for (int index = 0; index < 2; index++)
			if (pthread_create(&threads[index], NULL, go, &works[index]) != 0)
				return 1;
		for (int index = 0; index < 2; index++)
			pthread_join(threads[index], NULL);
		printf("%u %016llx %016llx\n", part, (unsigned long long)works[0].sum, (unsigned long long)works[1].sum);
		fflush(stdout);
	}
	printf("FINAL\n");
	return 0;
}
