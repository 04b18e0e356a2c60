// workers.js ROUNDS SIZE: three worker threads hash what they get in messages and add to shared memory, while the main
// thread compresses on libuv's threads and waits for timers. The same arguments give the same output.
'use strict';
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const crypto = require('crypto');
const zlib = require('zlib');
const { promisify } = require('util');

function bytes(seed, size) {
    const all = Buffer.alloc(size);
    let state = (seed + 1) >>> 0;
    for (let index = 0; index < size; index++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        all[index] = (state >>> 24) & 0x3f;
    }
    return all;
}

function answer() {
    const shared = new Int32Array(workerData.shared);
    parentPort.on('message', ({ round, size }) => {
        const data = bytes(round * 31 + workerData.number, size);
        const numbers = Float64Array.from(data, (value, index) => Math.sin(value + index)).sort();
        Atomics.add(shared, 0, data.length);
        parentPort.postMessage(
            crypto.createHash('sha256').update(data).update(Buffer.from(numbers.buffer)).digest('hex'));
    });
}

async function main() {
    const [rounds, size] = process.argv.slice(2).map(Number);
    const shared = new SharedArrayBuffer(4);
    const deflate = promisify(zlib.deflate);
    const pause = promisify(setTimeout);
    const workers = [0, 1, 2].map(number => new Worker(__filename, { workerData: { number, shared } }));
    const all = crypto.createHash('sha256');
    let ticks = 0;
    const ticking = setInterval(() => { ticks += 1; }, 3);
    console.log('READY');
    for (let round = 0; round < rounds; round++) {
        const answers = workers.map(worker => new Promise((resolve, reject) => {
            worker.once('message', resolve);
            worker.once('error', reject);
            worker.postMessage({ round, size });
        }));
        const packed = [1, 6, 9].map(level => deflate(bytes(round, size), { level }));
        for (const part of await Promise.all([...answers, ...packed])) {
            all.update(part);
        }
        await pause(2);
        if (round % 10 === 0) {
            console.log(round, all.copy().digest('hex').slice(0, 16));
        }
    }
    clearInterval(ticking);
    await Promise.all(workers.map(worker => worker.terminate()));
    console.log(ticks > 0 ? 'the timer ticked' : 'the timer stood still');
    console.log('added', new Int32Array(shared)[0]);
    console.log('FINAL', all.digest('hex'));
}

if (isMainThread) {
    main();
} else {
    answer();
}
