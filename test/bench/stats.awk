# Medians and ratios of what run.sh measured.
#
# Input: round,case,peer,value,backends,then seconds: CPU of conpool's workers,
# CPU of others, wall, CPU of conpool's tunnels.
# The value is a rate per second, in cases "d" and "td" milliseconds per call.
#
#   -v want=summary    one CSV line per case and peer; -v cpus=N as below
#   -v want=speed -v case=C -v peer=P -v base=B    speed of P in units of B's
#   -v want=time  ...                              time of P in units of B's
#   -v want=backends -v case=C -v peer=P           most remote backends seen
#   -v want=broker -v peer=P         CPU of conpool's workers in percent of wall
#   -v want=disturbed -v cpus=N -v above=P    how many measurements were made
#               while others took more than P percent of N CPUs, and of how many
# Ratios are taken round by round; the answer is their median, or nothing when
# one of the two was not measured.
BEGIN { FS = OFS = "," }

{
    key = $2 SUBSEP $3
    if (!(key in rounds)) { order[++keys] = key; backends[key] = 0 }
    rounds[key]++
    value[key, $1] = $4
    if ($1 > last) last = $1
    if ($5 > backends[key]) backends[key] = $5
    cpu[key] += $6; others[key] += $7; wall[key] += $8; tunnel[key] += $9
    peer_cpu[$3] += $6; peer_wall[$3] += $8
    if (cpus && 100 * $7 / $8 / cpus > above) disturbed++
}

function is_time(c) {
    return c ~ /d$/
}

# Fills sorted[1..n] with the numbers that the rounds gave, returns n.
function collect(c, p, b, as_time,    r, i, n, x) {
    n = 0
    for (r = 1; r <= last; r++) {
        if (!((c, p, r) in value)) continue
        x = value[c, p, r]
        if (b != "") {
            if (!((c, b, r) in value)) continue
            x = x / value[c, b, r]
            if (is_time(c) != as_time) x = 1 / x
        }
        for (i = n++; i > 0 && sorted[i] > x; i--) sorted[i + 1] = sorted[i]
        sorted[i + 1] = x
    }
    return n
}

function median(n) {
    return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
}

function ratio(c, p, b, as_time,    n) {
    n = collect(c, p, b, as_time)
    return n ? sprintf("%.3f", median(n)) : ""
}

function summary(    k, part, c, p, n) {
    print "case", "peer", "unit", "median", "min", "max", \
        "speed_vs_dblink_open", "remote_backends", "broker_cpu_percent", \
        "others_cpu_percent", "rounds", "tunnels_cpu_percent"
    for (k = 1; k <= keys; k++) {
        split(order[k], part, SUBSEP); c = part[1]; p = part[2]
        n = collect(c, p, "", 0)
        print c, p, is_time(c) ? "ms" : "per second", \
            sprintf("%.1f", median(n)), sprintf("%.1f", sorted[1]), \
            sprintf("%.1f", sorted[n]), ratio(c, p, "dblink_open", 0), \
            backends[order[k]], \
            sprintf("%.2f", 100 * cpu[order[k]] / wall[order[k]]), \
            sprintf("%.1f", 100 * others[order[k]] / wall[order[k]] / cpus), n, \
            sprintf("%.1f", 100 * tunnel[order[k]] / wall[order[k]])
    }
}

END {
    if (want == "summary") summary()
    else if (want == "speed") print ratio(case, peer, base, 0)
    else if (want == "time") print ratio(case, peer, base, 1)
    else if (want == "backends") print backends[case, peer]
    else if (want == "disturbed") print disturbed + 0, NR
    else if (want == "broker" && peer_wall[peer] > 0)
        printf "%.3f\n", 100 * peer_cpu[peer] / peer_wall[peer]
}
