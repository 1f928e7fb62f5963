/*
 * tls_peer.c
 *		A remote server that misbehaves under TLS: speaks just enough of PostgreSQL's
 *		protocol to get libpq to wherever it is to be hurt.
 *
 * Built and run by TAP tests:
 *
 *	tls_peer CERTIFICATE KEY
 *
 * Listens on 127.0.0.1 until its standard input ends, when its children end, too.
 * Which behaviour a client gets, it says by the name of the database, see the table
 * behaviours[].  Those that differ before there is a name have ports of their own:
 * prints "NAME PORT" for each, and an empty line.  At the first, "good", are all the
 * others.  Answers have two columns, "pid", of the process that serves this connection
 * alone, and "text".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#define SSL_REQUEST 80877103
#define GSS_REQUEST 80877104

/* rows of what is large, and the bytes of each one's text */
#define MANY_ROWS 20000
#define TEXT_SIZE 200

/* bytes read of a long query between two requests to change keys */
#define UPDATE_DISTANCE (64 * 1024)

typedef struct Peer
{
	int sock;
	SSL *ssl;
	int key_updates; /* that the client has sent */
	char *body;		 /* of the last message */
	uint32_t size;	 /* of that */
} Peer;

typedef struct Behaviour
{
	const char *name;
	int version;			  /* of TLS, the only one; 0 = any */
	void (*hello)(Peer *);	  /* instead of the handshake */
	void (*greeting)(Peer *); /* instead of a good one */
	void (*answer)(Peer *);	  /* instead of a good one */
	void (*after)(Peer *);	  /* after the answer */
} Behaviour;

static const Behaviour *behaviour;

/* ---- bytes ---- */

static void
leave(void)
{
	_exit(0);
}

static void
reset(Peer *peer)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};

	/* what was sent before is given time to arrive */
	usleep(20 * 1000);
	setsockopt(peer->sock, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	leave();
}

/* Until the client has gone. */
static void
hang(Peer *peer)
{
	char bytes[8192];

	while (read(peer->sock, bytes, sizeof(bytes)) > 0)
		;
	leave();
}

static void
send_raw(Peer *peer, const void *bytes, size_t size)
{
	if (send(peer->sock, bytes, size, 0) != (ssize_t) size)
		leave();
}

static void
send_tls(Peer *peer, const void *bytes, size_t size)
{
	if (SSL_write(peer->ssl, bytes, (int) size) != (int) size)
		leave();
}

static void
read_tls(Peer *peer, void *bytes, size_t size)
{
	char *to = bytes;

	while (size > 0)
	{
		int n = SSL_read(peer->ssl, to, (int) size);

		if (n <= 0)
			leave();
		to += n;
		size -= n;
	}
}

/* ---- messages: a buffer that grows, and is sent as a whole ---- */

static char *buffer;
static size_t used;
static size_t room;

static void
put(const void *bytes, size_t size)
{
	if (used + size > room)
	{
		room = 2 * (used + size);
		buffer = realloc(buffer, room);
	}
	memcpy(buffer + used, bytes, size);
	used += size;
}

static void
put_int32(uint32_t n)
{
	n = htonl(n);
	put(&n, 4);
}

static void
put_int16(uint16_t n)
{
	n = htons(n);
	put(&n, 2);
}

static void
put_string(const char *text)
{
	put(text, strlen(text) + 1);
}

/* Begins a message; returns where its length is to stand. */
static size_t
begin(char type)
{
	put(&type, 1);
	put_int32(0);
	return used - 4;
}

static void
end(size_t place)
{
	uint32_t size = htonl((uint32_t) (used - place));

	memcpy(buffer + place, &size, 4);
}

static void
put_parameter(const char *name, const char *value)
{
	size_t place = begin('S');

	put_string(name);
	put_string(value);
	end(place);
}

static void
put_authentication(uint32_t code)
{
	size_t place = begin('R');

	put_int32(code);
	end(place);
}

static void
put_ready(void)
{
	size_t place = begin('Z');

	put("I", 1);
	end(place);
}

/* All that comes before "ready". */
static void
put_greeting(void)
{
	size_t place;

	put_authentication(0);
	put_parameter("server_version", "15.0");
	put_parameter("client_encoding", "UTF8");
	put_parameter("standard_conforming_strings", "on");
	place = begin('K');
	put_int32((uint32_t) getpid());
	put_int32(4711);
	end(place);
}

