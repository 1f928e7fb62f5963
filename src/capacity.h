/*
 * capacity.h
 *		A round trip with a remote server on a bare socket that asks how many
 *		connections it allows.
 *
 * In place of a ping (ping.h), and like it: the protocol is idle, nobody else
 * talks on the socket meanwhile, libpq does not notice, and nothing here blocks,
 * throws or allocates.  Whatever rows or errors the remote answers with, the
 * connection lives if ReadyForQuery with status idle comes last, if the session
 * was not said to have changed, and if all that was not more than is sensible.
 * What is not exactly the answer that was asked for means only that the number is
 * not known.
 */
#ifndef CP_CAPACITY_H
#define CP_CAPACITY_H

#include "ping.h"

/* as much of a message as the longest one that is understood has */
#define CP_CAPACITY_MAX_BODY 32

/* What has come of the answer; begins zeroed. */
typedef struct CpCapacity
{
	uint8 header[5];				  /* of the message that is being read: type and length */
	uint8 body[CP_CAPACITY_MAX_BODY]; /* its beginning */
	int have;						  /* bytes read of the header, ... */
	uint32 size;					  /* ... and the body's size, ... */
	uint32 seen;					  /* ... of which so much has come */
	int received;					  /* bytes, of all messages */
	bool is_answered;				  /* a row or an error has come */
	bool is_ready;					  /* ReadyForQuery, too */
	int connections;				  /* that ordinary users may have; 0 = not known */
} CpCapacity;

/* Sends the question; false if that fails, or the socket's buffer is full. */
extern bool cp_capacity_ask(int fd);

/* Reads what is there. */
extern CpPingStatus cp_capacity_read(CpCapacity *capacity, int fd);

#endif /* CP_CAPACITY_H */
