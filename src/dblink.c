/*
 * dblink.c
 *		The connections that this session has made with dblink's functions.
 *
 * Runs in client backends, called by the sql_dblink files.  A connection is a lease of
 * scope "session", which may end by other ways than its name (DISCARD ALL, reclaim()):
 * so it is remembered by number, and looked up at each use.  Never ends a lease.
 */
#include "postgres.h"

#include "dblink.h"

#include "miscadmin.h"
#include "parser/scansup.h"
#include "utils/hsearch.h"

/* names at first; there may be more */
#define NAMES 16

static HTAB *named = NULL;
static CpDblink unnamed;

static void
create_table(void)
{
	HASHCTL ctl = {
		.keysize = NAMEDATALEN,
		.entrysize = sizeof(CpDblink),
	};

	if (named == NULL)
		named = hash_create("conpool dblink connections", NAMES, &ctl, HASH_ELEM | HASH_STRINGS);
}

/* The entry under that name, NULL for the one without. */
static CpDblink *
look_up(const char *name, HASHACTION action)
{
	CpDblink *connection;
	char *key;
	bool found;

	if (name == NULL)
		return &unnamed;
	create_table();
	key = pstrdup(name);
	truncate_identifier(key, strlen(key), action == HASH_ENTER);
	connection = hash_search(named, key, action, &found);
	if (action == HASH_ENTER && !found)
		connection->lease = 0;
	pfree(key);
	return connection;
}

void
cp_dblink_forget(CpDblink *connection)
{
	connection->lease = 0;
	if (connection != &unnamed)
		(void) hash_search(named, connection->name, HASH_REMOVE, NULL);
}

CpDblink *
cp_dblink_find(const char *name, CpLease **lease)
{
	CpDblink *connection = look_up(name, HASH_FIND);

	*lease = NULL;
	if (connection == NULL || connection->lease == 0)
		return NULL;
	*lease = cp_lease_find(connection->lease);
	return connection;
}

/* An entry without a lease is left if nothing comes of it, and does no harm. */
void
cp_dblink_reserve(const char *name)
{
	CpDblink *connection = look_up(name, HASH_ENTER);

	if (connection->lease != 0 && cp_lease_find(connection->lease) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("duplicate connection name")));
	connection->lease = 0;
}

uint64
cp_dblink_set(const char *name, uint64 lease)
{
	CpDblink *connection = look_up(name, HASH_FIND);
	uint64 former;

	Assert(connection != NULL);
	former = connection->lease;
	connection->lease = lease;
	connection->session_role = GetOuterUserId();
	connection->own_transaction = false;
	connection->cursors = 0;
	connection->reading = 0;
	connection->unread_end = false;
	return former;
}

List *
cp_dblink_names(void)
{
	HASH_SEQ_STATUS status;
	CpDblink *connection;
	List *names = NIL;

	if (named == NULL)
		return NIL;
	hash_seq_init(&status, named);
	while ((connection = hash_seq_search(&status)) != NULL)
	{
		if (connection->lease != 0 && cp_lease_find(connection->lease) != NULL)
			names = lappend(names, pstrdup(connection->name));
	}
	return names;
}
