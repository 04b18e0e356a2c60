// goroutines ROUNDS WORKERS: goroutines work through what they get over channels, allocating much, and pass their digests on
// through pipes, which Go's runtime waits for with epoll; others sleep, so that its threads wait for futexes with and without a
// limit of time. The same arguments give the same output.
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"time"
)

type tree struct {
	left, right *tree
	value       uint64
}

func grow(depth int, state *uint64) *tree {
	*state = *state*6364136223846793005 + 1442695040888963407
	if depth == 0 {
		return &tree{value: *state}
	}
	return &tree{grow(depth-1, state), grow(depth-1, state), *state}
}

func (t *tree) collect(all map[uint64]int, place *int) {
	if t != nil {
		t.left.collect(all, place)
		all[t.value] = *place
		*place++
		t.right.collect(all, place)
	}
}

func digest(seed uint64) [32]byte {
	state, place, all := seed, 0, map[uint64]int{}
	grow(9, &state).collect(all, &place)
	keys := make([]uint64, 0, len(all))
	for key := range all {
		keys = append(keys, key)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i] < keys[j] })
	hash := sha256.New()
	for _, key := range keys {
		binary.Write(hash, binary.LittleEndian, []uint64{key, uint64(all[key])})
	}
	var sum [32]byte
	hash.Sum(sum[:0])
	return sum
}

type worker struct {
	work        chan uint64
	read, write *os.File
}

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func main() {
	rounds, err := strconv.Atoi(os.Args[1])
	must(err)
	count, err := strconv.Atoi(os.Args[2])
	must(err)
	runtime.GOMAXPROCS(2)
	workers := make([]worker, count)
	done := make(chan struct{})
	var asleep sync.WaitGroup
	for index := range workers {
		read, write, err := os.Pipe()
		must(err)
		one := worker{make(chan uint64), read, write}
		workers[index] = one
		go func() {
			for seed := range one.work {
				sum := digest(seed)
				_, err := one.write.Write(sum[:])
				must(err)
			}
			one.write.Close()
		}()
		asleep.Add(1)
		go func() {
			defer asleep.Done()
			for {
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
		}()
	}
	fmt.Println("READY")
	all := sha256.New()
	for round := 0; round < rounds; round++ {
		sums := make([][32]byte, count)
		var arrived sync.WaitGroup
		for index := range workers {
			arrived.Add(1)
			go func(index int) {
				defer arrived.Done()
				_, err := io.ReadFull(workers[index].read, sums[index][:])
				must(err)
			}(index)
			workers[index].work <- uint64(round*count + index)
		}
		arrived.Wait()
		for _, sum := range sums {
			all.Write(sum[:])
		}
		if round%20 == 0 {
			fmt.Printf("%d %x\n", round, all.Sum(nil))
			time.Sleep(3 * time.Millisecond)
		}
	}
	close(done)
	asleep.Wait()
	for _, one := range workers {
		close(one.work)
		_, err := one.read.Read(make([]byte, 1))
		if err != io.EOF {
			must(fmt.Errorf("after the end: %v", err))
		}
	}
	fmt.Printf("%x\n", all.Sum(nil))
}