static void
put_column(const char *name, uint32_t type, int16_t size)
{
	put_string(name);
	put_int32(0);
	put_int16(0);
	put_int32(type);
	put_int16((uint16_t) size);
	put_int32(0xffffffff);
	put_int16(0);
}

static void
put_header(void)
{
	size_t place = begin('T');

	put_int16(2);
	put_column("pid", 23, 4);
	put_column("text", 25, -1);
	end(place);
}

static void
put_field(const char *text)
{
	put_int32((uint32_t) strlen(text));
	put(text, strlen(text));
}

static void
put_row(const char *text)
{
	size_t place = begin('D');
	char pid[20];

	snprintf(pid, sizeof(pid), "%d", (int) getpid());
	put_int16(2);
	put_field(pid);
	put_field(text);
	end(place);
}

static void
put_complete(const char *tag)
{
	size_t place = begin('C');

	put_string(tag);
	end(place);
}

static void
flush_tls(Peer *peer)
{
	send_tls(peer, buffer, used);
	used = 0;
}

/* ---- greetings ---- */

static void
greet(Peer *peer)
{
	put_greeting();
	put_ready();
	flush_tls(peer);
}

static void
ask_for_gss(Peer *peer)
{
	put_authentication(7);
	flush_tls(peer);
	hang(peer);
}

/* More than can be passed on to another process. */
static void
greet_at_length(Peer *peer)
{
	char name[20];

	put_greeting();
	for (int i = 0; i < 3000; i++)
	{
		snprintf(name, sizeof(name), "a%d", i);
		put_parameter(name, "b");
	}
	put_ready();
	flush_tls(peer);
}

/* The first half of a message comes in the record with "ready". */
static void
greet_and_half(Peer *peer)
{
	size_t end_of_first;

	put_greeting();
	put_ready();
	end_of_first = used + 9;
	put_parameter("application_name", "late");
	send_tls(peer, buffer, end_of_first);
	usleep(50 * 1000);
	send_tls(peer, buffer + end_of_first, used - end_of_first);
	used = 0;
}

static void
greet_by_bytes(Peer *peer)
{
	put_greeting();
	put_ready();
	for (size_t i = 0; i < used; i++)
		send_tls(peer, buffer + i, 1);
	used = 0;
}

static void
close_in_greeting(Peer *peer)
{
	put_greeting();
	flush_tls(peer);
	SSL_shutdown(peer->ssl);
	leave();
}

static void
garbage_in_greeting(Peer *peer)
{
	put_greeting();
	flush_tls(peer);
	send_raw(peer, "This is no record of TLS.\n", 26);
	hang(peer);
}

/* Asks for more rounds of SCRAM than anybody lives to see. */
static void
ask_for_rounds(Peer *peer)
{
	char message[300];
	const char *nonce;
	char type;
	uint32_t size;
	size_t place = begin('R');

	put_int32(10);
	put_string("SCRAM-SHA-256");
	put_string("");
	end(place);
	flush_tls(peer);

	read_tls(peer, &type, 1);
	read_tls(peer, &size, 4);
	size = ntohl(size) - 4;
	if (size >= sizeof(message))
		leave();
	read_tls(peer, message, size);
	message[size] = '\0';
	/* name of the mechanism, a length, then "n,,n=,r=..." */
	nonce = strstr(message + strlen(message) + 5, "r=");
	if (nonce == NULL)
		leave();

	place = begin('R');
	put_int32(11);
	put(nonce, strlen(nonce));
	put("more,s=c2FsdA==,i=2000000000", 28);
	end(place);
	flush_tls(peer);
	hang(peer);
}

/* ---- answers ---- */

static void
answer(Peer *peer)
{
	put_header();
	put_row("good");
	put_complete("SELECT 1");
	put_ready();
	flush_tls(peer);
}

/* Up to somewhere in a row, for all that ends in one. */
static void
answer_in_part(Peer *peer)
{
	put_header();
	put_row("good");
	put_row("bad");
	used -= 2;
	flush_tls(peer);
}

static void
answer_and_close(Peer *peer)
{
	answer_in_part(peer);
	leave();
}

static void
answer_and_reset(Peer *peer)
{
	answer_in_part(peer);
	reset(peer);
}

static void
answer_and_notify(Peer *peer)
{
	answer_in_part(peer);
	SSL_shutdown(peer->ssl);
	leave();
}

