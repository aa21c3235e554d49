/* What both sources need: a growing buffer, the counters that the benchmarks read, a listener. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct buffer {
    char *bytes;
    size_t used, size;
};

static volatile uint64_t *shared;
static int epoll_fd;

static void put(struct buffer *b, const void *bytes, size_t length)
{
    if (b->used + length > b->size) {
        b->size = 2 * (b->used + length);
        b->bytes = realloc(b->bytes, b->size);
        if (!b->bytes) abort();
    }
    memcpy(b->bytes + b->used, bytes, length);
    b->used += length;
}

/* Map `words` counters in a file, listen, and make the epoll set, in which the listener has no
 * data of its own. Returns the listener; ends the program if any of it fails. */
static int open_source(const char *path, size_t words, const char *host, int port)
{
    int file = open(path, O_RDWR | O_CREAT, 0600), one = 1;
    if (file < 0 || ftruncate(file, 8 * words)) exit(1);
    shared = mmap(NULL, 8 * words, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) exit(1);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(host)};
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) exit(1);
    epoll_fd = epoll_create1(0);
    struct epoll_event listening = {.events = EPOLLIN};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &listening);
    return listener;
}

/* The next client of the listener, without delay and for the epoll set to come; -1: there is none. */
static int accepted(int listener)
{
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd >= 0) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}
