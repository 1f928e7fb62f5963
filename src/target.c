/*
 * target.c
 *		From a server's name or a connection string to a pool, its options and
 *		how to connect; and whether the caller may.
 *
 * Runs inside a transaction: in client backends, called by lease.c and the SQL
 * functions, and in the reader.  Throws.  Must never touch a network or a pool.
 *
 * Targets of client backends are kept per (name, role) in the process, because
 * making one costs a dozen catalog look-ups.  Rights are looked up every time.
 * Invalidations only set a flag, whose effect comes with the next call: until
 * then callers hold pointers to targets.
 */
#include "postgres.h"

#include "target.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "foreign/foreign.h"
#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/scansup.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "conninfo.h"
#include "guc.h"
#include "scram.h"
#include "wiped.h"

/* targets kept by one process; the least recently used one goes first */
#define CACHE_SIZE 128

/* Whose validator has looked at a server's and its mappings' options. */
typedef enum Wrapper
{
	WRAPPER_CONPOOL,
	WRAPPER_POSTGRES_FDW,
	WRAPPER_OTHER /* dblink_fdw, for one */
} Wrapper;

/* A foreign server, as far as it matters here. */
typedef struct Server
{
	Oid oid;
	Oid owner;
	char *name;
	Wrapper wrapper;
	List *options; /* of DefElem */
	bool uncommitted;
} Server;

typedef struct Mapping
{
	Oid oid;
	Oid role;	   /* InvalidOid = PUBLIC */
	List *options; /* of DefElem */
	bool uncommitted;
} Mapping;

/* What the catalogs say of a server that was named. */
typedef struct Definition
{
	Server *server;
	Server *remote; /* where connection options and mappings come from: often itself */
	Mapping *mapping;
} Definition;

typedef struct MappingArray
{
	CpTargetMapping *items;
	int count;
	int room;
} MappingArray;

typedef struct CacheKey
{
	uint64 digest; /* of the name */
	Oid role;
	uint32 scram_keys; /* 1: there are some to pass through.  (Compared as bytes: no padding) */
} CacheKey;

/* What is kept with a target; lies in a memory context of its own. */
typedef struct Entry
{
	CpTarget target; /* first, so that the one leads to the other */
	MemoryContext context;
	bool superuser;	   /* was the role one? */
	bool ahead;		   /* may be opened ahead of demand: min_size applies */
	bool by_superuser; /* has one chosen the options of the server, or the string? */
	Oid servers[2];	   /* USAGE on these is needed, if valid */
	/* set by cp_target_of_mapping() only */
	Oid owner;			  /* of the server that was named */
	const char *not_ours; /* name of a server whose owner is no superuser, or NULL */
	CpGivenOptions given;
	CpConninfo *info;

	/* the cache's */
	dlist_node node; /* in `recent` */
	CacheKey key;
	char *name; /* as the caller gave it: may hold a password */
} Entry;

typedef struct CacheSlot
{
	CacheKey key;
	Entry *entry;
} CacheSlot;

static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;
static dlist_head recent = DLIST_STATIC_INIT(recent);

/* the last target that was not to be kept */
static Entry *transient = NULL;

static volatile bool cache_is_stale = false;

/* ---- the cache ---- */

static void
invalidated(Datum arg, int cacheid, uint32 hashvalue)
{
	cache_is_stale = true;
}

static void
watch_catalogs(void)
{
	static bool done = false;

	if (done)
		return;
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, invalidated, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, invalidated, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, invalidated, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, invalidated, (Datum) 0);
	done = true;
}

