/*
 * hosts.c
 *		A list of hosts in libpq's options: taken apart, put together, tried in
 *		turn.
 *
 * Runs in client backends, dialer and tunnel; called by remote.c, dialer.c and probe.c.
 * Must never touch a network, nor leave a password behind in freed memory.
 */
#include "postgres.h"

#include "hosts.h"

#include <netdb.h>
#include <sys/socket.h>

#include "common/pg_prng.h"
#include "lib/stringinfo.h"
#include "libpq/pqcomm.h"
#include "utils/memutils.h"

#include "conninfo.h"

/* The options for one host, and how it went. */
typedef struct Turn
{
	/* of the first pass, and of the second if there is one */
	const char **keywords[2];
	const char **values[2];
	bool silent; /* its time ran out in the first pass */
} Turn;

struct CpHostTurns
{
	MemoryContext context; /* of everything in here */
	MemoryContextCallback wipe;
	/* copies of all keywords and values; passwords among them */
	char *texts;
	size_t texts_size;
	Turn *turns;
	int *order;	  /* indexes of turns in this pass */
	int n;		  /* hosts */
	int passes;	  /* over all of them: 1 or 2 */
	int begun;	  /* turns, of both passes */
	CpTime limit; /* of the present turn; 0 = not yet known */
};

/* ---- options ---- */

static bool
is_set(const char *text)
{
	return text != NULL && *text != '\0';
}

/* As libpq has it: the last one counts, and an empty value is none. */
static const char *
given_option(const char *const *keywords, const char *const *values, const char *keyword)
{
	const char *value = NULL;

	for (int i = 0; keywords[i] != NULL; i++)
	{
		if (strcmp(keywords[i], keyword) == 0 && is_set(values[i]))
			value = values[i];
	}
	return value;
}

/* The same, or what the environment says; NULL if neither does. */
static const char *
option(const char *const *keywords, const char *const *values, const char *keyword,
	   const char *variable)
{
	const char *value = given_option(keywords, values, keyword);

	if (value == NULL)
		value = getenv(variable);
	return is_set(value) ? value : NULL;
}

/* ---- taking apart ---- */

static int
count_elements(const char *list)
{
	int n = 1;

	for (; *list != '\0'; list++)
		n += *list == ',';
	return n;
}

/* The next element, and *list is what follows it; NULL if it is empty. */
static char *
take_element(const char **list)
{
	const char *begin = *list;
	size_t len;

	if (begin == NULL)
		return NULL;
	len = strcspn(begin, ",");
	*list = begin[len] == ',' ? begin + len + 1 : NULL;
	return len > 0 ? pnstrdup(begin, len) : NULL;
}

int
cp_hosts_split(const char *const *keywords, const char *const *values, CpHost **hosts)
{
	const char *host = option(keywords, values, "host", "PGHOST");
	const char *hostaddr = option(keywords, values, "hostaddr", "PGHOSTADDR");
	const char *port = option(keywords, values, "port", "PGPORT");
	bool listed = host != NULL || hostaddr != NULL;
	int ports = port != NULL ? count_elements(port) : 0;
	int n = listed ? count_elements(hostaddr != NULL ? hostaddr : host) : 1;

	*hosts = NULL;
	if (n > CP_MAX_HOSTS || ports > CP_MAX_HOSTS)
		return CP_NONE;
	if ((host != NULL && count_elements(host) != n) || (ports > 1 && ports != n) ||
		option(keywords, values, "service", "PGSERVICE") != NULL)
		return 0;

	*hosts = palloc0(n * sizeof(CpHost));
	for (int i = 0; i < n; i++)
	{
		CpHost *h = &(*hosts)[i];

		h->host = take_element(&host);
		h->hostaddr = take_element(&hostaddr);
		/* by itself such an entry would mean what the environment says */
		if (listed && h->host == NULL && h->hostaddr == NULL)
			h->host = DEFAULT_PGSOCKET_DIR[0] != '\0' ? DEFAULT_PGSOCKET_DIR : "localhost";
		if (ports == 1)
			h->port = pstrdup(port);
		else if (ports > 1)
		{
			h->port = take_element(&port);
			if (h->port == NULL)
				h->port = DEF_PGPORT_STR;
		}
	}
	return n;
}

bool
cp_host_is_name(const CpHost *host)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found;

	if (!is_set(host->host) || is_set(host->hostaddr) || is_unixsock_path(host->host))
		return false;
	if (getaddrinfo(host->host, NULL, &hints, &found) != 0)
		return true;
	freeaddrinfo(found);
	return false;
}

/* ---- putting together ---- */

static void
append_element(StringInfo list, int i, const char *element)
{
	if (i > 0)
		appendStringInfoChar(list, ',');
	if (element != NULL)
		appendStringInfoString(list, element);
}