static void
answer_and_notify_only(Peer *peer)
{
	answer_in_part(peer);
	SSL_shutdown(peer->ssl);
	hang(peer);
}

static void
answer_and_garbage(Peer *peer)
{
	answer_in_part(peer);
	send_raw(peer, "This is no record of TLS.\n", 26);
	hang(peer);
}

/* The head of a record, and less than it promises. */
static void
answer_and_half_record(Peer *peer)
{
	answer_in_part(peer);
	send_raw(peer, "\x17\x03\x03\x01\x00"
				   "half",
			 9);
	leave();
}

/* A record of the right form that nobody with the key has made. */
static void
answer_and_forged_record(Peer *peer)
{
	answer_in_part(peer);
	send_raw(peer, "\x17\x03\x03\x00\x20"
				   "0123456789abcdef0123456789abcdef",
			 37);
	hang(peer);
}

static void
answer_many(Peer *peer, void (*now_and_then)(Peer *))
{
	char text[TEXT_SIZE + 1];
	int updates = peer->key_updates;

	put_header();
	for (int i = 0; i < MANY_ROWS; i++)
	{
		memset(text, 'x', TEXT_SIZE);
		text[TEXT_SIZE] = '\0';
		put_row(text);
		if (i % 100 != 99)
			continue;
		flush_tls(peer);
		if (now_and_then != NULL)
			now_and_then(peer);
	}
	snprintf(text, sizeof(text), "%d", updates);
	put_row(text);
	put_complete("SELECT");
	put_ready();
	flush_tls(peer);
}

/* New keys for what is sent from here on, and in the other direction. */
static void
update_keys(Peer *peer)
{
	if (SSL_key_update(peer->ssl, SSL_KEY_UPDATE_REQUESTED) != 1 ||
		SSL_do_handshake(peer->ssl) != 1)
		leave();
}

static void
answer_with_new_keys(Peer *peer)
{
	answer_many(peer, update_keys);
}

/* The same bytes as ever, each in a record. */
static void
answer_by_bytes(Peer *peer)
{
	put_header();
	for (int i = 0; i < 500; i++)
		put_row("a text that takes one record for each of its characters");
	put_complete("SELECT");
	put_ready();
	for (size_t i = 0; i < used; i++)
		send_tls(peer, buffer + i, 1);
	used = 0;
}

/* TLS 1.2: asks for another handshake first. */
static void
answer_after_hello_request(Peer *peer)
{
	if (SSL_renegotiate(peer->ssl) != 1 || SSL_do_handshake(peer->ssl) != 1)
		leave();
	answer(peer);
}

/* ---- after an answer ---- */

static void
pause_briefly(void)
{
	usleep(20 * 1000);
}

static void
close_after(Peer *peer)
{
	pause_briefly();
	leave();
}

static void
reset_after(Peer *peer)
{
	reset(peer);
}

static void
notify_after(Peer *peer)
{
	pause_briefly();
	SSL_shutdown(peer->ssl);
	leave();
}

static void
notify_only_after(Peer *peer)
{
	pause_briefly();
	SSL_shutdown(peer->ssl);
	hang(peer);
}

static void
garbage_after(Peer *peer)
{
	pause_briefly();
	send_raw(peer, "This is no record of TLS.\n", 26);
	hang(peer);
}

static void
tickets_after(Peer *peer)
{
	for (int i = 0; i < 5; i++)
	{
		if (SSL_new_session_ticket(peer->ssl) != 1 || SSL_do_handshake(peer->ssl) != 1)
			leave();
	}
}

/* As fast as it can, until the client has gone. */
static void
updates_after(Peer *peer)
{
	for (;;)
		update_keys(peer);
}

/* ---- before TLS ---- */

static void
hello_garbage(Peer *peer)
{
	for (int i = 0; i < 100; i++)
		send_raw(peer, "This is no record of TLS.\n", 26);
	hang(peer);
}

/* Until a handshake has begun. */
static void
await_hello(Peer *peer)
{
	char byte;

	if (recv(peer->sock, &byte, 1, MSG_PEEK) <= 0)
		leave();
}

static void
hello_close(Peer *peer)
{
	await_hello(peer);
	leave();
}

static void
hello_reset(Peer *peer)
{
	await_hello(peer);
	reset(peer);
}

