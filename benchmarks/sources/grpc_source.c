/* A fast gRPC server of Triton's infer protocol without a model, for measuring clients.
 *
 *   grpc_source PORT SHARED_FILE
 *
 * Answers ModelInfer (a message that ends its stream) and ModelStreamInfer (one that does not) by
 * the text contract of the kit's models: prompt, then max_tokens tokens " <hex>:<i>", where <hex>
 * is the nonce that the prompt begins with. A stream has a message a token, all in one write, and
 * a last one that is empty and says that it is the last, as Triton's are.
 *
 * HTTP/2 as far as gRPC's clients need it: SETTINGS and PING are acknowledged, the client's window
 * for the connection is honoured. Header blocks are not decoded, so neither path nor deadline
 * matters; a message must come in one DATA frame, as small ones do.
 *
 * SHARED_FILE is mapped: u64 requests answered, u64 messages with a token sent.
 *
 * One thread, one epoll set, 127.0.0.1 only. */
#include "common.h"

enum { IN_SIZE = 1 << 18, FRAME_HEAD = 9, PREFACE = 24, MOST_TOKENS = 4096 };
enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

struct connection {
    int fd, greeted;
    uint8_t in[IN_SIZE];
    size_t have;
    struct buffer frames; /* in turn; DATA waits here for the client's window */
    size_t framed;        /* of these, in `out` */
    struct buffer out;
    size_t written;
    int64_t room;    /* the client's window for the connection */
    uint32_t eaten;  /* of ours, since it was last widened */
    uint32_t headed; /* the last stream whose answer's head was sent */
    int has_kind, kind_is_older; /* content-type is in the client's table; grpc-status as well */
};

static void put_frame(struct buffer *b, int kind, int flags, uint32_t stream, const void *payload, size_t length)
{
    uint8_t head[FRAME_HEAD] = {
        length >> 16, length >> 8, length, kind, flags, stream >> 24, stream >> 16, stream >> 8, stream};
    put(b, head, sizeof head);
    put(b, payload, length);
}

static void put_word(uint8_t *at, uint32_t word)
{
    for (int i = 0; i < 4; i++) at[i] = word >> (24 - 8 * i);
}