static void
create_cache(void)
{
	HASHCTL ctl = {0};

	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "conpool targets",
											  ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(CacheKey);
	ctl.entrysize = sizeof(CacheSlot);
	ctl.hcxt = cache_context;
	cache = hash_create("conpool targets", CACHE_SIZE, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * Makes the cache fit for use: without anything that was to be forgotten since
 * the last call.  Other sessions' changes are heard of now, rather than when a
 * statement next locks something, so that a REVOKE reaches a long loop.
 */
static void
prepare_cache(void)
{
	watch_catalogs();
	AcceptInvalidationMessages();

	if (cache_is_stale && cache_context)
	{
		cache = NULL;
		transient = NULL;
		dlist_init(&recent);
		MemoryContextReset(cache_context);
	}
	else if (transient)
	{
		MemoryContext context = transient->context;

		transient = NULL;
		MemoryContextDelete(context);
	}
	cache_is_stale = false;
	if (cache == NULL)
		create_cache();
}

static CacheKey
cache_key(const char *name, Oid role)
{
	CacheKey key = {0};

	key.digest = hash_bytes_extended((const unsigned char *) name, strlen(name), 0);
	key.role = role;
	key.scram_keys = cp_scram_lacking() == NULL;
	return key;
}

static void
forget(Entry *entry)
{
	hash_search(cache, &entry->key, HASH_REMOVE, NULL);
	dlist_delete(&entry->node);
	MemoryContextDelete(entry->context);
}

static Entry *
recall(const CacheKey *key, const char *name)
{
	CacheSlot *slot = hash_search(cache, key, HASH_FIND, NULL);
	Entry *entry;

	if (slot == NULL)
		return NULL;
	entry = slot->entry;
	if (strcmp(entry->name, name) != 0 ||
		entry->superuser != superuser_arg(key->role))
	{
		forget(entry);
		return NULL;
	}
	dlist_move_head(&recent, &entry->node);
	return entry;
}

/* Keeps the entry, for good or until the next call. */
static void
remember(Entry *entry)
{
	CacheSlot *slot;

	if (entry->target.uncommitted)
		transient = entry;
	else
	{
		if (hash_get_num_entries(cache) >= CACHE_SIZE)
			forget(dlist_tail_element(Entry, node, &recent));
		slot = hash_search(cache, &entry->key, HASH_ENTER, NULL);
		slot->entry = entry;
		dlist_push_head(&recent, &entry->node);
	}
	MemoryContextSetParent(entry->context, cache_context);
}

/* ---- catalogs ---- */

/* Has this very transaction written the catalog's row? */
static bool
is_uncommitted(HeapTuple tuple)
{
	return TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
}

static List *
read_options(int cacheid, HeapTuple tuple, AttrNumber attribute)
{
	bool isnull;
	Datum options = SysCacheGetAttr(cacheid, tuple, attribute, &isnull);

	return isnull ? NIL : untransformRelOptions(options);
}

/*
 * A wrapper is known by its validator, not by its name: the validator is what
 * warrants that password_required 'false' was set by a superuser.  Only a
 * superuser can create a function in C, or a wrapper.
 */
static Wrapper
wrapper_by_validator(Oid validator)
{
	HeapTuple tuple;
	Wrapper wrapper = WRAPPER_OTHER;

	if (!OidIsValid(validator))
		return WRAPPER_OTHER;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(validator));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", validator);
	if (((Form_pg_proc) GETSTRUCT(tuple))->prolang == ClanguageId)
	{
		bool isnull;
		Datum source = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
		char *symbol = isnull ? "" : TextDatumGetCString(source);

		if (strcmp(symbol, "conpool_fdw_validator") == 0)
			wrapper = WRAPPER_CONPOOL;
		else if (strcmp(symbol, "postgres_fdw_validator") == 0)
			wrapper = WRAPPER_POSTGRES_FDW;
	}
	ReleaseSysCache(tuple);
	return wrapper;
}

static void
read_wrapper(Oid oid, Server *server)
{
	HeapTuple tuple = SearchSysCache1(FOREIGNDATAWRAPPEROID, ObjectIdGetDatum(oid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for foreign-data wrapper %u", oid);
	server->wrapper =
		wrapper_by_validator(((Form_pg_foreign_data_wrapper) GETSTRUCT(tuple))->fdwvalidator);
	if (is_uncommitted(tuple))
		server->uncommitted = true;
	ReleaseSysCache(tuple);
}

/* NULL if there is none */
static Server *
look_for_server(Oid oid)
{
	HeapTuple tuple = SearchSysCache1(FOREIGNSERVEROID, ObjectIdGetDatum(oid));
	Form_pg_foreign_server form;
	Server *server;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	server = palloc0(sizeof(Server));
	form = (Form_pg_foreign_server) GETSTRUCT(tuple);
	server->oid = oid;
	server->owner = form->srvowner;
	server->name = pstrdup(NameStr(form->srvname));
	server->options = read_options(FOREIGNSERVEROID, tuple,
								   Anum_pg_foreign_server_srvoptions);
	server->uncommitted = is_uncommitted(tuple);
	read_wrapper(form->srvfdw, server);
	ReleaseSysCache(tuple);
	return server;
}

static Server *
read_server(Oid oid)
{
	Server *server = look_for_server(oid);

	if (server == NULL)
		elog(ERROR, "cache lookup failed for foreign server %u", oid);
	return server;
}

/* The mapping for just that role, InvalidOid = PUBLIC; NULL if there is none. */
static Mapping *
look_for_mapping(Oid role, const Server *server)
{
	HeapTuple tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role),
									  ObjectIdGetDatum(server->oid));
	Form_pg_user_mapping form;
	Mapping *mapping;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	mapping = palloc0(sizeof(Mapping));
	form = (Form_pg_user_mapping) GETSTRUCT(tuple);
	mapping->oid = form->oid;
	mapping->role = form->umuser;
	mapping->options = read_options(USERMAPPINGUSERSERVER, tuple,
									Anum_pg_user_mapping_umoptions);
	mapping->uncommitted = is_uncommitted(tuple);
	ReleaseSysCache(tuple);
	return mapping;
}

/* The role's own mapping, else the one for PUBLIC; throws if there is none. */
static Mapping *
read_mapping(Oid role, const Server *server)
{
	Mapping *mapping = look_for_mapping(role, server);
	const char *role_name;

	if (mapping == NULL)
		mapping = look_for_mapping(InvalidOid, server);
	if (mapping)
		return mapping;

	role_name = GetUserNameFromId(role, false);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("user mapping not found for role \"%s\", server \"%s\"",
					role_name, server->name),
			 errhint("Create one with CREATE USER MAPPING FOR %s SERVER %s.",
					 quote_identifier(role_name), quote_identifier(server->name))));
}

