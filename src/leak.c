/*
 * leak.c
 *		What is a leak, and telling the log once when one begins.
 *
 * The scan runs in the broker, the rest in client backends.  Looks at copies
 * of slots; the marking itself is pool.c's, under the pool's lock.
 */
#include "postgres.h"

#include "leak.h"

bool
cp_leak_is_one(const CpSlotInfo *slot, CpTime now)
{
	return slot->state == CP_SLOT_LEASED &&
		slot->leak_threshold > 0 &&
		slot->running_since == 0 &&
		now - slot->leased_at >= (CpTime) slot->leak_threshold * 1000;
}

static void
warn(const CpSlotInfo *slot, CpTime now)
{
	ereport(WARNING,
			(errmsg("connection of pool \"%s\" leaked: held by pid %d for %.1f s",
					slot->name, slot->holder_pid, (now - slot->leased_at) / 1e6),
			 errdetail("Lease " UINT64_FORMAT " was taken by: %s", slot->lease, slot->sql),
			 errhint("The session should give it back with conpool.checkin(); see view "
					 "conpool.leaks and the option leak_threshold.")));
}

void
cp_leak_scan(void)
{
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		CpSlotInfo slot;
		CpTime now = cp_now();

		if (((volatile CpSharedSlot *) &cp_slots[i])->state != CP_SLOT_LEASED ||
			!cp_slot_read(i, &slot))
			continue;
		if (cp_leak_is_one(&slot, now) && !slot.leak_reported &&
			cp_slot_report_leak(i, slot.lease))
			warn(&slot, now);
	}
}

void
cp_leak_abandoned(int i)
{
	CpSlotInfo slot;
	CpLeakRecord record = {0};

	if (!cp_slot_read(i, &slot))
		return;
	strlcpy(record.pool, slot.name, CP_POOL_NAME_LEN);
	record.key = slot.key;
	record.lease = slot.lease;
	record.pid = slot.holder_pid;
	record.role = slot.lease_role;
	record.since = slot.leased_at;
	record.held_for = cp_now() - slot.leased_at;
	memcpy(record.sql, slot.sql, CP_SQL_LEN);

	/* counted and told once, even if the scan had found it before */
	if (cp_slot_report_leak(i, slot.lease))
		warn(&slot, cp_now());

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	cp_shared->leak_ring[cp_shared->leak_count % CP_LEAK_RING] = record;
	cp_shared->leak_count++;
	LWLockRelease(cp_shmem_registry_lock());
}

void
cp_leak_over(const char *pool, uint64 lease, CpTime held_for)
{
	ereport(LOG_SERVER_ONLY,
			(errmsg("leaked connection of pool \"%s\" was given back after %.1f s",
					pool, held_for / 1e6),
			 errdetail("It was lease " UINT64_FORMAT ".", lease)));
}

int
cp_leak_recent(CpLeakRecord **records)
{
	int n;

	*records = palloc(CP_LEAK_RING * sizeof(CpLeakRecord));
	LWLockAcquire(cp_shmem_registry_lock(), LW_SHARED);
	n = (int) Min(cp_shared->leak_count, CP_LEAK_RING);
	for (int i = 0; i < n; i++)
		(*records)[i] = cp_shared->leak_ring[(cp_shared->leak_count - 1 - i) % CP_LEAK_RING];
	LWLockRelease(cp_shmem_registry_lock());
	return n;
}