static uint32_t word_of(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

/* --- protobuf */

static size_t put_varint(uint8_t *at, size_t value)
{
    size_t length = 0;
    for (; value > 127; value >>= 7) at[length++] = value | 128;
    at[length++] = value;
    return length;
}

static void put_field(struct buffer *b, int number, const void *bytes, size_t length)
{
    uint8_t head[12] = {number << 3 | 2};
    put(b, head, 1 + put_varint(head + 1, length));
    put(b, bytes, length);
}

/* Fields of an InferResponse: of model "m", version "1", with triton_final_response and a text. */
static void put_response(struct buffer *b, int final, const void *text, size_t length)
{
    static const uint8_t output[] = "\x0a\x0btext_output\x12\x05" "BYTES\x1a\x01\x01";
    static struct buffer contents;
    uint8_t parameter[] = "\x0a\x15triton_final_response\x12\x02\x08\x00";
    uint32_t size = length;
    parameter[sizeof parameter - 2] = final;
    put_field(b, 1, "m", 1);
    put_field(b, 2, "1", 1);
    put_field(b, 4, parameter, sizeof parameter - 1);
    if (!text) return;
    put_field(b, 5, output, sizeof output - 1);
    contents.used = 0;
    put(&contents, &size, 4);
    put(&contents, text, length);
    put_field(b, 6, contents.bytes, contents.used);
}

/* --- answers */

static void send_message(struct connection *c, uint32_t stream, const struct buffer *message)
{
    static struct buffer framed;
    uint8_t prefix[5] = {0};
    put_word(prefix + 1, message->used);
    framed.used = 0;
    put(&framed, prefix, 5);
    put(&framed, message->bytes, message->used);
    put_frame(&c->frames, DATA, 0, stream, framed.bytes, framed.used);
}

/* The fields of a head and of trailers enter the client's table once and are referred to by number
 * afterwards, as servers do; the last that entered is number 62. */
static void send_head(struct connection *c, uint32_t stream)
{
    static const uint8_t first[] = "\x88\x5f\x10" "application/grpc"; /* :status 200, content-type */
    uint8_t later[] = {0x88, 0x80 | (c->kind_is_older ? 63 : 62)};
    if (c->has_kind) put_frame(&c->frames, HEADERS, END_HEADERS, stream, later, sizeof later);
    else put_frame(&c->frames, HEADERS, END_HEADERS, stream, first, sizeof first - 1);
    c->has_kind = 1;
}

static void send_end(struct connection *c, uint32_t stream)
{
    static const uint8_t first[] = "\x40\x0bgrpc-status\x01" "0";
    uint8_t later[] = {0x80 | 62};
    int flags = END_HEADERS | END_STREAM;
    if (c->kind_is_older) put_frame(&c->frames, HEADERS, flags, stream, later, sizeof later);
    else put_frame(&c->frames, HEADERS, flags, stream, first, sizeof first - 1);
    c->kind_is_older = 1; /* a head always came before */
}

static void send_part(struct connection *c, uint32_t stream, int final, const char *text, size_t length)
{
    static struct buffer response, message;
    response.used = message.used = 0;
    put_response(&response, final, text, length);
    put_field(&message, 2, response.bytes, response.used);
    send_message(c, stream, &message);
}

static void answer(struct connection *c, uint32_t stream, const uint8_t *data, size_t length, int unary)
{
    static struct buffer text, message;
    const uint8_t *prompt = memmem(data, length, "[n:", 3), *asked = memmem(data, length, "max_tokens\":", 12);
    uint32_t size;
    if (!prompt || prompt - data < 4 || !asked) abort(); /* no request of the kit's */
    memcpy(&size, prompt - 4, 4);
    if (prompt + size > data + length) abort();
    int tokens = atoi((const char *)asked + 12);
    if (tokens < 1 || tokens > MOST_TOKENS) abort();
    text.used = 0;
    put(&text, prompt, size);
    if (unary || c->headed < stream) send_head(c, stream);
    if (c->headed < stream) c->headed = stream;
    for (int i = 0; i < tokens; i++) {
        char token[32];
        put(&text, token, sprintf(token, " %.8s:%d", (const char *)prompt + 3, i));
        if (!unary) {
            send_part(c, stream, 0, text.bytes, text.used);
            text.used = 0;
        }
    }
    if (unary) {
        message.used = 0;
        put_response(&message, 1, text.bytes, text.used);
        send_message(c, stream, &message);
        send_end(c, stream);
    } else {
        send_part(c, stream, 1, NULL, 0);
        shared[1] += tokens;
    }
    shared[0]++;
}

/* --- frames */

static void take_frame(struct connection *c, int kind, int flags, uint32_t stream, const uint8_t *payload, size_t length)
{
    uint8_t update[4];
    switch (kind) {
    case DATA:
        c->eaten += length;
        if (c->eaten > 1 << 20) {
            put_word(update, c->eaten);
            put_frame(&c->frames, WINDOW_UPDATE, 0, 0, update, 4);
            c->eaten = 0;
        }
        if (length > 5) {
            if (word_of(payload + 1) != length - 5) abort();
            answer(c, stream, payload + 5, length - 5, flags & END_STREAM);
        } else if (flags & END_STREAM) {
            if (c->headed < stream) send_head(c, stream);
            send_end(c, stream);
        }
        break;
    case SETTINGS:
        if (!(flags & ACK)) put_frame(&c->frames, SETTINGS, ACK, 0, NULL, 0);
        break;
    case PING:
        if (!(flags & ACK)) put_frame(&c->frames, PING, ACK, 0, payload, length);
        break;
    case WINDOW_UPDATE:
        if (!stream) c->room += word_of(payload);
        break;
    }
}

/* Move what the client's window allows to `out`, and write it. Returns 0 when the client is gone. */
static int pump(struct connection *c)
{
    while (c->framed < c->frames.used) {
        const uint8_t *at = (uint8_t *)c->frames.bytes + c->framed;
        size_t length = (size_t)at[0] << 16 | at[1] << 8 | at[2];
        if (at[3] == DATA) {
            if (c->room < (int64_t)length) break;
            c->room -= length;
        }
        put(&c->out, at, FRAME_HEAD + length);
        c->framed += FRAME_HEAD + length;
    }
    if (c->framed == c->frames.used) c->framed = c->frames.used = 0;
    while (c->written < c->out.used) {
        ssize_t n = write(c->fd, c->out.bytes + c->written, c->out.used - c->written);
        if (n < 0) {
            if (errno != EAGAIN) return 0;
            struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
            epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
            return 1;
        }
        c->written += n;
    }
    c->out.used = c->written = 0;
    return 1;
}

static void drop(struct connection *c)
{
    close(c->fd);
    free(c->frames.bytes);
    free(c->out.bytes);
    free(c);
}

static void serve(struct connection *c, uint32_t events)
{
    if (events & EPOLLOUT) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    }
    ssize_t n = read(c->fd, c->in + c->have, IN_SIZE - c->have);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        drop(c);
        return;
    }
    if (n > 0) c->have += n;
    size_t at = 0;
    if (!c->greeted && c->have >= PREFACE) {
        /* Windows as large as can be: of each stream by SETTINGS, of the connection by an update. */
        static const uint8_t settings[] = {0, 4, 0x7f, 0xff, 0xff, 0xff}, update[] = {0x7f, 0xff, 0, 0};
        put_frame(&c->frames, SETTINGS, 0, 0, settings, sizeof settings);
        put_frame(&c->frames, WINDOW_UPDATE, 0, 0, update, sizeof update);
        at = PREFACE;
        c->greeted = 1;
    }
    while (c->greeted && c->have - at >= FRAME_HEAD) {
        const uint8_t *head = c->in + at;
        size_t length = (size_t)head[0] << 16 | head[1] << 8 | head[2];
        if (c->have - at < FRAME_HEAD + length) break;
        take_frame(c, head[3], head[4], word_of(head + 5) & 0x7fffffff, head + FRAME_HEAD, length);
        at += FRAME_HEAD + length;
    }
    memmove(c->in, c->in + at, c->have - at);
    c->have -= at;
    if (!pump(c)) drop(c);
}

int main(int count, char **words)
{
    if (count < 3) return 2;
    int listener = open_source(words[2], 8, "127.0.0.1", atoi(words[1]));
    struct epoll_event events[512];

    for (;;) {
        int ready = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c) {
                serve(c, events[i].events);
                continue;
            }
            int fd;
            while ((fd = accepted(listener)) >= 0) {
                c = calloc(1, sizeof *c);
                if (!c) abort();
                c->fd = fd;
                c->room = 65535;
                struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
            }
        }
    }
}