static const char *
option_value(List *options, const char *name)
{
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

/* ---- rights ---- */

static void
require_usage(Oid server, Oid role)
{
	AclResult result = cp_server_aclcheck(server, role, ACL_USAGE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_SERVER,
					   GetForeignServer(server)->servername);
}

static void
require_conninfo_allowed(void)
{
	if (!cp_guc_allow_conninfo)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("connection strings are not allowed"),
				 errhint("Give the name of a foreign server, or have a superuser set \"%s\" "
						 "to on.",
						 "conpool.allow_conninfo")));
}

static bool
lacks_password(const Entry *entry)
{
	return entry->target.key.trust == CP_TRUST_PASSWORD && !entry->target.scram_keys &&
		cp_conninfo_get(entry->info, "password") == NULL;
}

/* Pass-through is asked for, there are no keys, and no password in their place. */
static void
throw_no_keys(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("password is required"),
			 errdetail("The user mapping has no password, and SCRAM pass-through is not possible. "
					   "%s",
					   cp_scram_lacking()),
			 errhint("Log in by SCRAM, or add option \"password\" to the user mapping.")));
}

/*
 * The server's own identity, which a remote may trust without a password, is
 * not lent to others: they bring a password, and whoever connects sees to it
 * that the remote asked for it.
 */
static void
require_password(const Entry *entry)
{
	bool ad_hoc = entry->target.key.kind == CP_POOL_CONNINFO;

	if (!lacks_password(entry))
		return;
	if (entry->target.scram_passthrough)
		throw_no_keys();
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("password is required"),
			 ad_hoc ?
				 errdetail("Non-superusers must provide a password in the connection "
						   "string.") :
				 errdetail("Non-superusers must provide a password in the user mapping."),
			 ad_hoc ?
				 0 :
				 errhint("Add option \"password\" to the user mapping, or have a superuser "
						 "set its option \"password_required\" to false.")));
}

/*
 * A key of an "engine", as engine:key, has OpenSSL load a library, of whatever path is
 * given, into the process that connects.
 */
