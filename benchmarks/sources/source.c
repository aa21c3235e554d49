/* A fast LLM server without a model, for measuring clients.
 *
 *   source PORT INTERVAL_US SHARED_FILE [STAMPS]
 *
 * POST .../generate, .../generate_stream, /v1/completions and /v1/chat/completions, streamed when
 * the body says "stream":true. The answer follows the text contract of the kit's models: prompt,
 * then max_tokens tokens " <hex>:<i>", where <hex> is the nonce that the prompt begins with; the
 * OpenAI protocols do not echo, and each of their answers has an id of its own. INTERVAL_US 0 sends a streamed answer in one write (coalesced);
 * otherwise each event is a write of its own, INTERVAL_US after the one before (paced), and a
 * whole answer comes INTERVAL_US after its request.
 *
 * SHARED_FILE is mapped: u64 requests answered, u64 events sent, u64 words of the stamp log used.
 * With STAMPS (a number of 64-bit words) each streamed or whole answer is logged behind that
 * header as: nonce, count, received_ns, sent_ns * count (CLOCK_MONOTONIC). Sent is taken before
 * write; received is the kernel's time of the request, since what waits here until this one
 * thread comes to it is no time that a client could see.
 *
 * One thread, one epoll set, 127.0.0.1 only. Every request is answered; nothing is validated. */
#include "common.h"

enum { HEADER_WORDS = 8, IN_SIZE = 1 << 16, MOST_TOKENS = 4096 };
enum kind { GENERATE, COMPLETIONS, CHAT };

struct connection {
    int fd;
    char in[IN_SIZE];
    size_t have;
    struct buffer out;
    size_t written;
    /* the answer under way */
    enum kind kind;
    int streaming, busy, tokens, next_token, hang_up;
    char digits[9], id[17];
    char *prompt;
    size_t prompt_length;
    int64_t due_ns;
    uint64_t *stamps;
    struct connection *later;
};

static uint64_t stamp_words;
static int64_t interval_ns;
static struct connection *first_due, *last_due;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

#define PUT(b, literal) put(b, literal, sizeof literal - 1)

/* Sixteen hexadecimal digits, as servers draw them at random: no answer has those of another. */
static void draw_id(struct connection *c)
{
    static const char hex[] = "0123456789abcdef";
    static uint64_t answers;
    uint64_t id = ++answers * 0x9E3779B97F4A7C15ull;
    for (int digit = 0; digit < 16; digit++, id >>= 4) c->id[digit] = hex[id & 15];
}

static void put_number(struct buffer *b, unsigned n)
{
    char text[12];
    int at = sizeof text;
    do text[--at] = '0' + n % 10;
    while (n /= 10);
    put(b, text + at, sizeof text - at);
}

static void put_token(struct buffer *b, const struct connection *c, int index)
{
    PUT(b, " ");
    put(b, c->digits, 8);
    PUT(b, ":");
    put_number(b, index);
}

/* One event as an HTTP chunk: its size is patched in afterwards, always four hex digits. */
static void put_event(struct buffer *b, struct connection *c, int index)
{
    static const char hex[] = "0123456789abcdef";
    int last = index == c->tokens - 1;
    size_t at = b->used, start, length;
    PUT(b, "0000\r\ndata: ");
    start = at + 6;
    if (c->kind == GENERATE) {
        PUT(b, "{\"model_name\":\"m\",\"model_version\":\"1\",\"text_output\":\"");
        if (index == 0) put(b, c->prompt, c->prompt_length);
        put_token(b, c, index);
        PUT(b, "\"}\n\n");
    } else if (c->kind == CHAT) {
        PUT(b, "{\"id\":\"chatcmpl-");
        put(b, c->id, 16);
        PUT(b, "\",\"object\":\"chat.completion.chunk\","
               "\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":"
               "{\"content\":\"");
        put_token(b, c, index);
        PUT(b, "\"},\"logprobs\":null,\"finish_reason\":");
        if (last) PUT(b, "\"length\"}]}\n\n");
        else PUT(b, "null}]}\n\n");
    } else {
        PUT(b, "{\"id\":\"cmpl-");
        put(b, c->id, 16);
        PUT(b, "\",\"object\":\"text_completion\","
               "\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":\"");
        put_token(b, c, index);
        PUT(b, "\",\"logprobs\":null,\"finish_reason\":");
        if (last) PUT(b, "\"length\"}]}\n\n");
        else PUT(b, "null}]}\n\n");
    }
    length = b->used - start;
    for (int digit = 3; digit >= 0; digit--, length >>= 4) b->bytes[at + digit] = hex[length & 15];
    PUT(b, "\r\n");
    if (last) {
        if (c->kind != GENERATE) PUT(b, "e\r\ndata: [DONE]\n\n\r\n");
        PUT(b, "0\r\n\r\n");
    }
}

