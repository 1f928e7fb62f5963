/*
 * target.c
 *		From a server's name or a connection string to a pool, its options and
 *		how to connect; and whether the caller may.
 *
 * Runs in client backends, inside a transaction, called by lease.c and the
 * SQL functions.  Throws.  Must never touch a network or a pool.
 *
 * Targets are kept per (name, role) in this process, because making one costs
 * a dozen catalog look-ups.  Rights are looked up every time.  Invalidations
 * only set a flag, whose effect comes with the next call: until then callers
 * hold pointers to targets.
 */
#include "postgres.h"

#include "target.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "foreign/foreign.h"
#include "lib/ilist.h"
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

typedef struct CacheKey
{
	uint64 digest; /* of the name */
	Oid role;
	uint32 unused; /* zero: keys are compared as bytes */
} CacheKey;

/* What is kept with a target; lies in a memory context of its own. */
typedef struct Entry
{
	CpTarget target;
	MemoryContext context;
	dlist_node node; /* in `recent` */
	CacheKey key;
	char *name;		/* as the caller gave it: may hold a password */
	bool superuser; /* was the role one? */
	Oid servers[2]; /* USAGE on these is needed, if valid */
	CpGivenOptions given;
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

static Server *
read_server(Oid oid)
{
	HeapTuple tuple = SearchSysCache1(FOREIGNSERVEROID, ObjectIdGetDatum(oid));
	Form_pg_foreign_server form;
	Server *server = palloc0(sizeof(Server));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for foreign server %u", oid);
	form = (Form_pg_foreign_server) GETSTRUCT(tuple);
	server->oid = oid;
	server->name = pstrdup(NameStr(form->srvname));
	server->options = read_options(FOREIGNSERVEROID, tuple,
								   Anum_pg_foreign_server_srvoptions);
	server->uncommitted = is_uncommitted(tuple);
	read_wrapper(form->srvfdw, server);
	ReleaseSysCache(tuple);
	return server;
}

/* The role's own mapping, else the one for PUBLIC; throws if there is none. */
static Mapping *
read_mapping(Oid role, const Server *server)
{
	HeapTuple tuple;
	Form_pg_user_mapping form;
	Mapping *mapping = palloc0(sizeof(Mapping));

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role),
							ObjectIdGetDatum(server->oid));
	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
								ObjectIdGetDatum(server->oid));
	if (!HeapTupleIsValid(tuple))
	{
		const char *role_name = quote_identifier(GetUserNameFromId(role, false));

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("user mapping not found for role \"%s\", server \"%s\"",
						GetUserNameFromId(role, false), server->name),
				 errhint("Create one with CREATE USER MAPPING FOR %s SERVER %s.",
						 role_name, quote_identifier(server->name))));
	}
	form = (Form_pg_user_mapping) GETSTRUCT(tuple);
	mapping->oid = form->oid;
	mapping->role = form->umuser;
	mapping->options = read_options(USERMAPPINGUSERSERVER, tuple,
									Anum_pg_user_mapping_umoptions);
	mapping->uncommitted = is_uncommitted(tuple);
	ReleaseSysCache(tuple);
	return mapping;
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

/*
 * The server's own identity, which a remote may trust without a password, is
 * not lent to others: they bring a password, and lease.c sees to it that the
 * remote asked for it.
 */
static void
require_password(const CpConninfo *info, const char *detail, const char *hint)
{
	if (cp_conninfo_get(info, "password") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail_internal("%s", _(detail)),
				 hint ? errhint("%s", _(hint)) : 0));
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

/*
 * The server that connection options and mappings come from: the one itself,
 * or the one that its option "server" names.
 */
static Server *
find_remote(Server *server)
{
	const char *name = NULL;
	Server *remote;
	Oid oid;

	if (server->wrapper == WRAPPER_CONPOOL)
		name = option_value(server->options, "server");
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
	if (remote->wrapper == WRAPPER_CONPOOL && option_value(remote->options, "server"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("server \"%s\" refers to another server itself", remote->name),
				 errdetail("Option \"server\" of server \"%s\" refers to it.",
						   server->name)));
	return remote;
}

/*
 * Pool options are those of the named server; of its mapping only where the
 * mapping is that server's own.
 */
