/* A program with a large cache, which it can fill again: the image is made without it.
 *
 *   cc -O2 cache.c -o cache $(pkg-config --cflags --libs libcryo)
 *   ./cache 1024 &                      # MiB
 *   cryo checkpoint $! -o cache.cryo    # a small image; with `./cache 1024 keep &` it has the whole cache in it
 */
#include <cryo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static unsigned long *cache;
static size_t words;

static void fill(void) {
    for (size_t index = 0; index < words; index++)
        cache[index] = index * 0x9e3779b97f4a7c15u + 1;
}

static int refill(int event, void *nothing) {
    (void)nothing;
    if (event == CRYO_RESTART) {
        size_t empty = 0;
        for (size_t index = 0; index < words; index++)
            empty += cache[index] == 0;
        printf("life %d: %zu of %zu words were left out, filling them again\n", cryo_generation(), empty, words);
        fflush(stdout);
        fill();
    }
    return CRYO_READY;
}

int main(int count, char **arguments) {
    size_t bytes = (size_t)(count > 1 ? atol(arguments[1]) : 1024) << 20;
    words = bytes / sizeof *cache;
    cache = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (cache == MAP_FAILED) {
        perror("cache");
        return 1;
    }
    fill();
    int keep = count > 2 && strcmp(arguments[2], "keep") == 0;
    if (cryo_register("cache", refill, NULL, CRYO_IN_THREAD) < 0 || (!keep && cryo_exclude(cache, bytes) != 0)) {
        perror("cryo");
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        cryo_enter();
        for (size_t index = 0; index < words; index += 4096)
            if (cache[index] != index * 0x9e3779b97f4a7c15u + 1) {
                printf("the cache is wrong at %zu\n", index);
                return 1;
            }
        cryo_leave();
        usleep(10000);
    }
}
