/*
 * stats_file.h
 *		Statistics outlive a clean restart of the server, in a file.
 *
 * Runs in the postmaster alone: written when it exits cleanly, read and removed
 * when it starts (as pg_stat_statements does), so that after a crash they begin
 * anew.  Never throws: what cannot be read is reported in the log and ignored.
 */
#ifndef CP_STATS_FILE_H
#define CP_STATS_FILE_H

/* postmaster, once shared memory is there and new: reads the file, and sees to
 * it that one is written at the end */
extern void cp_stats_file_begin(void);

/*
 * Broker, when it begins: the server is up, and what is counted from now on must
 * not be added to the file's once more after a crash.  (Not earlier: a start that
 * fails must not cost the statistics.)
 */
extern void cp_stats_file_forget(void);

#endif /* CP_STATS_FILE_H */