static void
refuse_engine(const Entry *entry)
{
	const char *key = cp_conninfo_get(entry->info, "sslkey");

	if (entry->by_superuser || key == NULL || strchr(key, ':') == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to use a key of an engine"),
			 errdetail("Only superusers may have the server load OpenSSL's engines."),
			 errhint("Give the name of a file, without a colon, as option \"sslkey\", or have a "
					 "superuser own the server.")));
}

/* Did a superuser say that connections of the mapping need no password? */
static bool
password_waived(const Mapping *mapping, Wrapper wrapper)
{
	ListCell *cell;

	if (wrapper == WRAPPER_OTHER)
		return false;
	foreach(cell, mapping->options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, "password_required") == 0)
			return !defGetBoolean(def);
	}
	return false;
}

/* The rule under which connections are opened for a role. */
static CpTrust
trust_of(const Definition *d, bool superuser)
{
	return superuser || password_waived(d->mapping, d->remote->wrapper) ?
		CP_TRUST_ANY :
		CP_TRUST_PASSWORD;
}

static void
recheck_rights(const Entry *entry)
{
	for (int i = 0; i < lengthof(entry->servers); i++)
	{
		if (OidIsValid(entry->servers[i]))
			require_usage(entry->servers[i], entry->target.role);
	}
}

/* ---- SCRAM pass-through ---- */

/* As in postgres_fdw, the mapping decides before the server. */
static bool
wants_passthrough(const Definition *d)
{
	List *lists[] = {d->mapping->options, d->remote->options};
	ListCell *cell;

	for (int i = 0; i < lengthof(lists); i++)
	{
		foreach(cell, lists[i])
		{
			DefElem *def = lfirst_node(DefElem, cell);

			if (strcmp(def->defname, CP_SCRAM_OPTION) == 0)
				return defGetBoolean(def);
		}
	}
	return false;
}

/*
 * Whose a pool is: the mapping's role.  With keys of his own the caller's: he does
 * not share a pool for PUBLIC with others, who could not use his connections.
 */
static Oid
role_of_pool(const Definition *d, Oid role)
{
	return wants_passthrough(d) ? role : d->mapping->role;
}

/* The reader has nobody's keys. */
static void
refuse_passthrough_ahead(const Entry *entry)
{
	if (!entry->target.scram_passthrough)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("no connections are opened ahead of demand with SCRAM pass-through"),
			 errdetail("They take the keys of the session that asks for them."),
			 errhint("Set option \"min_size\" to 0, or \"%s\" to false.", CP_SCRAM_OPTION)));
}

/* ---- rights ahead of demand ---- */

/*
 * A server whose owner is no superuser, or NULL.  The owner chooses the host, may
 * write a mapping for any role, and changes the host under one that a superuser
 * has waived the password of.  As long as a role uses its mapping itself, that is
 * its own doing; ahead of demand nobody of that role does anything.
 */
static const char *
server_of_others(const Definition *d)
{
	if (!superuser_arg(d->server->owner))
		return d->server->name;
	if (!superuser_arg(d->remote->owner))
		return d->remote->name;
	return NULL;
}

/* What a server refers to is used by its owner's decision, as soon as it is made. */
static void
require_usage_of_owner(const Entry *entry)
{
	Oid referred = entry->servers[1];

	if (!OidIsValid(referred) ||
		cp_server_aclcheck(referred, entry->owner, ACL_USAGE) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for foreign server %s",
					GetForeignServer(referred)->servername),
			 errdetail("Server \"%s\" refers to it, and its owner \"%s\" may not use it.",
					   entry->target.name, GetUserNameFromId(entry->owner, false))));
}

static void
require_password_ahead(const Entry *entry)
{
	require_password(entry);
	if (entry->not_ours == NULL || cp_conninfo_get(entry->info, "password") != NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("password is required"),
			 errdetail("Connections are to be opened ahead of demand, and the owner of server "
					   "\"%s\" is not a superuser.",
					   entry->not_ours),
			 errhint("Add option \"password\" to the user mapping, or have a superuser own "
					 "the server.")));
}

/* ---- from catalogs to a target ---- */

/*
 * Client certificates are the server's as much as peer authentication is: on
 * a mapping they count where a validator lets only superusers set them.
 */
