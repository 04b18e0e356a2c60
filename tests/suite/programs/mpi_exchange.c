/*
 * All kinds of MPI communication, in rounds, everything that arrives checked: a ring of messages from one double to 2 MiB,
 * allreduce, alltoall, one-sided puts, gets and sums in a window. Rank 0 tells each round; the last line is a digest of all
 * that was received, which depends on the number of ranks and rounds only.
 *
 *     mpi_exchange ROUNDS [MICROSECONDS BETWEEN ROUNDS]
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LARGE = 256 * 1024, BLOCK = 3000 };

static int rank, ranks;
static uint64_t digest = 0xcbf29ce484222325u;

static uint64_t word(uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t value = (a + 1) * 0x9e3779b97f4a7c15u ^ (b + 1) * 0xbf58476d1ce4e5b9u ^ (c + 1) * 0x94d049bb133111ebu;
	value ^= value >> 29;
	return value * 0xd6e8feb86659fd93u;
}

static void expect(const char *what, long round, long place, uint64_t expected, uint64_t found)
{
	if (expected != found) {
		printf("WRONG: rank %d, round %ld, %s at %ld: expected %llx, found %llx\n", rank, round, what, place,
		       (unsigned long long)expected, (unsigned long long)found);
		fflush(stdout);
		MPI_Abort(MPI_COMM_WORLD, 1);
	}
	digest = (digest ^ found) * 0x100000001b3u;
}

static void ring(long round, uint64_t *send, uint64_t *receive)
{
	static const int lengths[] = {1, 100, 5000, 40000, LARGE};
	int length = lengths[round % 5], next = (rank + 1) % ranks, last = (rank + ranks - 1) % ranks;
	MPI_Request requests[2];
	MPI_Status statuses[2];
	for (int place = 0; place < length; place++)
		send[place] = word((uint64_t)rank, (uint64_t)round, (uint64_t)place);
	MPI_Irecv(receive, length, MPI_UINT64_T, last, 7, MPI_COMM_WORLD, &requests[0]);
	MPI_Isend(send, length, MPI_UINT64_T, next, 7, MPI_COMM_WORLD, &requests[1]);
	MPI_Waitall(2, requests, statuses);
	for (int place = 0; place < length; place++)
		expect("ring", round, place, word((uint64_t)last, (uint64_t)round, (uint64_t)place), receive[place]);
}

static void reduce(long round, uint64_t *send, uint64_t *receive)
{
	for (int place = 0; place < BLOCK; place++)
		send[place] = word((uint64_t)rank, (uint64_t)round, (uint64_t)place);
	MPI_Allreduce(send, receive, BLOCK, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
	for (int place = 0; place < BLOCK; place++) {
		uint64_t sum = 0;
		for (int other = 0; other < ranks; other++)
			sum += word((uint64_t)other, (uint64_t)round, (uint64_t)place);
		expect("allreduce", round, place, sum, receive[place]);
	}
}

static void alltoall(long round, uint64_t *send, uint64_t *receive)
{
	for (int other = 0; other < ranks; other++)
		for (int place = 0; place < BLOCK; place++)
			send[other * BLOCK + place] = word((uint64_t)(rank * 1000 + other), (uint64_t)round, (uint64_t)place);
	MPI_Alltoall(send, BLOCK, MPI_UINT64_T, receive, BLOCK, MPI_UINT64_T, MPI_COMM_WORLD);
	for (int other = 0; other < ranks; other++)
		for (int place = 0; place < BLOCK; place++)
			expect("alltoall", round, place,
			       word((uint64_t)(other * 1000 + rank), (uint64_t)round, (uint64_t)place),
			       receive[other * BLOCK + place]);
}

static void one_sided(long round, MPI_Win window, uint64_t *memory, uint64_t *send, uint64_t *receive)
{
	int next = (rank + 1) % ranks, last = (rank + ranks - 1) % ranks;
	uint64_t one = word((uint64_t)rank, (uint64_t)round, 0);
	memory[BLOCK] = 0;
	for (int place = 0; place < BLOCK; place++)
		send[place] = word((uint64_t)rank, (uint64_t)round + 5, (uint64_t)place);
	MPI_Win_fence(0, window);
	MPI_Put(send, BLOCK, MPI_UINT64_T, next, 0, BLOCK, MPI_UINT64_T, window);
	for (int other = 0; other < ranks; other++)
		MPI_Accumulate(&one, 1, MPI_UINT64_T, other, BLOCK, 1, MPI_UINT64_T, MPI_SUM, window);
	MPI_Win_fence(0, window);
	MPI_Get(receive, BLOCK, MPI_UINT64_T, next, 0, BLOCK, MPI_UINT64_T, window);
	MPI_Win_fence(0, window);
	uint64_t sum = 0;
	for (int other = 0; other < ranks; other++)
		sum += word((uint64_t)other, (uint64_t)round, 0);
	expect("accumulate", round, 0, sum, memory[BLOCK]);
	for (int place = 0; place < BLOCK; place++) {
		expect("put", round, place, word((uint64_t)last, (uint64_t)round + 5, (uint64_t)place), memory[place]);
		expect("get", round, place, send[place], receive[place]);
	}
	MPI_Win_fence(0, window);
}

int main(int argc, char **argv)
{
	long rounds = argc > 1 ? atol(argv[1]) : 100;
	unsigned pause = argc > 2 ? (unsigned)atol(argv[2]) : 0;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	size_t length = LARGE > BLOCK * ranks ? LARGE : (size_t)BLOCK * (size_t)ranks;
	uint64_t *send = malloc(length * 8), *receive = malloc(length * 8), total;
	uint64_t *memory = calloc(BLOCK + 1, 8);
	MPI_Win window;
	MPI_Win_create(memory, (BLOCK + 1) * 8, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &window);
	for (long round = 0; round < rounds; round++) {
		ring(round, send, receive);
		reduce(round, send, receive);
		alltoall(round, send, receive);
		one_sided(round, window, memory, send, receive);
		if (rank == 0) {
			printf("ROUND %ld\n", round);
			fflush(stdout);
		}
		if (pause != 0)
			usleep(pause);
	}
	MPI_Win_free(&window);
	MPI_Reduce(&digest, &total, 1, MPI_UINT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
	if (rank == 0)
		printf("DIGEST %016llx\n", (unsigned long long)total);
	MPI_Finalize();
	return 0;
}
