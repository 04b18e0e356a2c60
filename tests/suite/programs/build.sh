# build.sh FILES: `make -j3` compiles and links as many C files as told, and runs the program; twice, from scratch.
set -euo pipefail
files=$1
mkdir -p build
cd build
objects=
for ((number = 0; number < files; number++)); do
    objects+=" part$number.o"
    {
        echo "#include <stdio.h>"
        echo "#include <stdlib.h>"
        echo "#include <string.h>"
        echo "#include <math.h>"
        for ((function = 0; function < 12; function++)); do
            echo "static unsigned work${function}(unsigned value, const unsigned *table) {"
            echo "    for (unsigned index = 0; index < 64; index++)"
            echo "        value = value * ${number}u + table[(value + index * ${function}u) % 64] + (value >> 3);"
            echo "    return value;"
            echo "}"
        done
        echo "unsigned part$number(unsigned value) {"
        echo "    unsigned table[64];"
        echo "    for (unsigned index = 0; index < 64; index++) table[index] = index * value + $number;"
        for ((function = 0; function < 12; function++)); do
            echo "    value = work${function}(value, table);"
        done
        echo "    return value;"
        echo "}"
    } >"part$number.c"
done
{
    echo "#include <stdio.h>"
    for ((number = 0; number < files; number++)); do
        echo "unsigned part$number(unsigned value);"
    done
    echo "int main(void) {"
    echo "    unsigned value = 1;"
    for ((number = 0; number < files; number++)); do
        echo "    value = part$number(value);"
        echo "    printf(\"$number %u\\n\", value);"
    done
    echo "}"
} >main.c
{
    echo "program: main.o$objects"
    printf '\t@gcc -o $@ $^\n'
    echo "%.o: %.c"
    printf '\t@gcc -O2 -c -o $@ $<\n'
    echo "clean:"
    printf '\t@rm -f *.o program\n'
    echo ".PHONY: clean"
} >Makefile
echo READY
for round in 1 2; do
    make -s clean
    make -s -j3
    ./program
    echo "round $round"
done
cp program ../program
