#!/bin/sh
# Fills fuzz/corpus/procfs with real files of /proc; the letter in front chooses the parser, as in
# fuzz_targets/procfs.rs.
set -eu
corpus="$(dirname "$0")/corpus/procfs"
mkdir -p "$corpus"

# seed LETTER FILE NAME: one seed, at most 8 KiB; files that vanish or may not be read are left out.
seed() {
    { printf %s "$1"; head -c 8000 "$2" 2>/dev/null || true; } >"$corpus/$3"
}

for process in /proc/self /proc/$PPID /proc/1; do
    name=$(basename "$process")
    for pair in a:stat b:status c:maps d:smaps f:timers g:mountinfo h:auxv i:cgroup l:uid_map \
        m:timens_offsets o:cmdline q:sched s:personality t:oom_score_adj u:loginuid; do
        file=${pair#*:}
        seed "${pair%%:*}" "$process/$file" "$name-$file"
    done
    for information in "$process"/fdinfo/*; do
        seed e "$information" "$name-fdinfo-$(basename "$information")"
    done
done
seed j /proc/cpuinfo cpuinfo
seed v /proc/stat btime
printf 'e%s' 'pos:	0
flags:	02000002
mnt_id:	17
ino:	1038
tfd:        5 events: 80000019 data: deadbeef12345678  pos:0 ino:40e sdev:10
inotify wd:1 ino:3c4a7 sdev:fe00000 mask:300 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:a7c4030000000000
clockid: 1
ticks: 0
settime flags: 00
it_value: (2999, 973940149)
it_interval: (1, 500)
eventfd-count:               2a
' >"$corpus/fdinfo-kinds"
printf 'f%s' 'ID: 2
signal: 12/0000001122334455
notify: signal/tid.29242
ClockID: 1
' >"$corpus/timers-one"
