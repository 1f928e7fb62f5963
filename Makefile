# conpool: a connection pool inside PostgreSQL
#
#   make, make install, make installcheck, make clean
#       as with any PGXS extension; PG_CONFIG=... chooses the server
#   make check | check-dblink | demo | bench | lint | format | format-check
#       install what they need on Debian, then do it; see test/*.sh

PG_CONFIG = pg_config
DRIVERS = check check-dblink demo bench lint format format-check

ifneq (,$(filter $(DRIVERS),$(MAKECMDGOALS)))

# The drivers must run where PGXS is still missing, and PGXS has a "check" of
# its own that does nothing: so the two never meet in one invocation.
.PHONY: $(MAKECMDGOALS)
.NOTPARALLEL:

check check-dblink demo lint:
	@test/$@.sh
bench:
	@test/bootstrap.sh bench
	@test/bench/run.sh
format:
	@test/bootstrap.sh lint
	@clang-format -i $(sort $(wildcard src/*.[ch]))
format-check:
	@test/bootstrap.sh lint
	@clang-format --dry-run -Werror $(sort $(wildcard src/*.[ch]))

$(filter-out $(DRIVERS),$(MAKECMDGOALS)):
	@$(MAKE) $@

else

MODULE_big = conpool
SRCS = $(sort $(wildcard src/*.c))
OBJS = $(SRCS:.c=.o)
PGFILEDESC = "conpool - a connection pool inside the server"

EXTENSION = conpool conpool_dblink
DATA = $(sort $(wildcard sql/*.sql))

# Only some minor releases have the function; the code refers to it weakly.
PROXY_CONNINFO = libpqsrv_check_proxy_conninfo_opts
PROXY_CONNINFO_HEADER = $(includedir_server)/libpq/libpq-be-fe-helpers.h
# Encrypted connections are shared if there is OpenSSL, libpq's TLS library, to
# build with; TLS=no builds without it.
TLS = $(shell grep -qs 'define USE_OPENSSL 1' $(includedir_server)/pg_config.h && \
	printf '\043include <openssl/ssl.h>\n' | $(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 && \
	echo yes)
PG_CPPFLAGS = -I$(libpq_srcdir) \
	$(shell grep -qs $(PROXY_CONNINFO) $(PROXY_CONNINFO_HEADER) && \
		echo -DHAVE_LIBPQSRV_CHECK_PROXY_CONNINFO) \
	$(if $(filter yes,$(TLS)),-DCP_USE_OPENSSL)
SHLIB_LINK_INTERNAL = $(libpq)
# The dialer looks names up in threads, the tunnel connects in them.
PG_CFLAGS = $(PTHREAD_CFLAGS)
SHLIB_LINK = $(PTHREAD_LIBS) $(if $(filter yes,$(TLS)),-lssl -lcrypto)

# No bitcode: it would need clang, and there is nothing to inline into a query.
override with_llvm = no

# installcheck: on a running server with conpool preloaded, see test/setup.sh.
REGRESS = $(sort $(basename $(notdir $(wildcard test/sql/*.sql))))
ISOLATION = $(sort $(basename $(notdir $(wildcard test/specs/*.spec))))
TEST_OPTS := --inputdir=test --outputdir=. --use-existing
REGRESS_OPTS := $(TEST_OPTS)
ISOLATION_OPTS := $(TEST_OPTS)
REGRESS_PREP = setup-installcheck
EXTRA_CLEAN = results regression.diffs regression.out tmp_check \
	compile_commands.json

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq (,$(wildcard $(PGXS)))
$(error "$(PG_CONFIG)" leads to no PGXS. Install the server's development \
files (Debian: apt-get install postgresql-server-dev-15) or set PG_CONFIG)
endif
include $(PGXS)

$(OBJS): Makefile $(wildcard src/*.h)

.PHONY: setup-installcheck
setup-installcheck:
	@PG_CONFIG='$(PG_CONFIG)' test/setup.sh \
		$(CONTRIB_TESTDB) $(ISOLATION_TESTDB)

compile_commands.json: Makefile $(SRCS)
	@sep='['; for f in $(SRCS); do \
		printf '%s\n{"directory": "%s", "file": "%s", "command": "%s"}' \
			"$$sep" '$(CURDIR)' "$$f" \
			'$(subst ",\",$(COMPILE.c)) '"$$f"; \
		sep=,; \
	done > $@
	@printf '\n]\n' >> $@

endif