static bool
may_stand_on_mapping(const char *keyword, Wrapper wrapper)
{
	if (strcmp(keyword, "sslcert") == 0 || strcmp(keyword, "sslkey") == 0)
		return wrapper != WRAPPER_OTHER;
	return cp_conninfo_place(keyword) == CP_CONNINFO_MAPPING;
}

/* Takes what is libpq's; the rest is the business of the wrapper. */
static void
take_connection_options(CpConninfo *info, const Server *server, const Mapping *mapping)
{
	ListCell *cell;

	foreach(cell, server->options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (cp_conninfo_place(def->defname) == CP_CONNINFO_SERVER)
			cp_conninfo_set(info, def->defname, defGetString(def));
	}
	foreach(cell, mapping->options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (may_stand_on_mapping(def->defname, server->wrapper))
			cp_conninfo_set(info, def->defname, defGetString(def));
	}
}

static void
take_pool_options(CpGivenOptions *given, List *options)
{
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);
		const CpOption *option = cp_option_find(def->defname);

		if (option)
			cp_options_give(given, option, defGetString(def));
	}
}

/* libpq's option, wherever connection options come from, is a pool option. */
static void
take_connect_timeout(CpGivenOptions *given, const CpConninfo *info)
{
	const char *value = cp_conninfo_get(info, "connect_timeout");

	if (value)
		cp_options_give(given, cp_option_find("connect_timeout"), value);
}

static Server *
find_server(const char *name)
{
	char *identifier = pstrdup(name);
	Oid oid;

	/* a longer name was cut when the server was created */
	truncate_identifier(identifier, strlen(identifier), false);
	oid = get_foreign_server_oid(identifier, true);
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", identifier),
				 errhint("Create it with CREATE SERVER ... FOREIGN DATA WRAPPER conpool, "
						 "or give a connection string in its place.")));
	return read_server(oid);
}

/* The name of the server that this one refers to, or NULL. */
static const char *
referred_server(const Server *server)
{
	if (server->wrapper != WRAPPER_CONPOOL)
		return NULL;
	return option_value(server->options, "server");
}

const char *
cp_target_referred_server(Oid server)
{
	return referred_server(read_server(server));
}

/*
 * The server that connection options and mappings come from: the one itself,
 * or the one that its option "server" names.
 */
static Server *
find_remote(Server *server)
{
	const char *name = referred_server(server);
	Server *remote;
	Oid oid;

	if (name == NULL)
		return server;

	oid = get_foreign_server_oid(name, true);
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 errdetail("Option \"server\" of server \"%s\" refers to it.",
						   server->name)));
	remote = read_server(oid);
	if (referred_server(remote))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("server \"%s\" refers to another server itself", remote->name),
				 errdetail("Option \"server\" of server \"%s\" refers to it.",
						   server->name)));
	return remote;
}

/* The same, but NULL where that one throws. */
static Server *
look_for_remote(Server *server)
{
	const char *name = referred_server(server);
	Server *remote;
	Oid oid;

	if (name == NULL)
		return server;
	oid = get_foreign_server_oid(name, true);
	remote = OidIsValid(oid) ? look_for_server(oid) : NULL;
	return remote && referred_server(remote) == NULL ? remote : NULL;
}

/* Of a server and just that role, InvalidOid = PUBLIC; false if something is missing. */
static bool
look_for_definition(Oid server, Oid role, Definition *d)
{
	d->server = look_for_server(server);
	d->remote = d->server ? look_for_remote(d->server) : NULL;
	d->mapping = d->remote ? look_for_mapping(role, d->remote) : NULL;
	return d->mapping != NULL;
}

/*
 * Pool options are those of the named server; of its mapping only where the
 * mapping is that server's own.
 */
static void
take_options(Entry *entry, const Definition *d)
{
	take_connection_options(entry->info, d->remote, d->mapping);
	/* in place of a password; somebody else may have chosen the host to trap them */
	if (entry->target.scram_keys)
		cp_scram_give(entry->info, entry->by_superuser || d->remote->owner == entry->target.role);
	take_connect_timeout(&entry->given, entry->info);
	if (d->server->wrapper != WRAPPER_CONPOOL)
		return;
	take_pool_options(&entry->given, d->server->options);
	if (d->server->oid == d->remote->oid)
		take_pool_options(&entry->given, d->mapping->options);
}