static void
hello_alert(Peer *peer)
{
	await_hello(peer);
	send_raw(peer, "\x15\x03\x03\x00\x02\x02\x28", 7);
	hang(peer);
}

/* ---- the table ---- */

static const Behaviour behaviours[] = {
	{.name = "good"},
	/* these have ports of their own */
	{.name = "hello_garbage", .hello = hello_garbage},
	{.name = "hello_close", .hello = hello_close},
	{.name = "hello_reset", .hello = hello_reset},
	{.name = "hello_alert", .hello = hello_alert},
	{.name = "tls12", .version = TLS1_2_VERSION},
	{.name = "renegotiates", .version = TLS1_2_VERSION, .answer = answer_after_hello_request},
	/* the others have not */
	{.name = "gss", .greeting = ask_for_gss},
	{.name = "long_greeting", .greeting = greet_at_length},
	{.name = "half_message", .greeting = greet_and_half},
	{.name = "greeting_close", .greeting = close_in_greeting},
	{.name = "greeting_garbage", .greeting = garbage_in_greeting},
	{.name = "rounds", .greeting = ask_for_rounds},
	{.name = "row_close", .answer = answer_and_close},
	{.name = "row_reset", .answer = answer_and_reset},
	{.name = "row_notify", .answer = answer_and_notify},
	{.name = "row_notify_only", .answer = answer_and_notify_only},
	{.name = "row_garbage", .answer = answer_and_garbage},
	{.name = "row_half", .answer = answer_and_half_record},
	{.name = "row_forged", .answer = answer_and_forged_record},
	{.name = "idle_close", .after = close_after},
	{.name = "idle_reset", .after = reset_after},
	{.name = "idle_notify", .after = notify_after},
	{.name = "idle_notify_only", .after = notify_only_after},
	{.name = "idle_garbage", .after = garbage_after},
	{.name = "idle_updates", .after = updates_after},
	{.name = "tickets", .after = tickets_after},
	{.name = "new_keys", .answer = answer_with_new_keys},
	{.name = "bytes", .greeting = greet_by_bytes, .answer = answer_by_bytes},
	{.name = NULL}};

static bool
has_port(const Behaviour *b)
{
	return b->hello != NULL || b->version != 0 || b == behaviours;
}

/* ---- a client ---- */

static uint32_t
read_int32(Peer *peer)
{
	uint32_t n;

	if (recv(peer->sock, &n, 4, MSG_WAITALL) != 4)
		leave();
	return ntohl(n);
}

/* Until it asks for TLS. */
static void
await_request(Peer *peer)
{
	for (;;)
	{
		if (read_int32(peer) != 8)
			hang(peer);
		switch (read_int32(peer))
		{
			case SSL_REQUEST:
				send_raw(peer, "S", 1);
				return;
			case GSS_REQUEST:
				send_raw(peer, "N", 1);
				break;
			default:
				hang(peer);
		}
	}
}

static void
note_key_update(int write_p, int version, int content_type, const void *bytes, size_t size,
				SSL *ssl, void *arg)
{
	if (!write_p && content_type == SSL3_RT_HANDSHAKE && size > 0 &&
		((const unsigned char *) bytes)[0] == SSL3_MT_KEY_UPDATE)
		((Peer *) arg)->key_updates++;
}

