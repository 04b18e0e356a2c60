/* A server that closes its sockets before a checkpoint and opens them again afterwards, in whichever life that is. Its clients see
 * the connection end, and connect again; how many it has served goes on.
 *
 *   cc -O2 server.c -o server $(pkg-config --cflags --libs libcryo)
 *   ./server 7000
 */
#include <arpa/inet.h>
#include <cryo.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int port, listening = -1, client = -1, served;

static int opens(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int yes = 1;
    listening = socket(AF_INET, SOCK_STREAM, 0);
    if (listening < 0 || setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        bind(listening, (struct sockaddr *)&address, sizeof address) != 0 || listen(listening, 16) != 0) {
        perror("server");
        return -1;
    }
    return 0;
}

/* In the library's thread; the main loop touches its sockets in critical sections only, so that it is elsewhere now. */
static int around_checkpoint(int event, void *nothing) {
    (void)nothing;
    if (event != CRYO_CHECKPOINT) {
        if (opens() != 0)
            exit(1);
        return CRYO_READY;
    }
    close(listening);
    listening = -1;
    if (client >= 0)
        close(client);
    client = -1;
    return CRYO_READY;
}

int main(int count, char **arguments) {
    port = count > 1 ? atoi(arguments[1]) : 7000;
    if (opens() != 0)
        return 1;
    if (port == 0) {
        struct sockaddr_in address;
        socklen_t length = sizeof address;
        getsockname(listening, (struct sockaddr *)&address, &length);
        port = ntohs(address.sin_port);
    }
    if (cryo_register("sockets", around_checkpoint, NULL, CRYO_IN_THREAD) < 0) {
        perror("cryo_register");
        return 1;
    }
    printf("port %d\n", port);
    fflush(stdout);
    for (;;) {
        cryo_enter();
        struct pollfd wanted = {.fd = listening, .events = POLLIN};
        if (poll(&wanted, 1, 10) > 0) {
            if (client >= 0)
                close(client);
            client = accept(listening, NULL, NULL);
            if (client >= 0)
                dprintf(client, "client %d\n", ++served);
        }
        cryo_leave();
        usleep(1000);
    }
}
