/*
 * error.h
 *		SQLSTATEs of conpool's own errors, one for each condition.
 *
 * Low modules return a status; lease, query, target and the sql_* files throw.
 */
#ifndef CP_ERROR_H
#define CP_ERROR_H

#include "utils/errcodes.h"

#define CP_ERRCODE_NO_CONNECTION ERRCODE_TOO_MANY_CONNECTIONS					   /* 53300 */
#define CP_ERRCODE_UNREACHABLE ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION /* 08001 */
#define CP_ERRCODE_LOST ERRCODE_CONNECTION_FAILURE								   /* 08006 */
#define CP_ERRCODE_NOT_YOUR_LEASE ERRCODE_CONNECTION_DOES_NOT_EXIST				   /* 08003 */
#define CP_ERRCODE_DEADLOCK ERRCODE_T_R_DEADLOCK_DETECTED						   /* 40P01 */
#define CP_ERRCODE_PAUSED ERRCODE_LOCK_NOT_AVAILABLE							   /* 55P03 */
#define CP_ERRCODE_NOT_PRELOADED ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE		   /* 55000 */

#endif /* CP_ERROR_H */
