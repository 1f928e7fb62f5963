/*
 * vault_probe.c
 *		Asks conpool's vault from a backend, so that the kernel vouches for
 *		this backend's pid, but says whatever the caller wants.
 *
 * Built and loaded by test/t/110_vault_requests.pl alone:
 *
 *	CREATE FUNCTION probe(op int, slot int, generation bigint, epoch bigint,
 *						  descriptors int) RETURNS text
 *
 * Sends that many duplicates of this process's standard error along.  Returns
 * 'ok' or 'refused' as the broker says, 'closed' if it hangs up without a word,
 * 'silent' if it does nothing for a while.
 */
#include "postgres.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "fmgr.h"
#include "utils/builtins.h"

#include "vault.h"

#define REQUEST_MAGIC 0x43505231
#define MAX_DESCRIPTORS 8
#define PATIENCE 20000			/* milliseconds */

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(probe);

static int
connect_vault(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX,
	.sun_path = "pg_stat_tmp/conpool.vault"};
	int			sock = socket(AF_UNIX, SOCK_STREAM, 0);

	if (sock < 0 || connect(sock, (struct sockaddr *) &addr, sizeof(addr)) < 0)
		elog(ERROR, "could not connect to the vault: %m");
	return sock;
}

/* The least that is a greeting: authentication ok, ready for query. */
static void
make_greeting(CpGreeting *greeting)
{
	static const char bytes[] = "R\0\0\0\10\0\0\0\0Z\0\0\0\5I";

	memset(greeting, 0, sizeof(*greeting));
	greeting->len = sizeof(bytes) - 1;
	memcpy(greeting->bytes, bytes, greeting->len);
}

static void
send_request(int sock, CpVaultRequest *request, int descriptors)
{
	CpGreeting	greeting;
	struct iovec parts[2] = {{request, sizeof(*request)}, {&greeting, 0}};
	union
	{
		struct cmsghdr align;
		char		bytes[CMSG_SPACE(MAX_DESCRIPTORS * sizeof(int))];
	}			control = {0};
	struct msghdr message = {.msg_iov = parts,.msg_iovlen = 2};

	if (request->op == CP_VAULT_DONATE)
	{
		make_greeting(&greeting);
		parts[1].iov_len = request->greeting_size = cp_greeting_size(&greeting);
	}
	if (descriptors > 0)
	{
		struct cmsghdr *rights;

		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(descriptors * sizeof(int));
		rights = CMSG_FIRSTHDR(&message);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(descriptors * sizeof(int));
		for (int i = 0; i < descriptors; i++)
			((int *) CMSG_DATA(rights))[i] = STDERR_FILENO;
	}
	if (sendmsg(sock, &message, 0) < 0)
		elog(ERROR, "could not send to the vault: %m");
}

static const char *
read_reply(int sock)
{
	struct pollfd p = {.fd = sock,.events = POLLIN};
	CpVaultReply reply;

	if (poll(&p, 1, PATIENCE) == 0)
		return "silent";
	if (recv(sock, &reply, sizeof(reply), MSG_WAITALL) != sizeof(reply))
		return "closed";
	return reply.status == CP_VAULT_OK ? "ok" : "refused";
}

Datum
probe(PG_FUNCTION_ARGS)
{
	CpVaultRequest request = {
		.magic = REQUEST_MAGIC,
		.op = PG_GETARG_INT32(0),
		.slot = PG_GETARG_INT32(1),
		.generation = PG_GETARG_INT64(2),
		.epoch = PG_GETARG_INT64(3),
	};
	int			sock = connect_vault();
	const char *answer;

	send_request(sock, &request, Min(PG_GETARG_INT32(4), MAX_DESCRIPTORS));
	answer = read_reply(sock);
	close(sock);
	PG_RETURN_TEXT_P(cstring_to_text(answer));
}