static void
take_definition(Entry *entry, const Definition *d, CpTrust trust)
{
	CpTarget *target = &entry->target;

	target->key.kind = CP_POOL_SERVER;
	target->key.server = d->server->oid;
	target->key.mapping = d->mapping->oid;
	target->key.role = role_of_pool(d, target->role);
	target->key.trust = trust;
	target->scram_passthrough = wants_passthrough(d);
	target->scram_keys = target->scram_passthrough && cp_scram_lacking() == NULL;
	target->owner = d->server->owner;
	target->party = superuser_arg(target->owner) ? InvalidOid : target->owner;
	entry->by_superuser = superuser_arg(d->remote->owner);
	target->uncommitted = d->server->uncommitted || d->remote->uncommitted ||
		d->mapping->uncommitted;
	strlcpy(target->name, d->server->name, sizeof(target->name));
	entry->ahead = d->server->wrapper == WRAPPER_CONPOOL && OidIsValid(d->mapping->role);
	entry->servers[0] = d->server->oid;
	entry->servers[1] = d->remote->oid == d->server->oid ? InvalidOid : d->remote->oid;
	take_options(entry, d);
}

/*
 * USAGE is needed on both servers where one refers to the other.  Whoever may
 * create servers could otherwise reach the PUBLIC mapping of a server that is
 * none of his business.
 */
static void
resolve_server(Entry *entry, const char *name)
{
	Oid role = entry->target.role;
	Definition d;

	d.server = find_server(name);
	require_usage(d.server->oid, role);
	d.remote = find_remote(d.server);
	require_usage(d.remote->oid, role);
	d.mapping = read_mapping(role, d.remote);
	take_definition(entry, &d, trust_of(&d, entry->superuser));
}

static CpTrust
conninfo_trust(Oid role)
{
	return superuser_arg(role) ? CP_TRUST_ANY : CP_TRUST_PASSWORD;
}

/* The rules for non-superusers are dblink's. */
static void
resolve_conninfo(Entry *entry, const char *string)
{
	CpTarget *target = &entry->target;

	cp_conninfo_parse(entry->info, string);
	take_connect_timeout(&entry->given, entry->info);

	target->key.kind = CP_POOL_CONNINFO;
	target->key.role = target->role;
	target->key.trust = conninfo_trust(target->role);
	target->key.conninfo = cp_conninfo_digest(string);
	entry->by_superuser = entry->superuser;
	entry->target.party = entry->superuser ? InvalidOid : entry->target.role;
	cp_conninfo_display(entry->info, target->name, sizeof(target->name));
}

/* Begins an entry, in a memory context of its own below `parent`. */
static Entry *
create_entry(MemoryContext parent, Oid role)
{
	MemoryContext context = AllocSetContextCreate(parent, "conpool target",
												  ALLOCSET_SMALL_SIZES);
	Entry *entry = MemoryContextAllocZero(context, sizeof(Entry));

	entry->context = context;
	entry->superuser = superuser_arg(role);
	entry->info = cp_conninfo_create(context);
	entry->target.key.database = MyDatabaseId;
	entry->target.role = role;
	entry->target.pool = CP_NONE;
	return entry;
}

/* Cuts a name, at a character's boundary, to so many bytes. */
static void
cut_name(char *name, int limit)
{
	name[pg_mbcliplen(name, (int) strlen(name), Max(limit, 0))] = '\0';
}

/*
 * What the remote shows of a connection: whom it serves.  Of two names that are
 * too long together each keeps half of the room, and what the other leaves.  It is
 * the same for sessions and for the reader, being part of the fingerprint: when
 * server or database get another name the connections are replaced.
 */
static char *
name_for_remote(const CpTarget *target)
{
	static const char prefix[] = "conpool ";
	char *database = get_database_name(target->key.database);
	char *server = pstrdup(target->key.kind == CP_POOL_SERVER ? target->name : "");
	int room = NAMEDATALEN - 1 - (int) strlen(prefix) - 1;

	if (database == NULL)
		database = pstrdup("");
	cut_name(database, Max(room / 2, room - (int) strlen(server)));
	cut_name(server, room - (int) strlen(database));
	return psprintf("%s%s%s%s", prefix, database, server[0] != '\0' ? "/" : "", server);
}

