// websocket.js: a server of websockets (RFC 6455) that is a cluster, and clients in processes of their own, until the file
// $VICTIM_GO is there. Messages of all sizes, in fragments too, with pings between them, come back as they went; a socket that a
// worker gets was accepted by the primary and handed on.
'use strict';
const cluster = require('cluster');
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const { fork } = require('child_process');

const WORKERS = 2, CLIENTS = 3, SOCKETS = 5;
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const [TEXT, BINARY, CONTINUED, CLOSE, PING, PONG] = [1, 2, 0, 8, 9, 10];
const going = () => !fs.existsSync(process.env.VICTIM_GO);

function accepted(key) {
    return crypto.createHash('sha1').update(key + GUID).digest('base64');
}

function frame(code, payload, { last = true, mask }) {
    const head = [code | (last ? 0x80 : 0)];
    const masked = mask ? 0x80 : 0;
    if (payload.length < 126) {
        head.push(masked | payload.length);
    } else if (payload.length < 65536) {
        head.push(masked | 126, payload.length >> 8, payload.length & 0xff);
    } else {
        const length = Buffer.alloc(8);
        length.writeBigUInt64BE(BigInt(payload.length));
        head.push(masked | 127, ...length);
    }
    if (!mask) {
        return Buffer.concat([Buffer.from(head), payload]);
    }
    const key = crypto.randomBytes(4);
    return Buffer.concat([Buffer.from(head), key, payload.map((byte, index) => byte ^ key[index & 3])]);
}

// One end of a websocket over a stream: calls `told(code, message)` for each whole message.
class End {
    constructor(stream, rest, { mask, told }) {
        Object.assign(this, { stream, mask, told, waiting: rest, parts: [], code: 0 });
        stream.on('data', data => {
            this.waiting = Buffer.concat([this.waiting, data]);
            while (this.take()) { /* There may be more. */ }
        });
        stream.setNoDelay(true);
    }

    take() {
        const all = this.waiting;
        if (all.length < 2) {
            return false;
        }
        let length = all[1] & 0x7f, at = 2;
        if (length === 126 && all.length >= 4) {
            [length, at] = [all.readUInt16BE(2), 4];
        } else if (length === 127 && all.length >= 10) {
            [length, at] = [Number(all.readBigUInt64BE(2)), 10];
        } else if (length > 125) {
            return false;
        }
        const key = all[1] & 0x80 ? all.subarray(at, at + 4) : null;
        at += key ? 4 : 0;
        if (all.length < at + length) {
            return false;
        }
        let payload = all.subarray(at, at + length);
        if (key) {
            payload = payload.map((byte, index) => byte ^ key[index & 3]);
        }
        this.waiting = Buffer.from(all.subarray(at + length));
        this.frame(all[0] & 0x0f, Boolean(all[0] & 0x80), payload);
        return true;
    }

    frame(code, last, payload) {
        if (code >= CLOSE) {
            this.told(code, payload);
            return;
        }
        this.code = code === CONTINUED ? this.code : code;
        this.parts.push(payload);
        if (last) {
            const whole = Buffer.concat(this.parts);
            this.parts = [];
            this.told(this.code, whole);
        }
    }

    send(code, payload, pieces = 1) {
        const size = Math.ceil(payload.length / pieces);
        for (let piece = 0; piece < pieces; piece++) {
            const part = payload.subarray(piece * size, (piece + 1) * size);
            this.stream.write(frame(piece ? CONTINUED : code, part, { last: piece === pieces - 1, mask: this.mask }));
        }
    }
}

function serve() {
    const server = http.createServer((request, response) => response.end('not a websocket'));
    server.on('upgrade', (request, stream, head) => {
        stream.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
            `Sec-WebSocket-Accept: ${accepted(request.headers['sec-websocket-key'])}\r\n\r\n`);
        const end = new End(stream, head, {
            mask: false,
            told: (code, message) => {
                if (code === PING) {
                    end.send(PONG, message);
                } else if (code === CLOSE) {
                    end.send(CLOSE, message);
                    stream.end();
                } else {
                    end.send(code, message, 2);
                }
            },
        });
    });
    server.listen(0, '127.0.0.1');
}

function converse(port, number) {
    return new Promise((resolve, reject) => {
        const key = crypto.randomBytes(16).toString('base64');
        const request = http.request({
            port, host: '127.0.0.1',
            headers: { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Key': key, 'Sec-WebSocket-Version': 13 },
        });
        request.on('error', reject);
        request.on('upgrade', (response, stream, head) => {
            let rounds = 0, message, pinged;
            const fail = text => reject(new Error(`client ${number} in round ${rounds}: ${text}`));
            const next = () => {
                rounds += 1;
                if (!going()) {
                    end.send(CLOSE, Buffer.alloc(0));
                    return;
                }
                message = crypto.randomBytes((number * 7919 + rounds * 104729) % 70000);
                pinged = Buffer.from(`ping ${rounds}`);
                end.send(BINARY, message, 1 + rounds % 3);
                end.send(PING, pinged);
                if (rounds % 5 === 0) {
                    console.log('TRAFFIC');
                }
            };
            let returned = false;
            const end = new End(stream, head, {
                mask: true,
                told: (code, got) => {
                    if (code === BINARY && !returned && got.equals(message)) {
                        returned = true;
                    } else if (code === PONG && returned && got.equals(pinged)) {
                        returned = false;
                        next();
                    } else if (code === CLOSE && !going()) {
                        stream.end();
                        resolve(rounds);
                    } else {
                        fail(`got ${got.length} bytes of kind ${code}`);
                    }
                },
            });
            stream.on('error', reject);
            stream.on('close', () => fail('the connection is closed'));
            if (response.headers['sec-websocket-accept'] !== accepted(key)) {
                fail('the server does not know the protocol');
            }
            next();
        });
        request.end();
    });
}

async function talk(port, number) {
    const all = Array.from({ length: SOCKETS }, (_, index) => converse(port, number * SOCKETS + index));
    const rounds = await Promise.all(all);
    process.exit(rounds.every(count => count > 1) ? 0 : 1);
}

async function main() {
    const ports = [];
    for (let worker = 0; worker < WORKERS; worker++) {
        cluster.fork();
    }
    await new Promise(resolve => cluster.on('listening', (worker, { port }) => ports.push(port) === WORKERS && resolve()));
    const clients = Array.from({ length: CLIENTS }, (_, number) => fork(__filename, ['client', ports[0], number]));
    const statuses = await Promise.all(clients.map(client => new Promise(resolve => client.on('exit', resolve))));
    if (statuses.some(status => status !== 0)) {
        console.log('clients ended with', statuses);
        process.exit(1);
    }
    await new Promise(resolve => cluster.disconnect(resolve));
    console.log('the messages are right');
    console.log('FINAL');
}

const [role, port, number] = process.argv.slice(2);
if (cluster.isWorker) {
    serve();
} else if (role === 'client') {
    talk(Number(port), Number(number));
} else {
    main();
}
