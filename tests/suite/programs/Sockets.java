import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;

/**
 * Sockets.java BLOCKS: two servers, one with a thread for each connection and one with a selector, and threads that are their
 * clients, until the file $VICTIM_GO is there. So many blocks at most are on their way over a connection. What is sent must come
 * back.
 */
public class Sockets {
    private static final int CLIENTS = 6;
    private static final Path STOP = Path.of(System.getenv("VICTIM_GO"));

    public static void main(String[] arguments) throws Exception {
        int blocks = Integer.parseInt(arguments[0]);
        ExecutorService threads = Executors.newCachedThreadPool(task -> {
            Thread thread = new Thread(task);
            thread.setDaemon(true);
            return thread;
        });
        InetAddress here = InetAddress.getLoopbackAddress();
        ServerSocket blocking = new ServerSocket(0, 50, here);
        threads.submit(() -> {
            while (true) {
                Socket accepted = blocking.accept();
                threads.submit(() -> answer(accepted));
            }
        });
        ServerSocketChannel selected = ServerSocketChannel.open();
        selected.bind(new InetSocketAddress(here, 0));
        threads.submit(() -> select(selected));
        int[] ports = {blocking.getLocalPort(), selected.socket().getLocalPort()};
        List<Future<Long>> clients = new ArrayList<>();
        for (int number = 0; number < CLIENTS; number++) {
            int own = number;
            clients.add(threads.submit(() -> converse(new Socket(here, ports[own % 2]), own, new Semaphore(blocks))));
        }
        for (Future<Long> client : clients) {
            if (client.get() == 0) {
                throw new IllegalStateException("a client did nothing");
            }
        }
        System.out.println("the answers are right");
        System.out.println("FINAL");
    }

    private static Void answer(Socket socket) throws Exception {
        try (socket) {
            DataInputStream in = new DataInputStream(socket.getInputStream());
            DataOutputStream out = new DataOutputStream(socket.getOutputStream());
            byte[] some = new byte[5000];
            int length;
            while ((length = in.read(some)) > 0) {
                out.write(some, 0, length);
            }
        }
        return null;
    }

    /** Sends back what comes, without ever waiting in anything but the selector. */
    private static Void select(ServerSocketChannel server) throws Exception {
        Selector selector = Selector.open();
        server.configureBlocking(false);
        server.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel accepted = server.accept();
                    accepted.configureBlocking(false);
                    accepted.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(3000));
                    continue;
                }
                SocketChannel channel = (SocketChannel) key.channel();
                ByteBuffer waiting = (ByteBuffer) key.attachment();
                if (key.isReadable() && channel.read(waiting) < 0) {
                    channel.close();
                    continue;
                }
                waiting.flip();
                channel.write(waiting);
                waiting.compact();
                int wanted = waiting.position() > 0 ? SelectionKey.OP_WRITE : 0;
                key.interestOps(wanted | (waiting.hasRemaining() ? SelectionKey.OP_READ : 0));
            }
            selector.selectedKeys().clear();
        }
    }

    /** One thread writes, this one reads and compares. */
    private static long converse(Socket socket, int number, Semaphore room) throws Exception {
        SplittableRandom lengths = new SplittableRandom(number);
        SplittableRandom wanted = new SplittableRandom(number + 1000);
        DataInputStream in = new DataInputStream(socket.getInputStream());
        DataOutputStream out = new DataOutputStream(socket.getOutputStream());
        Thread writer = new Thread(() -> {
            SplittableRandom random = new SplittableRandom(number + 1000);
            try {
                for (long round = 0; !Files.exists(STOP); round++) {
                    byte[] block = new byte[1 + lengths.nextInt(60000)];
                    random.nextBytes(block);
                    room.acquire();
                    out.writeInt(block.length);
                    out.write(block);
                    if (round % 50 == 49) {
                        System.out.println("TRAFFIC");
                    }
                }
                socket.shutdownOutput();
            } catch (Exception failure) {
                failure.printStackTrace();
                System.exit(1);
            }
        });
        writer.start();
        long blocks = 0;
        while (true) {
            int length;
            try {
                length = in.readInt();
            } catch (EOFException end) {
                break;
            }
            byte[] block = in.readNBytes(length);
            byte[] sent = new byte[length];
            wanted.nextBytes(sent);
            if (!Arrays.equals(block, sent)) {
                throw new IllegalStateException("block " + blocks + " of client " + number + " differs");
            }
            room.release();
            blocks++;
        }
        writer.join();
        if (!Files.exists(STOP)) {
            throw new IllegalStateException("the connection of client " + number + " ended");
        }
        return blocks;
    }
}