static void
finish_entry(Entry *entry)
{
	CpTarget *target = &entry->target;

	cp_conninfo_finish(entry->info, name_for_remote(target));
	target->keywords = entry->info->keywords;
	target->values = entry->info->values;
	target->fingerprint = cp_conninfo_fingerprint(entry->info, target->key.trust);
	target->password_required = target->key.trust == CP_TRUST_PASSWORD;
	/* it is looked up in a file that a variable names, at every connect */
	target->by_environment = cp_conninfo_get(entry->info, "service") != NULL;
}

/*
 * The options in force, from what was given and the present settings.  Nobody
 * could open connections of an ad-hoc pool ahead of demand, and a pool for
 * PUBLIC has no role whose rights could be looked at.
 */
static void
update_options(Entry *entry)
{
	CpPoolOptions *options = &entry->target.options;

	*options = cp_guc_pool_options;
	cp_options_overlay(options, &entry->given);
	if (entry->target.key.kind == CP_POOL_CONNINFO)
		options->max_server_size = 0;
	if (!entry->ahead)
		options->min_size = 0;
	options->min_size = Min(options->min_size, options->max_size);
}

/*
 * Makes the entry for a name that is not known yet.  All working memory is in
 * `work`; the entry's context leaves it only when the entry is complete.
 */
static Entry *
make_entry(const CacheKey *key, const char *name, MemoryContext work)
{
	Entry *entry = create_entry(work, key->role);

	entry->key = *key;
	entry->name = cp_wiped_copy(entry->context, name);
	if (cp_conninfo_is_one(name))
		resolve_conninfo(entry, name);
	else
		resolve_server(entry, name);
	require_password(entry);
	refuse_engine(entry);
	finish_entry(entry);
	return entry;
}

static Entry *
resolve_anew(const CacheKey *key, const char *name)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "conpool resolve",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(work);
	Entry *entry = make_entry(key, name, work);

	remember(entry);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(work);
	return entry;
}

/* ---- for the reader ---- */

/* Do any sessions still connect under that trust? */
static bool
trust_holds(const CpPoolKey *key, const Definition *d, bool superuser)
{
	/* by a mapping for PUBLIC, superusers do */
	if (!OidIsValid(key->role) && key->trust == CP_TRUST_ANY)
		return true;
	return trust_of(d, superuser) == key->trust;
}

/*
 * Of the pool with that key; false if there is no such pool any more.  With SCRAM
 * pass-through, pools of the mapping for PUBLIC belong to roles.
 */
static bool
look_for_definition_of_pool(const CpPoolKey *key, Definition *d)
{
	if (!look_for_definition(key->server, key->role, d))
	{
		if (d->remote == NULL || !SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(key->role)))
			return false;
		d->mapping = look_for_mapping(InvalidOid, d->remote);
	}
	return d->mapping != NULL && d->mapping->oid == key->mapping &&
		role_of_pool(d, key->role) == key->role &&
		(!wants_passthrough(d) || OidIsValid(key->role));
}

/* Of a pool of a server whose definition is that now; NULL if it is of no use. */
static Entry *
entry_of_pool(const CpPoolKey *key, const Definition *d)
{
	Entry *entry = create_entry(CurrentMemoryContext, key->role);

	if (!trust_holds(key, d, entry->superuser))
		return NULL;
	take_definition(entry, d, key->trust);
	/* a role's own pool is kept, to show that this is the reason for its errors */
	if (!OidIsValid(key->role) && lacks_password(entry))
		return NULL;
	return entry;
}

/* Of an ad-hoc pool, of whose string nothing is known. */
static CpTarget *
target_of_ad_hoc_pool(const CpPoolKey *key)
{
	CpTarget *target;

	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(key->role)) ||
		conninfo_trust(key->role) != key->trust)
		return NULL;
	target = palloc0(sizeof(CpTarget));
	target->key = *key;
	target->role = key->role;
	target->options = cp_guc_pool_options;
	target->options.min_size = target->options.max_server_size = 0;
	target->pool = CP_NONE;
	return target;
}

