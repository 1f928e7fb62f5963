/*
 * hanging_names.c
 *		A name server that does not answer, for machines on which a test cannot have
 *		one: preloaded into a server, getaddrinfo() hangs for names in ".hangs".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int (*Lookup)(const char *, const char *, const struct addrinfo *,
					  struct addrinfo **);

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
			struct addrinfo **result)
{
	const char *ending = node ? strrchr(node, '.') : NULL;
	int is_number = hints && (hints->ai_flags & AI_NUMERICHOST);
	Lookup real = (Lookup) dlsym(RTLD_NEXT, "getaddrinfo");

	/* as long as a resolver that tries again and again */
	if (!is_number && ending && strcmp(ending, ".hangs") == 0)
		sleep(300);
	return real(node, service, hints, result);
}