static bool
is_replaced(const char *keyword, const char *other)
{
	return strcmp(keyword, "host") == 0 ||
		strcmp(keyword, "hostaddr") == 0 ||
		strcmp(keyword, "port") == 0 ||
		(other != NULL && strcmp(keyword, other) == 0);
}

/* The same as cp_hosts_join() with any other option to be replaced. */
static void
join(const char *const *keywords, const char *const *values, const CpHost *hosts, int n,
	 const char *other, const char *other_value,
	 const char ***new_keywords, const char ***new_values)
{
	StringInfoData lists[3]; /* host, hostaddr, port */
	const char *added[4][2] = {
		{"host", NULL},
		{"hostaddr", NULL},
		{"port", NULL},
		{other, other_value},
	};
	int count = 0;
	int used = 0;

	for (int i = 0; i < lengthof(lists); i++)
		initStringInfo(&lists[i]);
	for (int i = 0; i < n; i++)
	{
		append_element(&lists[0], i, hosts[i].host);
		append_element(&lists[1], i, hosts[i].hostaddr);
		append_element(&lists[2], i, hosts[i].port);
	}
	for (int i = 0; i < lengthof(lists); i++)
	{
		/* nothing but commas: an option that is not given */
		if (strspn(lists[i].data, ",") < lists[i].len)
			added[i][1] = lists[i].data;
	}

	while (keywords[count] != NULL)
		count++;
	*new_keywords = palloc0((count + lengthof(added) + 1) * sizeof(char *));
	*new_values = palloc0((count + lengthof(added) + 1) * sizeof(char *));
	for (int i = 0; i < count; i++)
	{
		if (is_replaced(keywords[i], other_value != NULL ? other : NULL))
			continue;
		(*new_keywords)[used] = keywords[i];
		(*new_values)[used++] = values[i];
	}
	for (int i = 0; i < lengthof(added); i++)
	{
		if (added[i][1] == NULL)
			continue;
		(*new_keywords)[used] = added[i][0];
		(*new_values)[used++] = added[i][1];
	}
}

void
cp_hosts_join(const char *const *keywords, const char *const *values,
			  const CpHost *hosts, int n, const char *target_session_attrs,
			  const char ***new_keywords, const char ***new_values)
{
	join(keywords, values, hosts, n, "target_session_attrs", target_session_attrs,
		 new_keywords, new_values);
}

/* ---- random order ---- */

/* Those of libpq that are older than the option know nothing of its variable either. */
static bool
is_balanced(const char *const *keywords, const char *const *values)
{
	const char *value;

	if (cp_conninfo_place("load_balance_hosts") == CP_CONNINFO_NOWHERE)
		return false;
	value = option(keywords, values, "load_balance_hosts", "PGLOADBALANCEHOSTS");
	return value != NULL && strcmp(value, "random") == 0;
}

/* The numbers below n, in random order or in theirs. */
static int *
make_order(int n, bool is_random)
{
	int *order = palloc0(Max(n, 1) * sizeof(int));

	for (int i = 0; i < n; i++)
	{
		int other = is_random ? (int) pg_prng_uint64_range(&pg_global_prng_state, 0, i) : i;

		order[i] = order[other];
		order[other] = i;
	}
	return order;
}

/* ---- names that have been looked up ---- */

/* Appends the entries of one host, not more than there is room for. */
static int
expand_host(const CpFoundHost *host, bool is_random, CpHost *entries, int room)
{
	int n = Min(host->count, room);
	int *order;

	if (!cp_host_is_name(&host->given))
	{
		entries[0] = host->given;
		return 1;
	}
	order = make_order(host->count, is_random);
	for (int i = 0; i < n; i++)
	{
		entries[i] = host->given;
		entries[i].hostaddr = host->addresses[order[i]];
	}
	return n;
}

static int
expand(const CpFoundHost *hosts, int n, bool is_random, CpHost **entries)
{
	int *order = make_order(n, is_random);
	int to = 0;

	*entries = palloc(CP_MAX_HOSTS * sizeof(CpHost));
	for (int i = 0; i < n; i++)
		to += expand_host(&hosts[order[i]], is_random, *entries + to, CP_MAX_HOSTS / n);
	return to;
}

int
cp_hosts_expand(const CpFoundHost *hosts, int n, CpHost **entries)
{
	return expand(hosts, n, false, entries);
}

bool
cp_hosts_resolve(const char *const *keywords, const char *const *values,
				 const CpFoundHost *hosts, int n,
				 const char ***new_keywords, const char ***new_values)
{
	bool is_random = is_balanced(keywords, values);
	CpHost *entries;
	int count = expand(hosts, n, is_random, &entries);

	if (count == 0)
		return false;
	join(keywords, values, entries, count, "load_balance_hosts", is_random ? "disable" : NULL,
		 new_keywords, new_values);
	return true;
}

/* ---- trying in turn ---- */

static void
wipe_texts(void *arg)
{
	CpHostTurns *turns = arg;

	if (turns->texts != NULL)
		explicit_bzero(turns->texts, turns->texts_size);
}

