# postgres.sh PORT [ID]: a database server, and pgbench over a unix socket and over TCP at once, until the file $VICTIM_GO is
# there. What pgbench moves between accounts, tellers and branches it also writes down: all four sums must be the same in the
# end, and no transaction may be missing. As root the server runs as user ID, since it refuses to run as root.
set -euo pipefail
port=$1 identity=${2-}
export PGUSER=bench PGDATABASE=postgres PGPORT=$port
if [[ $identity ]]; then
    chmod 711 . # the server passes through here
    install -d -m 700 -o "$identity" -g "$identity" base
    owner=(setpriv --reuid "$identity" --regid "$identity" --clear-groups)
else
    mkdir -m 700 base
    owner=(env)
fi
programs=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)

# The user of the tests need not have a name, which initdb alone wants to know.
id=${identity:-$(id -u)}
printf 'bench:x:%s:%s::/:/bin/sh\n' "$id" "$id" > names
: > groups
chmod 644 names groups
"${owner[@]}" env LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD="$PWD/names" NSS_WRAPPER_GROUP="$PWD/groups" \
    "$programs/initdb" --pgdata base --username bench --auth trust --encoding UTF8 --locale C --no-sync > initdb.log

# Statistics are kept in memory that grows while there is traffic, which is what parallel queries use too.
"${owner[@]}" "$programs/postgres" -D base -p "$port" -k "$PWD/base" -c listen_addresses=127.0.0.1 \
    -c max_connections=40 -c shared_buffers=24MB -c fsync=off -c autovacuum_naptime=1 -c log_min_messages=warning &
server=$!
until "$programs/pg_isready" -q -h 127.0.0.1; do
    kill -0 $server
    sleep 0.1
done
"$programs/pgbench" -h "$PWD/base" --initialize --quiet --scale 2 2> initialize.log

traffic() {
    local runs=0
    until [[ -e $VICTIM_GO ]]; do
        "$programs/pgbench" -h "$1" --no-vacuum --client 4 --jobs 2 --transactions 150 --protocol "$2" > "run.$2"
        grep -q 'processed: 600/600' "run.$2"
        runs=$((runs + 1))
        echo TRAFFIC
    done
    echo "$runs" > "runs.$2"
}
traffic "$PWD/base" simple &
over_unix=$!
traffic 127.0.0.1 prepared &
over_tcp=$!
wait $over_unix
wait $over_tcp

query() { psql -h "$PWD/base" --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 -c "$1"; }
total=$((600 * ($(< runs.simple) + $(< runs.prepared))))
query "SELECT CASE WHEN
    (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) AND
    (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history) AND
    (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history) AND
    (SELECT count(*) FROM pgbench_history) = $total
    THEN 'the sums are right' ELSE 'the sums are wrong' END"
query "SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
    SELECT count(*) || ' accounts' FROM pgbench_accounts WHERE abalance IS NOT NULL"
kill -INT $server
wait $server
echo FINAL
