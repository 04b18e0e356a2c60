# transactions.sh ROUNDS: sqlite3 works through transactions that come in a pipe and take a while, some of them rolled back; a
# second one then reads the database. The same rounds leave the same rows.
set -euo pipefail
rounds=$1
rm -f state.db state.db-wal state.db-shm
statements() {
    local round row
    echo "PRAGMA journal_mode = WAL;"
    echo "PRAGMA busy_timeout = 60000;"
    echo "CREATE TABLE entry (id INTEGER PRIMARY KEY, round INTEGER, value TEXT);"
    echo "CREATE INDEX by_value ON entry (value);"
    echo ".print READY"
    for ((round = 0; round < rounds; round++)); do
        echo "BEGIN IMMEDIATE;"
        for ((row = 0; row < 60; row++)); do
            echo "INSERT INTO entry (round, value) VALUES ($round, hex(sha3('$round/$row')));"
        done
        sleep 0.01
        echo "DELETE FROM entry WHERE round = $((round - 20)) AND id % 3 = 0;"
        if ((round % 7 == 3)); then
            echo "ROLLBACK;"
        else
            echo "COMMIT;"
        fi
        if ((round % 20 == 0)); then
            echo "SELECT round, count(*), min(value) FROM entry WHERE round = $round GROUP BY round;"
        fi
    done
    echo "PRAGMA integrity_check;"
    echo "PRAGMA wal_checkpoint(TRUNCATE);"
}
statements | sqlite3 -bail state.db
sqlite3 -readonly state.db "SELECT id, round, value FROM entry ORDER BY id" | sha256sum | sed 's/^/FINAL /'