/* Appends a text, with its terminator, at *to; NULL stays NULL. */
static const char *
copy_text(char **to, const char *text)
{
	char *copy = *to;

	if (text == NULL)
		return NULL;
	strcpy(copy, text);
	*to += strlen(copy) + 1;
	return copy;
}

/* Copies both arrays; the texts go into one piece that is easy to wipe. */
static void
copy_options(CpHostTurns *turns, const char *const *keywords, const char *const *values,
			 const char ***own_keywords, const char ***own_values)
{
	int count;
	char *to;

	for (count = 0; keywords[count] != NULL; count++)
		turns->texts_size += strlen(keywords[count]) + 1 +
			(values[count] != NULL ? strlen(values[count]) + 1 : 0);

	*own_keywords = palloc0((count + 1) * sizeof(char *));
	*own_values = palloc0((count + 1) * sizeof(char *));
	to = turns->texts = palloc0(turns->texts_size);
	for (int i = 0; i < count; i++)
	{
		(*own_keywords)[i] = copy_text(&to, keywords[i]);
		(*own_values)[i] = copy_text(&to, values[i]);
	}
}

/* The order of a pass: hosts that were silent in the one before go last. */
static void
order_pass(CpHostTurns *turns)
{
	int at = 0;

	for (int i = 0; i < turns->n; i++)
	{
		if (!turns->turns[i].silent)
			turns->order[at++] = i;
	}
	for (int i = 0; i < turns->n; i++)
	{
		if (turns->turns[i].silent)
			turns->order[at++] = i;
	}
}

/* All that is needed for every turn, so that nothing is allocated later. */
static void
prepare_turns(CpHostTurns *turns, const char *const *keywords, const char *const *values,
			  const CpHost *hosts)
{
	const char *target = option(keywords, values, "target_session_attrs",
								"PGTARGETSESSIONATTRS");
	const char *targets[2] = {NULL, NULL}; /* NULL: as given */
	int *order;

	turns->passes = 1;
	if (target != NULL && strcmp(target, "prefer-standby") == 0)
	{
		turns->passes = 2;
		targets[0] = "standby";
		targets[1] = "any";
	}
	order = make_order(turns->n, is_balanced(keywords, values));

	turns->turns = palloc0(turns->n * sizeof(Turn));
	turns->order = palloc0(turns->n * sizeof(int));
	for (int i = 0; i < turns->n; i++)
	{
		for (int pass = 0; pass < turns->passes; pass++)
			cp_hosts_join(keywords, values, &hosts[order[i]], 1, targets[pass],
						  &turns->turns[i].keywords[pass], &turns->turns[i].values[pass]);
	}
}

bool
cp_hosts_begin(const char *const *keywords, const char *const *values, CpHostTurns **result)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "conpool hosts",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	CpHostTurns *turns = palloc0(sizeof(CpHostTurns));
	const char **own_keywords;
	const char **own_values;
	CpHost *hosts;
	int n;

	turns->context = context;
	n = turns->n = cp_hosts_split(keywords, values, &hosts);
	if (turns->n > 1)
	{
		turns->wipe.func = wipe_texts;
		turns->wipe.arg = turns;
		MemoryContextRegisterResetCallback(context, &turns->wipe);
		copy_options(turns, keywords, values, &own_keywords, &own_values);
		prepare_turns(turns, own_keywords, own_values, hosts);
		/* nothing can fail any more: it lives until it is ended */
		MemoryContextSetParent(context, TopMemoryContext);
	}
	MemoryContextSwitchTo(caller);

	*result = n > 1 ? turns : NULL;
	if (n <= 1)
		MemoryContextDelete(context);
	return n != CP_NONE;
}

bool
cp_hosts_next(CpHostTurns *turns, const char *const **keywords, const char *const **values)
{
	int pass = turns->begun / turns->n;
	Turn *turn;

	if (pass == turns->passes)
		return false;
	if (turns->begun % turns->n == 0)
		order_pass(turns);
	turn = &turns->turns[turns->order[turns->begun % turns->n]];
	turns->begun++;
	turns->limit = 0;
	*keywords = (const char *const *) turn->keywords[pass];
	*values = (const char *const *) turn->values[pass];
	return true;
}

CpTime
cp_hosts_limit(CpHostTurns *turns, CpTime deadline)
{
	if (turns->limit == 0)
	{
		CpTime now = cp_now();
		int left = turns->n * turns->passes - turns->begun + 1;

		if (deadline == CP_FOREVER || deadline <= now)
			turns->limit = deadline;
		else
			turns->limit = now + (deadline - now) / left;
	}
	return turns->limit;
}

void
cp_hosts_was_silent(CpHostTurns *turns)
{
	turns->turns[turns->order[(turns->begun - 1) % turns->n]].silent = true;
}

void
cp_hosts_end(CpHostTurns *turns)
{
	if (turns != NULL)
		MemoryContextDelete(turns->context);
}