static CpTarget *
complete(Entry *entry)
{
	finish_entry(entry);
	update_options(entry);
	return &entry->target;
}

static List *
list_servers(void)
{
	Relation catalog = table_open(ForeignServerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	List *servers = NIL;
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		servers = lappend_oid(servers, ((Form_pg_foreign_server) GETSTRUCT(tuple))->oid);
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return servers;
}

static void
add_mapping(MappingArray *array, Oid server, Oid role)
{
	if (array->count == array->room)
	{
		array->room = Max(array->room * 2, 16);
		array->items = array->items ?
			repalloc(array->items, array->room * sizeof(CpTargetMapping)) :
			palloc(array->room * sizeof(CpTargetMapping));
	}
	array->items[array->count++] = (CpTargetMapping){.server = server, .role = role};
}

/* All mappings of roles, with the server that they belong to. */
static MappingArray
list_mappings(void)
{
	Relation catalog = table_open(UserMappingRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	MappingArray mappings = {0};
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_user_mapping form = (Form_pg_user_mapping) GETSTRUCT(tuple);

		if (OidIsValid(form->umuser))
			add_mapping(&mappings, form->umserver, form->umuser);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return mappings;
}

/* The server that mappings of this one are to be looked for at, InvalidOid = none. */
static Oid
server_of_mappings(Oid oid)
{
	Server *server = look_for_server(oid);
	Server *remote;

	if (server == NULL || server->wrapper != WRAPPER_CONPOOL)
		return InvalidOid;
	remote = look_for_remote(server);
	return remote ? remote->oid : InvalidOid;
}

/* ---- what others call ---- */

bool
cp_target_is_conninfo(const char *server)
{
	return cp_conninfo_is_one(server);
}

CpTarget *
cp_target_resolve(const char *server)
{
	CacheKey key;
	Entry *entry;

	cp_shmem_require();
	if (cp_conninfo_is_one(server))
		require_conninfo_allowed();

	prepare_cache();
	key = cache_key(server, GetUserId());
	entry = recall(&key, server);
	if (entry)
		recheck_rights(entry);
	else
		entry = resolve_anew(&key, server);

	update_options(entry);
	return &entry->target;
}

CpTarget *
cp_target_again(const CpTarget *target)
{
	const Entry *entry = (const Entry *) target;

	return cp_target_resolve(cp_wiped_copy(CurrentMemoryContext, entry->name));
}

int
cp_target_mappings(CpTargetMapping **mappings)
{
	MappingArray all = list_mappings();
	MappingArray found = {0};
	ListCell *cell;

	foreach(cell, list_servers())
	{
		Oid remote = server_of_mappings(lfirst_oid(cell));

		for (int i = 0; OidIsValid(remote) && i < all.count; i++)
		{
			if (all.items[i].server == remote)
				add_mapping(&found, lfirst_oid(cell), all.items[i].role);
		}
	}
	*mappings = found.items;
	return found.count;
}

CpTarget *
cp_target_of_mapping(Oid server, Oid role)
{
	Definition d;
	Entry *entry;

	if (!look_for_definition(server, role, &d))
		return NULL;
	entry = create_entry(CurrentMemoryContext, role);
	take_definition(entry, &d, trust_of(&d, entry->superuser));
	(void) complete(entry);
	entry->owner = d.server->owner;
	entry->not_ours = server_of_others(&d);
	/* what is opened under the stricter rule does for the role's sessions, too */
	if (entry->not_ours)
		entry->target.password_required = true;
	return &entry->target;
}

void
cp_target_require_rights(const CpTarget *target)
{
	const Entry *entry = (const Entry *) target;

	recheck_rights(entry);
	require_usage_of_owner(entry);
	refuse_passthrough_ahead(entry);
	require_password_ahead(entry);
	refuse_engine(entry);
}

CpTarget *
cp_target_of_pool(const CpPoolKey *key)
{
	Definition d;
	Entry *entry;

	if (key->kind == CP_POOL_CONNINFO)
		return target_of_ad_hoc_pool(key);
	if (!look_for_definition_of_pool(key, &d))
		return NULL;
	entry = entry_of_pool(key, &d);
	return entry ? complete(entry) : NULL;
}
