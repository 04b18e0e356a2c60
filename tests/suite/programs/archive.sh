# archive.sh FILES: an archive of as many files goes through `tar | xz` with two threads, and back. The same bytes each time.
set -euo pipefail
files=$1
rm -rf tree
mkdir tree
for ((number = 0; number < files; number++)); do
    seq "$number" "$((number * 7 + 11))" "$((number * 40 + 300000))" >"tree/file$number"
done
echo READY
tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX tree |
    xz --threads=2 --block-size=1MiB -4 >result.tar.xz
echo packed
cat tree/* | sha256sum
for round in 1 2 3; do
    xz --decompress --stdout result.tar.xz | tar --extract --to-stdout | sha256sum
done
sha256sum <result.tar.xz | sed 's/^/FINAL /'
