/*
 * report_page.h
 *		The frame of the page that report() makes: its head, style and sections.
 */
#ifndef CP_REPORT_PAGE_H
#define CP_REPORT_PAGE_H

#include "lib/stringinfo.h"

/* title: plain ASCII */
extern void cp_page_begin(StringInfo page, const char *title);
extern void cp_page_end(StringInfo page);

/* total < 0: no number; about may be NULL: what the section shows, as HTML */
extern void cp_page_begin_section(StringInfo page, const char *id, const char *heading,
								  double total, const char *about);
extern void cp_page_end_section(StringInfo page);

#endif /* CP_REPORT_PAGE_H */