static void
begin_tls(Peer *peer, const char *certificate, const char *key)
{
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());

	if (SSL_CTX_use_certificate_file(context, certificate, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
	{
		ERR_print_errors_fp(stderr);
		leave();
	}
	SSL_CTX_set_min_proto_version(context, behaviour->version);
	SSL_CTX_set_max_proto_version(context, behaviour->version);
	peer->ssl = SSL_new(context);
	SSL_set_fd(peer->ssl, peer->sock);
	SSL_set_msg_callback(peer->ssl, note_key_update);
	SSL_set_msg_callback_arg(peer->ssl, peer);
	if (SSL_accept(peer->ssl) != 1)
		leave();
}

/* Has the startup packet say which behaviour it is, unless the port has done so. */
static void
read_startup(Peer *peer)
{
	char packet[2048];
	uint32_t size;
	const char *end_of_packet;

	read_tls(peer, &size, 4);
	size = ntohl(size) - 4;
	if (size < 5 || size > sizeof(packet))
		leave();
	read_tls(peer, packet, size);
	end_of_packet = packet + size;
	packet[size - 1] = '\0';
	for (const char *p = packet + 4; p < end_of_packet && *p != '\0';)
	{
		const char *value = p + strlen(p) + 1;

		if (value >= end_of_packet)
			break;
		for (const Behaviour *b = behaviours;
			 strcmp(p, "database") == 0 && behaviour == behaviours && b->name != NULL; b++)
		{
			if (strcmp(b->name, value) == 0)
				behaviour = b;
		}
		p = value + strlen(value) + 1;
	}
}

/* Reads a message; returns its type. */
static char
read_message(Peer *peer)
{
	char type;
	uint32_t size;

	read_tls(peer, &type, 1);
	read_tls(peer, &size, 4);
	peer->size = ntohl(size) - 4;
	peer->body = realloc(peer->body, peer->size + 1);
	peer->body[peer->size] = '\0';
	for (uint32_t have = 0; have < peer->size;)
	{
		uint32_t part = peer->size - have;

		if (part > UPDATE_DISTANCE)
			part = UPDATE_DISTANCE;
		read_tls(peer, peer->body + have, part);
		have += part;
		if (have < peer->size && behaviour->answer == answer_with_new_keys)
			update_keys(peer);
	}
	return type;
}

static void
serve_query(Peer *peer)
{
	if (peer->body[0] == '\0')
	{
		end(begin('I'));
		put_ready();
		flush_tls(peer);
	}
	else if (strncmp(peer->body, "DISCARD ALL", 11) == 0)
	{
		put_complete("DISCARD ALL");
		put_ready();
		flush_tls(peer);
	}
	else
	{
		(behaviour->answer != NULL ? behaviour->answer : answer)(peer);
		if (behaviour->after != NULL)
			behaviour->after(peer);
	}
}

static void
serve(int sock, const char *certificate, const char *key)
{
	Peer peer = {.sock = sock};
	int on = 1;

	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	await_request(&peer);
	if (behaviour->hello != NULL)
	{
		behaviour->hello(&peer);
		leave();
	}
	begin_tls(&peer, certificate, key);
	read_startup(&peer);
	(behaviour->greeting != NULL ? behaviour->greeting : greet)(&peer);
	for (;;)
	{
		switch (read_message(&peer))
		{
			case 'X':
				SSL_shutdown(peer.ssl);
				leave();
				break;
			case 'S':
				put_ready();
				flush_tls(&peer);
				break;
			case 'Q':
				serve_query(&peer);
				break;
		}
	}
}

/* ---- all of them ---- */

static int
listen_for(const char *name)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int sock = socket(AF_INET, SOCK_STREAM, 0);

	if (sock < 0 || bind(sock, (struct sockaddr *) &address, size) < 0 || listen(sock, 100) < 0 ||
		getsockname(sock, (struct sockaddr *) &address, &size) < 0)
	{
		perror("cannot listen");
		exit(1);
	}
	printf("%s %d\n", name, ntohs(address.sin_port));
	return sock;
}

int
main(int argc, char **argv)
{
	struct pollfd sockets[sizeof(behaviours) / sizeof(behaviours[0])] = {{.fd = 0, .events = POLLIN}};
	const Behaviour *which[sizeof(sockets) / sizeof(sockets[0])] = {NULL};
	int n = 1;

	if (argc != 3)
		return 2;
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	/* all clients are served by children, which end with this process */
	setpgid(0, 0);
	for (const Behaviour *b = behaviours; b->name != NULL; b++)
	{
		if (!has_port(b))
			continue;
		which[n] = b;
		sockets[n].events = POLLIN;
		sockets[n++].fd = listen_for(b->name);
	}
	printf("\n");
	fflush(stdout);
	while (poll(sockets, n, -1) >= 0 || errno == EINTR)
	{
		if (sockets[0].revents != 0)
		{
			signal(SIGTERM, SIG_IGN);
			kill(0, SIGTERM);
			return 0;
		}
		for (int i = 1; i < n; i++)
		{
			int sock = sockets[i].revents != 0 ? accept(sockets[i].fd, NULL, NULL) : -1;

			if (sock >= 0 && fork() == 0)
			{
				behaviour = which[i];
				for (int j = 1; j < n; j++)
					close(sockets[j].fd);
				serve(sock, argv[1], argv[2]);
			}
			if (sock >= 0)
				close(sock);
		}
	}
	return 1;
}