static void put_whole(struct buffer *b, struct connection *c)
{
    static struct buffer body;
    body.used = 0;
    if (c->kind == GENERATE) {
        PUT(&body, "{\"model_name\":\"m\",\"model_version\":\"1\",\"text_output\":\"");
        put(&body, c->prompt, c->prompt_length);
    } else if (c->kind == CHAT) {
        PUT(&body, "{\"id\":\"chatcmpl-");
        put(&body, c->id, 16);
        PUT(&body, "\",\"object\":\"chat.completion\","
                   "\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":"
                   "{\"role\":\"assistant\",\"content\":\"");
    } else {
        PUT(&body, "{\"id\":\"cmpl-");
        put(&body, c->id, 16);
        PUT(&body, "\",\"object\":\"text_completion\","
                   "\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":\"");
    }
    for (int i = 0; i < c->tokens; i++) put_token(&body, c, i);
    if (c->kind == GENERATE) PUT(&body, "\"}");
    else {
        if (c->kind == CHAT) PUT(&body, "\"},");
        else PUT(&body, "\",");
        PUT(&body, "\"logprobs\":null,\"finish_reason\":\"length\"}],"
                   "\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":");
        put_number(&body, c->tokens);
        PUT(&body, "}}");
    }
    PUT(b, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ");
    put_number(b, body.used);
    PUT(b, "\r\n\r\n");
    put(b, body.bytes, body.used);
}

static void watch(struct connection *c, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void flush(struct connection *c)
{
    while (c->written < c->out.used) {
        ssize_t n = write(c->fd, c->out.bytes + c->written, c->out.used - c->written);
        if (n < 0) {
            if (errno == EAGAIN) watch(c, EPOLLIN | EPOLLOUT);
            else c->hang_up = 1;
            return;
        }
        c->written += n;
    }
    c->out.used = c->written = 0;
}

static void stamp(struct connection *c, int index)
{
    if (c->stamps) c->stamps[3 + index] = now_ns();
}

static void enqueue(struct connection *c, int64_t due_ns)
{
    c->due_ns = due_ns;
    c->later = NULL;
    if (last_due) last_due->later = c;
    else first_due = c;
    last_due = c;
}

/* Send what is due of the answer under way. */
static void step(struct connection *c)
{
    if (!c->streaming) {
        put_whole(&c->out, c);
        stamp(c, 0);
        c->busy = 0;
    } else {
        if (c->next_token == 0)
            PUT(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                         "Transfer-Encoding: chunked\r\n\r\n");
        int end = interval_ns ? c->next_token + 1 : c->tokens;
        shared[1] += end - c->next_token;
        for (; c->next_token < end; c->next_token++) {
            put_event(&c->out, c, c->next_token);
            stamp(c, c->next_token);
        }
        c->busy = c->next_token < c->tokens;
    }
    if (!c->busy) shared[0]++;
    if (c->busy) enqueue(c, c->due_ns + interval_ns);
    flush(c);
}

/* read(), and in *at when the kernel received what was read, or the time now if it does not say. */
static ssize_t read_stamped(int fd, char *into, size_t most, int64_t *at)
{
    char control[CMSG_SPACE(sizeof(struct timespec))];
    struct iovec where = {into, most};
    struct msghdr message = {.msg_iov = &where, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &message, 0);
    struct cmsghdr *told = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    *at = now_ns();
    if (told && told->cmsg_level == SOL_SOCKET && told->cmsg_type == SCM_TIMESTAMPNS) {
        struct timespec stamp, wall;
        memcpy(&stamp, CMSG_DATA(told), sizeof stamp);
        clock_gettime(CLOCK_REALTIME, &wall);
        int64_t ago = (wall.tv_sec - stamp.tv_sec) * 1000000000ll + wall.tv_nsec - stamp.tv_nsec;
        if (ago > 0) *at -= ago;
    }
    return n;
}

static const char *after(const char *body, const char *end, const char *key)
{
    size_t length = strlen(key);
    const char *found = memmem(body, end - body, key, length);
    if (!found) return NULL;
    found += length;
    while (found < end && (*found == ' ' || *found == ':' || *found == '"' || *found == '\\')) found++;
    return found;
}

static void start(struct connection *c, const char *head, const char *body, const char *end, int64_t received_ns)
{
    const char *path = memchr(head, ' ', body - head), *at, *stop;
    size_t line = path ? strcspn(++path, " ") : 0;
    if (!path || memcmp(head, "POST ", 5)) {
        static const char none[] =
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 84\r\n\r\n"
            "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1,\"owned_by\":\"nobody\"}]}";
        put(&c->out, none, sizeof none - 1);
        flush(c);
        return;
    }
    c->kind = memmem(path, line, "/chat/", 6) ? CHAT : memmem(path, line, "/v1/", 4) ? COMPLETIONS : GENERATE;
    if (c->kind == GENERATE) c->streaming = memmem(path, line, "generate_stream", 15) != NULL;
    else c->streaming = (at = after(body, end, "\"stream\"")) && *at == 't';
    at = after(body, end, "max_tokens");
    if (!at) at = after(body, end, "max_completion_tokens");
    c->tokens = at ? atoi(at) : 64;
    if (c->tokens < 1 || c->tokens > MOST_TOKENS) c->tokens = 64;
    at = memmem(body, end - body, "[n:", 3);
    memcpy(c->digits, at && end - at > 11 ? at + 3 : "00000000", 8);
    c->prompt_length = 0;
    if (c->kind == GENERATE && (at = memmem(body, end - body, "\"text_input\":", 13))) {
        at += 13 + strspn(at + 13, " \"");
        for (stop = at; stop < end && *stop != '"'; stop++)
            if (*stop == '\\') stop++;
        c->prompt_length = stop - at;
        c->prompt = realloc(c->prompt, c->prompt_length + 1);
        memcpy(c->prompt, at, c->prompt_length);
    }
    c->next_token = 0;
    draw_id(c);
    c->stamps = NULL;
    int count = c->streaming ? c->tokens : 1;
    if (stamp_words && shared[2] + 3 + count <= stamp_words) {
        c->stamps = (uint64_t *)shared + HEADER_WORDS + shared[2];
        shared[2] += 3 + count;
        c->stamps[0] = strtoul(c->digits, NULL, 16);
        c->stamps[1] = count;
        c->stamps[2] = received_ns;
    }
    c->busy = 1;
    if (interval_ns) enqueue(c, received_ns + interval_ns);
    else {
        c->due_ns = received_ns;
        step(c);
    }
}

static void take(struct connection *c, int64_t received_ns)
{
    while (!c->busy && c->have) {
        c->in[c->have] = 0;
        char *blank = memmem(c->in, c->have, "\r\n\r\n", 4);
        if (!blank) return;
        char *body = blank + 4, *length;
        *blank = 0;
        length = strcasestr(c->in, "\r\ncontent-length:");
        int expects = strcasestr(c->in, "\r\nexpect: 100") != NULL;
        *blank = '\r';
        size_t size = body - c->in + (length && length < blank ? strtoul(length + 17, NULL, 10) : 0);
        if (c->have < size) {
            if (expects && c->have == (size_t)(body - c->in)) {
                PUT(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
                flush(c);
            }
            return;
        }
        start(c, c->in, body, c->in + size, received_ns);
        memmove(c->in, c->in + size, c->have - size);
        c->have -= size;
    }
}

static void drop(struct connection *c)
{
    close(c->fd);
    free(c->out.bytes);
    free(c->prompt);
    free(c);
}

static void serve(struct connection *c, uint32_t events)
{
    if (events & EPOLLOUT) {
        flush(c);
        if (c->out.used == 0) watch(c, EPOLLIN);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        int64_t received_ns;
        ssize_t n = read_stamped(c->fd, c->in + c->have, IN_SIZE - 1 - c->have, &received_ns);
        if (n > 0) {
            c->have += n;
            take(c, received_ns);
        } else if (n == 0 || errno != EAGAIN) c->hang_up = 1;
    }
    if (c->hang_up) {
        if (c->busy) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL); /* dropped when it is due */
        else drop(c);
    }
}

int main(int count, char **words)
{
    if (count < 4) return 2;
    interval_ns = atoll(words[2]) * 1000;
    stamp_words = count > 4 ? strtoull(words[4], NULL, 10) : 0;
    int listener = open_source(
        words[3], HEADER_WORDS + stamp_words, count > 5 ? words[5] : "127.0.0.1", atoi(words[1]));
    int one = 1;
    struct epoll_event events[512];

    for (;;) {
        struct timespec wait, *until = NULL;
        if (first_due) {
            int64_t left = first_due->due_ns - now_ns();
            if (left < 0) left = 0;
            wait = (struct timespec){left / 1000000000, left % 1000000000};
            until = &wait;
        }
        int ready = epoll_pwait2(epoll_fd, events, 512, until, NULL);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c) {
                serve(c, events[i].events);
                continue;
            }
            int fd;
            while ((fd = accepted(listener)) >= 0) {
                if (stamp_words) setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
                c = calloc(1, sizeof *c);
                if (!c) abort();
                c->fd = fd;
                struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
            }
        }
        while (first_due && first_due->due_ns <= now_ns()) {
            struct connection *c = first_due;
            first_due = c->later;
            if (!first_due) last_due = NULL;
            c->busy = 0;
            if (!c->hang_up) step(c);
            if (c->busy) continue;
            if (c->hang_up) drop(c);
            else take(c, now_ns());
        }
    }
}
