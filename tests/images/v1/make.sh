#!/bin/sh
# make.sh CRYO: compiles the programs and makes their images, as root, in the present directory. To be run once for each
# format version; what it made is kept and never made again.
set -eu
cryo=$(realpath "$1")
here=$(realpath .)
umask 022
# Descriptors that the caller leaks must not get into an image.
launch=$(mktemp /tmp/launch-XXXXXX)
gcc -O1 -o "$launch" ../../suite/programs/launch.c
chmod 755 "$launch"
trap 'rm -f "$launch"' EXIT

compile() {
	gcc -Os -Wall -Wextra -Werror -static -nostdlib -ffreestanding -fno-pie -no-pie -fno-stack-protector \
		-fno-tree-loop-distribute-patterns -fno-asynchronous-unwind-tables -fcf-protection=none -s \
		-Wl,--build-id=none -o "$1" "$1.c"
}

# make_image NAME USER OPTIONS: starts NAME in the directory that its image is about, and saves it as NAME.cryo and NAME.json.
make_image() {
	name=$1 user=$2 place=/tmp/cryonaut-golden-v1-$1
	shift 2
	compile "$name"
	mkdir -m 0700 "$place"
	cp "$name" "$place/"
	touch "$place/out"
	echo carried > "$place/note"
	touch -d '2026-01-01 00:00:00 UTC' "$place/$name" "$place/note"
	chown -R "$user:$user" "$place"
	as="setpriv --reuid=$user --regid=$user --clear-groups"
	(
		cd "$place"
		ulimit -n 256; ulimit -l 64; ulimit -c 0
		exec env -i ${variables:-} $as "$launch" session "./$name" < /dev/null >> out 2>> out
	) &
	sleep 1
	[ "$(cat "$place/out")" = READY ]
	pid=$(pgrep -o -f "^./$name\$")
	$as --inh-caps=-all "$cryo" checkpoint "$pid" -o "$place/$name.cryo" --kill "$@"
	"$cryo" show --json "$place/$name.cryo" > "$here/$name.json"
	cp "$place/$name.cryo" "$here/"
	rm -r "$place"
}

make_image alone 0
make_image pair 4242
# It uses what every processor has, so it can be restored on every one (cryo run --isa baseline says so by this variable).
variables=CRYO_ISA=baseline
make_image carried 4242 --embed='*/carried' --embed='*/note'
chmod 644 ./*.cryo
