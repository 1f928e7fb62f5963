/*
 * report_pools.h
 *		The pools on the page of report(): a table of all, drawings of some.
 */
#ifndef CP_REPORT_POOLS_H
#define CP_REPORT_POOLS_H

#include "lib/stringinfo.h"

typedef struct CpReportPools CpReportPools;

/* reads them from the views, palloc'd; the busiest come first */
extern CpReportPools *cp_report_pools_read(void);

/* two sections: the table, and the drawings */
extern void cp_report_pools_write(StringInfo page, const CpReportPools *pools);
extern void cp_report_pools_write_details(StringInfo page, CpReportPools *pools);

#endif /* CP_REPORT_POOLS_H */