static void
resolve_pool_options(CpGivenOptions *given, const Server *server, const Server *remote,
					 const Mapping *mapping, const CpConninfo *info)
{
	take_connect_timeout(given, info);
	if (server->wrapper != WRAPPER_CONPOOL)
		return;
	take_pool_options(given, server->options);
	if (server->oid == remote->oid)
		take_pool_options(given, mapping->options);
}

/*
 * USAGE is needed on both servers where one refers to the other.  Whoever may
 * create servers could otherwise reach the PUBLIC mapping of a server that is
 * none of his business.
 */
static CpConninfo *
resolve_server(Entry *entry, const char *name, Oid role)
{
	CpTarget *target = &entry->target;
	CpConninfo *info;
	Server *server;
	Server *remote;
	Mapping *mapping;

	server = find_server(name);
	require_usage(server->oid, role);
	remote = find_remote(server);
	require_usage(remote->oid, role);
	mapping = read_mapping(role, remote);

	info = cp_conninfo_create(entry->context);
	take_connection_options(info, remote, mapping);
	resolve_pool_options(&entry->given, server, remote, mapping, info);

	target->key.kind = CP_POOL_SERVER;
	target->key.server = server->oid;
	target->key.mapping = mapping->oid;
	target->key.role = mapping->role;
	target->key.trust = entry->superuser || password_waived(mapping, remote->wrapper) ?
		CP_TRUST_ANY :
		CP_TRUST_PASSWORD;
	if (target->key.trust == CP_TRUST_PASSWORD)
		require_password(info,
						 gettext_noop("Non-superusers must provide a password in the user "
									  "mapping."),
						 gettext_noop("Add option \"password\" to the user mapping, or have a "
									  "superuser set its option \"password_required\" to false."));

	target->uncommitted = server->uncommitted || remote->uncommitted ||
		mapping->uncommitted;
	strlcpy(target->name, server->name, sizeof(target->name));
	entry->servers[0] = server->oid;
	entry->servers[1] = remote->oid == server->oid ? InvalidOid : remote->oid;
	return info;
}

/* The rules for non-superusers are dblink's. */
static CpConninfo *
resolve_conninfo(Entry *entry, const char *string, Oid role)
{
	CpTarget *target = &entry->target;
	CpConninfo *info;

	info = cp_conninfo_create(entry->context);
	cp_conninfo_parse(info, string);
	take_connect_timeout(&entry->given, info);

	target->key.kind = CP_POOL_CONNINFO;
	target->key.role = role;
	target->key.trust = entry->superuser ? CP_TRUST_ANY : CP_TRUST_PASSWORD;
	target->key.conninfo = cp_conninfo_digest(string);
	if (target->key.trust == CP_TRUST_PASSWORD)
		require_password(info,
						 gettext_noop("Non-superusers must provide a password in the "
									  "connection string."),
						 NULL);

	cp_conninfo_display(info, target->name, sizeof(target->name));
	return info;
}

/*
 * Makes the entry for a name that is not known yet.  All working memory is in
 * `work`; the entry's context leaves it only when the entry is complete.
 */
static Entry *
make_entry(const CacheKey *key, const char *name, MemoryContext work)
{
	MemoryContext context = AllocSetContextCreate(work, "conpool target",
												  ALLOCSET_SMALL_SIZES);
	Entry *entry = MemoryContextAllocZero(context, sizeof(Entry));
	CpTarget *target = &entry->target;
	CpConninfo *info;

	entry->context = context;
	entry->key = *key;
	entry->name = cp_conninfo_copy_secret(context, name);
	entry->superuser = superuser_arg(key->role);
	target->key.database = MyDatabaseId;
	target->role = key->role;
	target->pool = CP_NONE;

	if (cp_conninfo_is_one(name))
		info = resolve_conninfo(entry, name, key->role);
	else
		info = resolve_server(entry, name, key->role);

	cp_conninfo_finish(info);
	target->keywords = info->keywords;
	target->values = info->values;
	target->fingerprint = cp_conninfo_fingerprint(info, target->key.trust);
	target->password_required = target->key.trust == CP_TRUST_PASSWORD;
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

static void
recheck_rights(const Entry *entry)
{
	for (int i = 0; i < lengthof(entry->servers); i++)
	{
		if (OidIsValid(entry->servers[i]))
			require_usage(entry->servers[i], entry->key.role);
	}
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

	entry->target.options = cp_guc_pool_options;
	cp_options_overlay(&entry->target.options, &entry->given);
	return &entry->target;
}
