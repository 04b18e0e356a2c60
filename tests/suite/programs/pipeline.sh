# pipeline.sh ROUNDS: loops and subshells of bash feed awk, sort and gzip; the same rounds give the same bytes.
set -euo pipefail
rounds=$1
echo READY
generate() {
    local a=1 b=1 next round
    for ((round = 0; round < rounds; round++)); do
        next=$(((a * 31 + b * 17 + round) % 1000003))
        a=$b
        b=$next
        echo "$round $next"
        if ((round % 500 == 0)); then
            (
                # A subshell and a command substitution of its own.
                inner=$(for ((k = 0; k < 3; k++)); do echo -n "$((next * k))-"; done)
                echo "$round sub$inner"
            )
            sleep 0.01
        fi
    done
}
generate |
    gawk '{ sum += $2; print $2 % 1000, $1, sum } END { print "end", NR, sum }' |
    sort -n -k1,1 -k2,2 |
    gzip -n -9 >result.gz
while read -r line; do
    last=$line
done < <(gzip -dc result.gz | tail -n 3)
echo "LAST $last"
gzip -dc result.gz | sha256sum | sed 's/^/FINAL /'
