/* An iterative solver that has itself checkpointed every so many steps, where its state is small and consistent.
 *
 *   cc -O2 solver.c -o solver $(pkg-config --cflags --libs libcryo)
 *   ./solver 2000 500 solver.cryo       # steps, steps between checkpoints, image
 *   cryo restart solver.cryo            # after a crash: goes on where the last checkpoint was made
 */
#include <cryo.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 256 };

static double grid[2][SIDE][SIDE];

static void step(int from) {
    for (int row = 1; row < SIDE - 1; row++)
        for (int column = 1; column < SIDE - 1; column++)
            grid[!from][row][column] = 0.25 * (grid[from][row - 1][column] + grid[from][row + 1][column] +
                                               grid[from][row][column - 1] + grid[from][row][column + 1]);
}

int main(int count, char **arguments) {
    if (count != 4) {
        fprintf(stderr, "usage: solver STEPS EVERY IMAGE\n");
        return 2;
    }
    long steps = atol(arguments[1]), every = atol(arguments[2]);
    for (int column = 0; column < SIDE; column++)
        grid[0][0][column] = grid[1][0][column] = 100.0;
    for (long now = 1; now <= steps; now++) {
        step((int)((now - 1) & 1));
        if (now % every == 0 && now < steps) {
            int life = cryo_checkpoint(arguments[3]);
            if (life < 0)
                /* Without cryo, or when it cannot be done now, the work goes on all the same. */
                printf("step %ld: no checkpoint: %s\n", now, strerror(errno));
            else if (life == 0)
                printf("step %ld: saved\n", now);
            else
                printf("step %ld: life %d begins\n", now, life);
            fflush(stdout);
        }
    }
    double sum = 0;
    for (int row = 0; row < SIDE; row++)
        for (int column = 0; column < SIDE; column++)
            sum += grid[steps & 1][row][column];
    printf("result %.12e\n", sum);
    return 0;
}
