#!/own/busybox sh
# The first process of the other machine. A line that begins with "@" is read by the test; all others are for people.
export PATH=/own
/own/busybox --install -s /own
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run /jobs
mount -t devpts pts /dev/pts
mount -t tmpfs run /run
hostname another
# In any order: one that lacks another is tried again.
for round in 1 2 3 4 5 6; do
	for module in /modules/*.ko; do insmod "$module" 2> /dev/null; done
done
DISK=/dev/vda
SWAP=/dev/vdb

passed() { echo "@ passed $1"; }
failed() {
	echo "@ failed $1: $2"
	sed 's/^/| /' "/jobs/$1.log"
}

# await FILE: a victim has said READY, or how it ended.
await() {
	round=0
	while [ $round -lt 300 ]; do
		grep -qE "$2|^WRONG|^BROKEN|^SKIP" "$1" && return 0
		sleep 0.2
		round=$((round + 1))
	done
	return 1
}

# as USER COMMAND…, by the number of the user, without other groups
as() {
	user=$1
	shift
	/real/setpriv --reuid "$user" --regid "$user" --clear-groups -- "$@"
}

# goes_on NAME OUT GO: a victim that was restarted finds everything as it was.
goes_on() {
	touch "$3"
	if await "$2" '^OK' && grep -q '^OK' "$2"; then passed "$1"; else failed "$1" "$(tail -n 1 "$2")"; fi
}

# restored USER NAME DIRECTORY: an image that was made on the machine of the test.
restored() {
	if as "$1" cryo restart --detach --clamp-limits --name "$2-again" "$3/$2.cryo" > "/jobs/$2.log" 2>&1; then
		goes_on "$2" "$3/$2.out" "$3/$2.go"
	else
		failed "$2" "cannot be restarted"
	fi
}

# saved USER NAME TARGET IMAGE: ends the job.
saved() {
	# The archive on the disk knows whole seconds.
	touch -d "@$(date +%s)" /jobs/*.out /jobs/*.err DIRECTORY/*.out DIRECTORY/*.err 2> /dev/null
	as "$1" cryo checkpoint "$3" -o "$4" --kill >> "/jobs/$2.log" 2>&1 || { failed "$2" "cannot be saved"; return 1; }
}

# here USER PROGRAM: a victim that lives on this machine alone.
here() {
	name=${2##*/}
	go=/jobs/$name.go out=/jobs/$name.out
	touch "$out" "/jobs/$name.err" "/jobs/$name.log"
	chown "$1:$1" "$out" "/jobs/$name.err" "/jobs/$name.log"
	as "$1" env "VICTIM_GO=$go" cryo run --name "$name" -- "$2" > "$out" 2> "/jobs/$name.err" < /dev/null &
	await "$out" '^READY' || { failed "$name" "is never ready"; return; }
	if grep -q '^SKIP' "$out"; then
		echo "@ skipped $name: $(cat "$out")"
		return
	fi
	saved "$1" "$name" "$name" "/jobs/$name.cryo" || return
	if as "$1" cryo restart --detach --name "$name-again" "/jobs/$name.cryo" >> "/jobs/$name.log" 2>&1; then
		goes_on "$name" "$out" "$go"
	else
		failed "$name" "cannot be restarted"
	fi
}

# suspended: in a cgroup that accounts for its memory a job gives back what its processes share since a fork, too.
suspended() {
	go=/jobs/suspended.go out=/jobs/suspended.out log=/jobs/suspended.log
	mkdir /cgroup
	mount -t cgroup2 cgroup2 /cgroup
	if ! echo +memory > /cgroup/cgroup.subtree_control || ! mkswap $SWAP > $log || ! swapon $SWAP; then
		echo "@ skipped suspended: no memory controller, or no swap space"
		return
	fi
	mkdir /cgroup/job
	VICTIM_GO=$go sh -c 'echo $$ > /cgroup/job/cgroup.procs; exec /others/stays inside' > $out 2>> $log < /dev/null &
	job=$!
	await $out '^READY' || { failed suspended "is never ready"; return; }
	cryo suspend $job --json > /jobs/suspended.json 2>> $log || { failed suspended "cannot be suspended"; return; }
	cat /jobs/suspended.json
	if grep -q '"why":"shared"' /jobs/suspended.json; then
		failed suspended "what its processes share stays"
		return
	fi
	cryo resume $job >> $log 2>&1 || { failed suspended "cannot be resumed"; return; }
	goes_on suspended $out $go
}

if [ "$(dd if=$DISK bs=1 skip=257 count=5 2> /dev/null)" = ustar ]; then
	# The second start.
	tar -x -f $DISK -C /
	cat /proc/uptime
	restored 0 clock_goes_on DIRECTORY
else
	uname -r
	chmod 1777 /jobs
	if cryo doctor > /jobs/doctor.log 2>&1; then passed doctor; else failed doctor "something is missing"; fi
	cryo check DIRECTORY/host.cryo > /jobs/features.log 2>&1
	if [ -z "FEATURE" ] || grep -q "this processor lacks.*FEATURE" /jobs/features.log; then
		passed features
	else
		failed features "what the processor lacks is not named"
	fi
	restored 0 mem_vdso DIRECTORY
	restored USER vdso_of_user USERS
	if cryo restart --detach --name clocks DIRECTORY/clock_goes_on.cryo > /jobs/clock_goes_on.log 2>&1; then
		sleep 1
		saved 0 clock_goes_on clocks DIRECTORY/clock_goes_on.cryo && passed saved
	else
		failed clock_goes_on "cannot be restarted"
	fi
	for victim in /victims/*; do here 0 "$victim"; done
	for victim in /theirs/*; do here USER "$victim"; done
	suspended
	rm -f DIRECTORY/machine.cpio DIRECTORY/disk DIRECTORY/swap
	tar -c -f $DISK -C / DIRECTORY 2> /jobs/moved.log && passed moved
	sync
fi
echo "@ end"
poweroff -f
