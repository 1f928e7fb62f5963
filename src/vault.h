/*
 * vault.h
 *		Passing sockets between backends and the broker: a Unix socket in
 *		pg_stat_tmp of the data directory, one request per connection.
 *
 * The functions named cp_vault_client_* run in client backends, those named
 * cp_vault_server_* in the broker, which alone knows what a slot is.  Nothing
 * here throws, except from CHECK_FOR_INTERRUPTS() where it says so.
 */
#ifndef CP_VAULT_H
#define CP_VAULT_H

#include "clock.h"
#include "greeting.h"

typedef enum CpVaultOp
{
	CP_VAULT_DONATE = 1, /* with socket and greeting; reply: status */
	CP_VAULT_FETCH,		 /* reply: status, socket and greeting */
	/*
	 * with socket: its owner has said Terminate or gave it up; wait for EOF and
	 * free the slot. reply: status
	 */
	CP_VAULT_END
} CpVaultOp;

typedef enum CpVaultStatus
{
	CP_VAULT_OK,
	CP_VAULT_REFUSED,	  /* uid, pid, slot, generation or epoch wrong */
	CP_VAULT_UNREACHABLE, /* no broker, or it hung up */
	CP_VAULT_TIMEOUT,
	CP_VAULT_PENDING /* client_poll only: no reply yet */
} CpVaultStatus;

typedef struct CpVaultRequest
{
	uint32 magic;
	uint32 op; /* CpVaultOp */
	int32 slot;
	int32 greeting_size; /* bytes of CpGreeting that follow, or 0 */
	uint64 generation;
	uint64 epoch; /* the broker run it is meant for */
} CpVaultRequest;

typedef struct CpVaultReply
{
	uint32 magic;
	uint32 status; /* CpVaultStatus: OK or REFUSED */
	int32 greeting_size;
	int32 unused;
} CpVaultReply;

/* ---- client backends ---- */

/*
 * Sends a request; fd (not taken over) goes along unless -1.  Returns a
 * socket on which the reply comes, or -1 with *status set.  A full backlog is
 * retried until the deadline.  Serves interrupts if `interruptible`.
 */
extern int cp_vault_client_send(const CpVaultRequest *request, int fd,
								const CpGreeting *greeting, CpTime deadline,
								bool interruptible, CpVaultStatus *status);

/*
 * Reads the reply and closes `sock`, unless it returns PENDING; also when an
 * interrupt throws, so forget it before an interruptible call.  For FETCH *fd
 * and *greeting are filled if it returns OK; else, and for other requests, both
 * may be NULL.  deadline 0 = look only, PENDING if not there.
 */
extern CpVaultStatus cp_vault_client_reply(int sock, int *fd, CpGreeting *greeting,
										   CpTime deadline, bool interruptible);

/* ---- broker ---- */

/* A peer that has not finished its request. */
typedef struct CpVaultClient
{
	int sock;
	int pid; /* by the kernel's word; -1 where it has none */
	CpTime deadline;
	size_t have; /* bytes read of request and greeting */
	int fd;		 /* socket received, or -1 */
	CpVaultRequest request;
	CpGreeting greeting;
} CpVaultClient;

typedef enum CpVaultRead
{
	CP_VAULT_READ_MORE, /* not all there yet */
	CP_VAULT_READ_DONE, /* client->request is whole and well formed */
	CP_VAULT_READ_BAD	/* gone, malformed, too long: close it */
} CpVaultRead;

/* Creates the listening socket (unlinks an old one first); -1 = failed, errno. */
extern int cp_vault_server_listen(void);
extern void cp_vault_server_unlink(void);

/*
 * Accepts one client, non-blocking and close-on-exec, refusing other uids.
 * NULL when there is none (or it was refused: *refused is set).  palloc'd in
 * the current context; the client's deadline is set.
 */
extern CpVaultClient *cp_vault_server_accept(int listener, bool *refused);
extern CpVaultRead cp_vault_server_read(CpVaultClient *client);

/* Sends the reply, with fd and greeting if given; does not block. */
extern bool cp_vault_server_reply(CpVaultClient *client, CpVaultStatus status,
								  int fd, const CpGreeting *greeting);

/* Closes its socket, and a received descriptor nobody took; frees it. */
extern void cp_vault_server_drop(CpVaultClient *client);

#endif /* CP_VAULT_H */
